"""Digests: content named by what it is.

OCI image-spec, descriptor.md, "Digests":

    digest                ::= algorithm ":" encoded
    algorithm             ::= algorithm-component (algorithm-separator algorithm-component)*
    algorithm-component   ::= [a-z0-9]+
    algorithm-separator   ::= [+._-]
    encoded               ::= [a-zA-Z0-9=_-]+

and for the registered algorithms, the only ones accepted here: sha256 is followed by exactly
`[a-f0-9]{64}`, sha512 by exactly `[a-f0-9]{128}`.
"""

from __future__ import annotations

import hashlib
import re

from ullage.oci.errors import DigestInvalid, shown

ALGORITHMS = ("sha256", "sha512")

Buffer = bytes | bytearray | memoryview

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}")


class Digest(str):
    """A digest in its only spelling. Made by `parse_digest`, `digest_of` and `Hasher`."""

    __slots__ = ()

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]


def parse_digest(text: str) -> Digest:
    """Read a digest that a client wrote. Raises DigestInvalid, saying what is wrong with it."""
    if _DIGEST.fullmatch(text):
        return Digest(text)
    algorithm, colon, _ = text.partition(":")
    if colon and algorithm not in ALGORITHMS:
        raise _algorithm_unknown(algorithm)
    raise DigestInvalid(
        {"digest": shown(text)},
        f"digest {shown(text)}: expected sha256: and 64, or sha512: and 128, hex digits 0-9a-f",
    )


def digest_of(data: Buffer, algorithm: str = "sha256") -> Digest:
    """The digest of bytes that are all here. Raises DigestInvalid for an unknown algorithm."""
    hasher = Hasher(algorithm)
    hasher.update(data)
    return hasher.digest()


class Hasher:
    """A digest in the making. Raises DigestInvalid for an unknown algorithm.

    The interpreter lock is released while a large piece is hashed.
    """

    __slots__ = ("_hash", "algorithm", "length")

    def __init__(self, algorithm: str = "sha256") -> None:
        if algorithm not in ALGORITHMS:
            raise _algorithm_unknown(algorithm)
        self._hash = hashlib.new(algorithm)
        self.algorithm = algorithm
        # How many bytes were hashed so far.
        self.length = 0

    def update(self, piece: Buffer) -> None:
        self._hash.update(piece)
        self.length += piece.nbytes if isinstance(piece, memoryview) else len(piece)

    def digest(self) -> Digest:
        """The digest of everything so far; more may follow."""
        return Digest(f"{self.algorithm}:{self._hash.hexdigest()}")


def _algorithm_unknown(algorithm: str) -> DigestInvalid:
    return DigestInvalid(
        {"algorithm": shown(algorithm)},
        f"digest algorithm {shown(algorithm)}: expected one of {', '.join(ALGORITHMS)}",
    )
