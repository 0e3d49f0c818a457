"""distribution-spec, "Pulling manifests": the grammars of <name> and <reference>."""

import contextlib
import re
import time
from itertools import chain, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ullage.oci.digest import Digest
from ullage.oci.errors import DigestInvalid, NameInvalid, TagInvalid
from ullage.oci.reference import (
    RepositoryName,
    Tag,
    parse_reference,
    parse_repository_name,
    parse_tag,
)

# Word for word from the spec.
SPEC_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
SPEC_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"


def is_name(text: str) -> bool:
    try:
        return parse_repository_name(text) == text
    except NameInvalid:
        return False


def is_tag(text: str) -> bool:
    try:
        return parse_tag(text) == text
    except TagInvalid:
        return False


@pytest.mark.thorough
def test_our_name_grammar_is_the_specs_for_every_short_text() -> None:
    """All 299,592 texts of up to six characters of an alphabet that has every kind of character."""
    alphabet = "a0._-/AZ"
    texts = chain.from_iterable(product(alphabet, repeat=length) for length in range(7))
    spec = re.compile(SPEC_NAME)
    for text in map("".join, texts):
        assert is_name(text) == bool(spec.fullmatch(text)), text


@given(st.from_regex(SPEC_NAME, fullmatch=True))
@pytest.mark.thorough
def test_every_name_of_the_spec_is_read(text: str) -> None:
    assert is_name(text) == (len(text) <= 255)


@given(st.from_regex(SPEC_TAG, fullmatch=True))
def test_every_tag_of_the_spec_is_read(text: str) -> None:
    assert isinstance(parse_tag(text), Tag)


@given(st.text())
def test_no_text_raises_anything_but_the_error_of_its_grammar(text: str) -> None:
    assert is_name(text) == (len(text) <= 255 and bool(re.fullmatch(SPEC_NAME, text)))
    assert is_tag(text) == bool(re.fullmatch(SPEC_TAG, text))
    with contextlib.suppress(TagInvalid, DigestInvalid):
        assert parse_reference(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a/../b",
        "a//b",
        "/a",
        "a/",
        "a/.b",
        "a.-b",
        "a___b",
        "a__",
        "_uploads",
        "App",
        "a\n",
        "a\x00",
        "a\\b",
        "a%2e%2e%2fb",
        "a:b",
        "a@b",
        "é",
        "\u0430",
        "\u0661",
        "\ud800",
    ],
)
def test_what_is_no_repository_name_is_refused(text: str) -> None:
    """S24."""
    with pytest.raises(NameInvalid, match="expected components"):
        parse_repository_name(text)


@pytest.mark.parametrize("text", ["a", "a.b_c__d---e", "blobs/uploads", "manifests/tags/referrers"])
def test_words_of_the_api_are_names_like_others(text: str) -> None:
    assert isinstance(parse_repository_name(text), RepositoryName)


def test_a_name_has_a_greatest_length() -> None:
    assert is_name("a" * 255)
    with pytest.raises(NameInvalid, match="256 characters: expected at most 255"):
        parse_repository_name("a" * 256)
    assert parse_repository_name("a" * 300, max_length=300)
    with pytest.raises(NameInvalid, match="expected at most 3"):
        parse_repository_name("abcd", max_length=3)


@pytest.mark.parametrize(
    "text", ["a" * 100_000 + "!", "a-" * 50_000, "a_" * 50_000 + "!", "/a" * 50_000, "-" * 100_000]
)
def test_no_name_makes_the_matcher_search_for_long(text: str) -> None:
    """A pattern that backtracks would need more than the age of the universe for these."""
    started = time.perf_counter()
    with pytest.raises(NameInvalid):
        parse_repository_name(text, max_length=len(text))
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "text", ["", ".a", "-a", "a" * 129, "a b", "a/b", "a\n", "a+b", "é", "\u0661", "\ud800"]
)
def test_what_is_no_tag_is_refused(text: str) -> None:
    """S25."""
    with pytest.raises(TagInvalid, match="expected 1 to 128 characters"):
        parse_tag(text)


def test_a_reference_with_a_colon_is_a_digest_and_any_other_a_tag() -> None:
    assert isinstance(parse_reference("latest"), Tag)
    assert isinstance(parse_reference("a" * 128), Tag)
    assert isinstance(parse_reference("sha256:" + "0" * 64), Digest)
    with pytest.raises(DigestInvalid):
        parse_reference("v1:2")
    with pytest.raises(TagInvalid):
        parse_reference("sha256@" + "0" * 64)
