"""Bytes by storage key: the seam between the registry and whatever keeps its bytes.

A store knows nothing of repositories, tags or users; what a key means is recorded elsewhere.
Every object goes one way: `create` -> `append` -> `commit` -> `delete`. Keys are made by the
server and never used twice, so an operation that runs late can never meet another object's bytes.

Nothing here assumes a local path: an object store implements `append` as the parts of a multipart
upload and `commit` as its completion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

_KEY = re.compile(r"[0-9a-f]{32}")


class KeyUnknown(LookupError):
    """The store has no such object, or none in the state the operation needs."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object under the storage key {key}")
        self.key = key


class StoreFull(OSError):
    """No room, inode or quota left. What was stored before stays, and `delete` still works."""


class StoreUnusable(OSError):
    """The store cannot be opened; the message tells the operator what to change."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One entry of a listing.

    `key` is the storage key; an entry that no key reaches shows its place in the store instead
    (`blobs/ab/notes.txt`), which is never a valid key. `size` is in bytes, `modified` in seconds
    since the epoch. `problem` says in words what is wrong with the entry, None means nothing is.
    """

    key: str
    size: int
    modified: float
    committed: bool
    problem: str | None = None


class Closing(Protocol):
    """Closed at the end of the `with` block that it opens."""

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Append(Closing, Protocol):
    """An open appendable object: bytes go to its end. One thread at a time."""

    @property
    def offset(self) -> int:
        """Bytes in the object, and so where the next write goes; exact after an error too."""

    def write(self, data: Buffer) -> None:
        """Append all of `data`. After StoreFull or an OSError a part of it may have arrived.

        It may be an error of bytes that were written before. Readers see all of it after `sync`.
        """

    def sync(self) -> None:
        """Make the object's name and its first `offset` bytes durable.

        An error is final: the object can no longer be trusted and is to be deleted.
        """

    def commit(self) -> None:
        """Close the object for good and make it durable, as BlobStore.commit does.

        Only `close` may follow. Raises KeyUnknown when the object is gone.
        """

    def close(self) -> None:
        """Let go of the object. Promises nothing about bytes that were not synced."""


class Reader(Closing, Protocol):
    """An open object. It stays readable after the object is deleted. Threads may share it."""

    @property
    def size(self) -> int:
        """Bytes in the object when it was opened."""

    def read_at(self, offset: int, n: int) -> bytes:
        """The `n` bytes from `offset` on; fewer only where the object ends."""

    def read_now(self, offset: int, n: int) -> bytes | None:
        """Up to `n` bytes from `offset` on that are in memory; None if a disk must be waited for.

        Empty only where the object ends, and for no `n`.
        """


class BlobStore(Protocol):
    """Bytes by storage key; every method may be called from any thread.

    A key is 32 lower-case hex digits; every method raises ValueError for anything else. Beside the
    errors named below: StoreFull where bytes or names are added, and OSError when storage fails.
    """

    def create(self, key: str) -> None:
        """Make an empty, appendable object. Its name is durable after `Append.sync`.

        Raises FileExistsError when the key is in use, appendable or committed.
        """

    def begin(self, key: str) -> Append:
        """As `create` and then `append`, for a key under which nothing was ever stored.

        Only an appendable object of that key is noticed: FileExistsError.
        """

    def append(self, key: str, offset: int) -> Append:
        """Continue an appendable object at `offset`; whatever lies beyond is dropped.

        Only one Append of an object can be open, in any process: a worker that was thought dead
        must not be able to write into bytes that another one has hashed since.
        Raises KeyUnknown (also for a committed object), OSError(EINVAL) when the object is shorter
        than `offset`, and OSError(EBUSY) while another Append is open.
        """

    def commit(self, key: str) -> int:
        """Close an object for good and make it durable; returns its size in bytes.

        Idempotent: on a committed object it makes sure of the durability and returns the size.
        Raises KeyUnknown, and OSError(EBUSY) while an Append is open.
        """

    def open(self, key: str) -> Reader:
        """Open an object for reading, committed or still appendable. Raises KeyUnknown."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, committed or appendable; missing ones are fine.

        Durable when it returns. An error of one key does not keep the others: it is raised after
        they are gone, and the batch can be deleted again.
        """

    def list(self) -> Iterator[StoredObject]:
        """Everything in the store, in no order and in bounded memory, oddities as `problem`.

        An object that stays in place during the listing appears exactly once. One that is
        committed meanwhile may appear twice, never not at all.
        """

    def size(self, key: str) -> int | None:
        """Bytes of an object, committed or appendable; None when there is none."""

    def free_bytes(self) -> int | None:
        """Room left, in bytes; None when that is not known or not limited."""

    def read_label(self) -> str | None:
        """The line of text that lies beside the objects; None where none was ever written."""

    def write_label(self, text: str) -> None:
        """Replace the label, durably: a reader sees the old one or the new one, never a part."""


def is_key(text: str) -> bool:
    """Whether `text` is a storage key: 32 lower-case hex digits."""
    return _KEY.fullmatch(text) is not None


def validate_key(key: str) -> str:
    """Return `key` unchanged if it is a storage key, else raise ValueError.

    Keys become file names, so this check is what keeps `../x` from ever reaching a disk.
    """
    if not is_key(key):
        raise ValueError(f"{key!r} is not a storage key: expected 32 lower-case hex digits")
    return key
