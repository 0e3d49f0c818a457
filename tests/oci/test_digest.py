"""OCI image-spec, descriptor.md, "Digests"."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ullage.oci.digest import ALGORITHMS, Digest, Hasher, digest_of, parse_digest
from ullage.oci.errors import DigestInvalid

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_the_registered_algorithms_are_read(text: str) -> None:
    digest = parse_digest(text)
    assert isinstance(digest, Digest)
    assert digest == text
    assert f"{digest.algorithm}:{digest.hex}" == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 128,
        "sha512:" + "a" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "SHA256:" + "a" * 64,
        "sha256:../../" + "a" * 58,
        "sha256:" + "\u0661" * 64,
        SHA256 + "\n",
        " " + SHA256,
        SHA256 + "\x00",
        SHA256.replace(":", "%3a"),
        "sha256::" + "a" * 63,
        "sha256:\ud800" + "a" * 63,
    ],
)
def test_anything_but_the_exact_spelling_is_refused(text: str) -> None:
    """S26: the number of lower-case hex digits the algorithm has, and nothing around them."""
    with pytest.raises(DigestInvalid, match="expected"):
        parse_digest(text)


@pytest.mark.parametrize("algorithm", ["md5", "sha384", "blake3", "sha256+b64", "", "SHA512"])
def test_an_unknown_algorithm_is_named_as_the_reason(algorithm: str) -> None:
    with pytest.raises(DigestInvalid, match=r"algorithm .* expected one of sha256, sha512"):
        parse_digest(f"{algorithm}:{'a' * 64}")
    with pytest.raises(DigestInvalid, match="expected one of sha256, sha512"):
        Hasher(algorithm)


@given(st.text())
@pytest.mark.thorough
def test_no_text_raises_anything_but_digest_invalid(text: str) -> None:
    with contextlib.suppress(DigestInvalid):
        assert parse_digest(text) == text


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(pieces=st.lists(st.binary(max_size=5000), max_size=5))
def test_hashing_in_pieces_gives_the_digest_of_the_whole(
    algorithm: str, pieces: list[bytes]
) -> None:
    hasher = Hasher(algorithm)
    for piece in pieces:
        hasher.update(memoryview(piece))
    whole = b"".join(pieces)
    assert hasher.digest() == digest_of(bytearray(whole), algorithm)
    assert hasher.digest() == f"{algorithm}:{hashlib.new(algorithm, whole).hexdigest()}"
    assert parse_digest(hasher.digest()) == hasher.digest()
    assert (hasher.length, hasher.algorithm) == (len(whole), algorithm)


def test_length_counts_bytes_whatever_the_items_of_a_buffer_are() -> None:
    hasher = Hasher("sha256")
    hasher.update(memoryview(bytes(16)).cast("Q"))
    assert hasher.length == 16


def test_the_digest_of_nothing() -> None:
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest_of(b"") == empty
