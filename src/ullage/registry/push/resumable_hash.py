"""Digests in the making that can be saved, and go on in another process.

hashlib cannot save what it has come to. OpenSSL's `SHA256_CTX` and `SHA512_CTX`, which it hashes
with, are public structures without a pointer in them: their bytes are all there is to save. They
are of libcrypto's own layout (`openssl/sha.h`), the same on all machines of one byte order.

What the library makes is compared with hashlib before it is used for the first time. Where it is
not there, or differs, hashlib serves: what was hashed is then not saved, and the stored bytes are
read once more.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import logging
import struct
import sys
from dataclasses import dataclass
from typing import Any

from ullage.oci.digest import Buffer, Digest, Hasher

log = logging.getLogger(__name__)

# Where it is if Python's own hashlib does not say so: OpenSSL 3, and 1.1.
_LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1")
# Shorter pieces are hashed with the interpreter lock held: handing it over costs more (hashlib.h).
_RELEASE_FROM_BYTES = 2048


@dataclass(frozen=True, slots=True)
class _Context:
    """How `SHA256_CTX` or `SHA512_CTX` looks, and what works on it."""

    # The chaining value, the bits so far (low, high), a block's first bytes, how many those are,
    # how many the digest has.
    layout: struct.Struct
    block_bytes: int
    word_bits: int
    digest_bytes: int
    init: Any
    update: Any
    update_unlocked: Any
    final: Any


class ResumableHasher(Hasher):
    """As Hasher, and can be saved. Made by `begin_hash` and `restore_hash`."""

    __slots__ = ("_bytes", "_context")

    def __init__(self, algorithm: str, context: _Context) -> None:
        self.algorithm = algorithm
        self.length = 0
        self._context = context
        self._bytes = ctypes.create_string_buffer(context.layout.size)
        context.init(self._bytes)

    def update(self, piece: Buffer) -> None:
        n = piece.nbytes if isinstance(piece, memoryview) else len(piece)
        context = self._context
        update = context.update if n < _RELEASE_FROM_BYTES else context.update_unlocked
        update(self._bytes, piece if isinstance(piece, bytes) else _as_argument(piece, n), n)
        self.length += n

    def digest(self) -> Digest:
        context = self._context
        copy = type(self._bytes).from_buffer_copy(self._bytes)
        found = ctypes.create_string_buffer(context.digest_bytes)
        context.final(found, copy)
        return Digest(f"{self.algorithm}:{found.raw.hex()}")

    def save(self) -> bytes:
        """112 bytes for sha256, 216 for sha512."""
        return self._bytes.raw

    def load(self, saved: bytes) -> bool:
        """Go on from what was saved; False if that cannot be."""
        context = self._context
        if len(saved) != context.layout.size:
            return False
        _, low, high, _, in_block, digest_bytes = context.layout.unpack(saved)
        bits = low | high << context.word_bits
        # The library believes what it finds there: a length that is wrong would lead it astray.
        if in_block != bits // 8 % context.block_bytes or digest_bytes != context.digest_bytes:
            return False
        ctypes.memmove(self._bytes, saved, len(saved))
        self.length = bits // 8
        return True


def begin_hash(algorithm: str) -> Hasher:
    """A hasher that can be saved, where there is one. Raises DigestInvalid as Hasher does."""
    context = _contexts().get(algorithm)
    return ResumableHasher(algorithm, context) if context is not None else Hasher(algorithm)


def saved_hash(hasher: Hasher | None) -> bytes | None:
    """What `restore_hash` takes; None if this hasher cannot be saved."""
    return hasher.save() if isinstance(hasher, ResumableHasher) else None


def restore_hash(algorithm: str, saved: bytes | None, length: int) -> Hasher | None:
    """The hasher that has seen just the `length` bytes; None if what was saved is not of those."""
    hasher = begin_hash(algorithm)
    if saved is None or not isinstance(hasher, ResumableHasher):
        return None
    return hasher if hasher.load(saved) and hasher.length == length else None


def _as_argument(piece: Buffer, n: int) -> Any:
    if isinstance(piece, memoryview) and (piece.readonly or not piece.contiguous):
        return piece.tobytes()
    return (ctypes.c_char * n).from_buffer(piece)


# --- the library ----------------------------------------------------------------------------------


@functools.cache
def _contexts() -> dict[str, _Context]:
    """By algorithm; none where the library is missing or does not do what hashlib does."""
    try:
        contexts = _load()
    except (OSError, AttributeError) as error:
        log.info("uploads that change processes are read again to hash them: %s", error)
        return {}
    if not _agrees_with_hashlib(contexts):
        log.warning("uploads that change processes are read again: libcrypto hashes otherwise")
        return {}
    return contexts


def _load() -> dict[str, _Context]:
    """Raises OSError and AttributeError where no library has the functions."""
    path = _library()
    locked, unlocked = ctypes.PyDLL(path), ctypes.CDLL(path)
    return {
        "sha256": _bind("SHA256", struct.Struct("=32sII64sII"), 32, locked, unlocked),
        "sha512": _bind("SHA512", struct.Struct("=64sQQ128sII"), 64, locked, unlocked),
    }


def _library() -> str:
    """What leads to libcrypto: Python's own module if it is bound to one, or the system's."""
    own = getattr(sys.modules.get("_hashlib"), "__file__", None)
    for path in (own, *_LIBRARIES):
        try:
            if path is not None and hasattr(ctypes.CDLL(path), "SHA256_Init"):
                return str(path)
        except OSError:
            continue
    raise OSError("no libcrypto with SHA256_Init was found")


def _bind(
    name: str, layout: struct.Struct, digest_bytes: int, locked: Any, unlocked: Any
) -> _Context:
    pointer = ctypes.c_void_p
    init, final = getattr(locked, f"{name}_Init"), getattr(locked, f"{name}_Final")
    init.argtypes, final.argtypes = [pointer], [pointer, pointer]
    update, update_unlocked = (getattr(library, f"{name}_Update") for library in (locked, unlocked))
    update.argtypes = update_unlocked.argtypes = [pointer, pointer, ctypes.c_size_t]
    # A block is twice as long as the digest, and a word has as many bits as that has bytes.
    block_bytes, word_bits = 2 * digest_bytes, digest_bytes
    return _Context(
        layout, block_bytes, word_bits, digest_bytes, init, update, update_unlocked, final
    )


def _agrees_with_hashlib(contexts: dict[str, _Context]) -> bool:
    """Whether what it makes is right, also when it was saved at odd offsets and goes on."""
    data = bytes(n * 167 % 251 for n in range(5003))
    cuts = (0, 1, 55, 63, 64, 127, 129, 1021, 4099, len(data))
    for algorithm, context in contexts.items():
        hasher = ResumableHasher(algorithm, context)
        for start, end in itertools.pairwise(cuts):
            hasher.update(data[start:end])
            if hasher.digest().hex != hashlib.new(algorithm, data[:end]).hexdigest():
                return False
            saved, hasher = hasher.save(), ResumableHasher(algorithm, context)
            if not hasher.load(saved) or hasher.length != end:
                return False
    return True
