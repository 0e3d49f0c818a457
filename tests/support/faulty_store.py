"""A store whose disk fails when it is told to: the only fake beside the clock."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from ullage.blobs.protocol import (
    Append,
    BlobStore,
    Buffer,
    Closing,
    Leftover,
    NotDeleted,
    Reader,
    StoredObject,
)


class FaultyStore:
    """Another store, of which some operations fail with EIO, and which counts what it erases."""

    def __init__(self, inner: BlobStore) -> None:
        self._inner = inner
        self._failing: set[str] = set()
        # Keys that cannot be erased: under an object lock, say, or on a bad sector.
        self.stuck: set[str] = set()
        # Calls of `delete`.
        self.deletions = 0
        self.erased_bytes = 0
        self.erased_keys: list[str] = []

    @contextmanager
    def failing(self, operation: str) -> Iterator[None]:
        """Let create, append, write, sync, commit, open or delete fail meanwhile."""
        self._failing.add(operation)
        try:
            yield
        finally:
            self._failing.discard(operation)

    def fail_if_told(self, operation: str) -> None:
        if operation in self._failing:
            raise OSError(errno.EIO, "Input/output error")

    @property
    def sizes_appends(self) -> bool:
        return self._inner.sizes_appends

    def begin(self, key: str) -> Append:
        self.fail_if_told("create")
        self.fail_if_told("append")
        return _FaultyAppend(self, self._inner.begin(key))

    def resume(self, key: str, offset: int, state: str) -> Append:
        self.fail_if_told("append")
        return _FaultyAppend(self, self._inner.resume(key, offset, state))

    def open(self, key: str, size: int) -> Reader:
        self.fail_if_told("open")
        return self._inner.open(key, size)

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        """As the contract has it: what can be erased is, then the error is raised."""
        self.deletions += 1
        self.fail_if_told("delete")
        wanted = set(keys)
        going = wanted - self.stuck
        for key in sorted(going):
            size = self._inner.size(key)
            if size is not None:
                self.erased_bytes += size
                self.erased_keys.append(key)
        self._inner.delete(going, states)
        refused = OSError(errno.EPERM, "Operation not permitted")
        if wanted & self.stuck:
            raise NotDeleted(dict.fromkeys(wanted & self.stuck, refused))

    def leftover(self, before: str, now: str | None) -> Leftover | None:
        return self._inner.leftover(before, now)

    def names(self, state: str) -> Collection[str]:
        return self._inner.names(state)

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        return self._inner.list(shard)

    def drop(self, found: Iterable[StoredObject]) -> None:
        self._inner.drop(found)

    def link(self, key: str, seconds: int) -> str | None:
        return self._inner.link(key, seconds)

    def size(self, key: str, place: str | None = None) -> int | None:
        return self._inner.size(key, place)

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()

    def capacity_bytes(self) -> int | None:
        return self._inner.capacity_bytes()

    def probe(self) -> None:
        self._inner.probe()

    def read_label(self) -> str | None:
        return self._inner.read_label()

    def write_label(self, text: str) -> None:
        self._inner.write_label(text)


class _FaultyAppend(Closing):
    def __init__(self, store: FaultyStore, inner: Append) -> None:
        self._store = store
        self._inner = inner

    @property
    def offset(self) -> int:
        return self._inner.offset

    def write(self, data: Buffer) -> None:
        self._store.fail_if_told("write")
        self._inner.write(data)

    def sync(self) -> str:
        self._store.fail_if_told("sync")
        return self._inner.sync()

    def before_commit(self) -> str | None:
        return self._inner.before_commit()

    def commit(self) -> None:
        self._store.fail_if_told("commit")
        self._inner.commit()

    def close(self) -> None:
        self._inner.close()
