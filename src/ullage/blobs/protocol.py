"""Bytes by storage key: the seam between the registry and whatever keeps its bytes.

A store knows nothing of repositories, tags or users; what a key means is recorded elsewhere.
Every object goes one way: `begin` -> `Append.commit` -> `delete`, with any number of
`Append.sync` -> `resume` in between. Keys are made by the server and never used twice, so an
operation that runs late can never meet another object's bytes.

Nothing here assumes a local path: an object store implements an Append as the parts of a multipart
upload and `commit` as its completion. Nor does anything assume that one process serves an object:
what the next one needs is the state that `Append.sync` returns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

# Into so many a listing can be cut: by the first two digits of the keys.
SHARD_COUNT = 256

_KEY = re.compile(r"[0-9a-f]{32}")


class KeyUnknown(LookupError):
    """The store has no such object, or none in the state the operation needs."""

    def __init__(self, key: str) -> None:
        super().__init__(f"no object under the storage key {key}")
        self.key = key


class StoreFull(OSError):
    """No room, inode or quota left. What was stored before stays, and `delete` still works."""


class NotDeleted(OSError):
    """Some of what was to be deleted may still be there; all else is gone, durably."""

    def __init__(self, failures: Mapping[str, OSError]) -> None:
        """`failures` by key or state, as they were given to `delete`."""
        first = next(iter(failures.values()))
        super().__init__(first.errno, first.strerror or str(first))
        self.failures = failures


@contextmanager
def noted(failures: dict[str, OSError], names: Iterable[str]) -> Iterator[None]:
    """Go on after an error, noted as that of all `names`."""
    try:
        yield
    except OSError as error:
        failures.update(dict.fromkeys(names, error))


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
    # Where the store has it, if the key does not say so: an unfinished upload's id, or the name of
    # bytes beside it. It is a session's for as long as a state has it among its `names`.
    place: str | None = None


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is to go and no key names: a state for `delete`, and its size in bytes."""

    state: str
    size: int


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

    def sync(self) -> str:
        """Make the object's name and its first `offset` bytes durable; returns what `resume` needs.

        An error is final: the object can no longer be trusted and is to be deleted.
        """

    def before_commit(self) -> str | None:
        """The state to keep before `commit` is called, in place of the one of these bytes.

        It leads back to them as that one does, says that a commit may have begun, and names
        everything that the commit is made of. None from a store that leaves nothing behind when a
        commit is cut off, and sees by itself that one was made.
        """

    def commit(self) -> None:
        """Close the object for good and make it durable.

        Done once more, by the same Append or a resumed one, it makes sure that it is: an answer
        may have been lost. Else only `close` may follow. Raises KeyUnknown when the object is gone,
        or when it is there already and another Append may have written it.
        """

    def close(self) -> None:
        """Let go of the object. Promises nothing about bytes that were not synced.

        What it stored and no state that it returned names is removed, if the store can be reached.
        """


class Reader(Closing, Protocol):
    """An open object. Threads may share it.

    It need not stay readable after the deletion, which waits for a read grace; of files it does.
    """

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

    A *state* is what a store needs to go on with an object that is not committed: a line of text
    that it makes (`Append.sync`), that its caller keeps with the object's key and offset, and that
    nothing else reads. It says by itself what it is of. A store that needs none says "".
    """

    @property
    def sizes_appends(self) -> bool:
        """Whether `size` knows of every appendable object, and costs next to nothing."""

    def begin(self, key: str) -> Append:
        """An appendable object for a key under which nothing was ever stored.

        A store may leave nothing behind until bytes come. Of an object that is there, only an
        appendable one need be noticed: FileExistsError.
        """

    def resume(self, key: str, offset: int, state: str) -> Append:
        """Continue an appendable object at `offset`; whatever lies beyond is dropped.

        `state` is what the `sync` returned that made these bytes durable, "" for none. A store
        that looks raises KeyUnknown when there is no such object, OSError(EINVAL) when it is
        shorter than `offset`, and OSError(EBUSY) while another Append of it is open.

        Of a committed object whose size is `offset`, `commit` makes sure (`state` may be "");
        everything else raises KeyUnknown, here or later. Here, where `state` says that a commit may
        have begun: a store that needs to be told looks then.
        """

    def open(self, key: str, size: int) -> Reader:
        """Open a committed object, of which the caller knows the size, for reading.

        Raises KeyUnknown, here or from the first read: a store need not look before.
        """

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        """Remove objects, committed or appendable, and what states name; missing ones are fine.

        Durable when it returns. An error of one key or state does not keep the others: NotDeleted
        is raised after they are gone. Any other OSError says nothing about any of them. Either way
        the batch can be deleted again.
        """

    def leftover(self, before: str, now: str | None) -> Leftover | None:
        """What `before` names and the state that took its place does not; asks no store.

        `now` is None once the object is committed. None when there is nothing.
        """

    def names(self, state: str) -> Collection[str]:
        """The `place` of everything that a state needs beside its key; asks no store."""

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        """Everything in the store, in no order and in bounded memory, oddities as `problem`.

        With `shard`, a number below SHARD_COUNT, what has it as its key's first two digits; what no
        key reaches is in one of them. An object that stays in place during the listing appears
        exactly once. One that is committed meanwhile may appear twice, never not at all.
        """

    def drop(self, found: Iterable[StoredObject]) -> None:
        """Remove just these entries of a listing, as `delete` does; ValueError for an oddity."""

    def link(self, key: str, seconds: int) -> str | None:
        """A URL that reads a committed object for so long, and not longer.

        None: the store has none, and the caller is to serve it.
        """

    def size(self, key: str, place: str | None = None) -> int | None:
        """Bytes of a committed object, None when there is none; of an appendable one if known.

        With `place`, of what a listing showed there, or a state names, under this key.
        """

    def free_bytes(self) -> int | None:
        """Room left, in bytes; None when that is not known or not limited."""

    def capacity_bytes(self) -> int | None:
        """How large the disk under the store is, in bytes; None as for `free_bytes`."""

    def probe(self) -> None:
        """Raise OSError where objects can be neither stored nor read now; a full store is fine.

        Costs next to nothing, or one request to a service.
        """

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
