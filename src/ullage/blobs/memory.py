"""Objects in memory: the same contract as on a disk, for tests and demonstrations."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Collection, Iterable, Iterator

from ullage.blobs.protocol import (
    Buffer,
    Closing,
    KeyUnknown,
    Leftover,
    StoredObject,
    StoreFull,
    validate_key,
)


class _Object:
    def __init__(self) -> None:
        self.data = bytearray()
        self.modified = time.time()
        self.committed = False
        self.writer: MemoryAppend | None = None


class MemoryBlobStore:
    """A store that ends with its process. `capacity` (bytes) makes it fill up like a disk."""

    sizes_appends = True

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._objects: dict[str, _Object] = {}
        self._label: str | None = None
        # One lock for names and bytes: a bytearray must not grow while a reader looks into it.
        self._lock = threading.Lock()

    def begin(self, key: str) -> MemoryAppend:
        validate_key(key)
        with self._lock:
            if key in self._objects:
                raise FileExistsError(errno.EEXIST, "the storage key is in use", key)
            stored = self._objects[key] = _Object()
            stored.writer = MemoryAppend(self, key, stored)
            return stored.writer

    def resume(self, key: str, offset: int, state: str) -> MemoryAppend:
        with self._lock:
            stored = self._find(key)
            if stored.committed:
                if offset != len(stored.data):
                    raise KeyUnknown(key)
                return MemoryAppend(self, key, stored)
            _refuse_if_open(stored, key)
            if not 0 <= offset <= len(stored.data):
                raise OSError(errno.EINVAL, f"the object has no byte {offset}", key)
            del stored.data[offset:]
            stored.writer = MemoryAppend(self, key, stored)
            return stored.writer

    def open(self, key: str, size: int) -> MemoryReader:
        with self._lock:
            stored = self._find(key)
            if not stored.committed:
                raise KeyUnknown(key)
            return MemoryReader(self._lock, stored.data)

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        doomed = {validate_key(key) for key in keys}
        with self._lock:
            for key in doomed:
                self._objects.pop(key, None)

    def leftover(self, before: str, now: str | None) -> Leftover | None:
        return None

    def names(self, state: str) -> Collection[str]:
        return ()

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        first = "" if shard is None else f"{shard:02x}"
        with self._lock:
            there = tuple(self._objects.items())
        for key, stored in there:
            if not key.startswith(first):
                continue
            yield StoredObject(key, len(stored.data), stored.modified, stored.committed)

    def drop(self, found: Iterable[StoredObject]) -> None:
        doomed = {validate_key(each.key): each.committed for each in found}
        with self._lock:
            for key, committed in doomed.items():
                if key in self._objects and self._objects[key].committed == committed:
                    del self._objects[key]

    def link(self, key: str, seconds: int) -> str | None:
        validate_key(key)
        return None

    def size(self, key: str, place: str | None = None) -> int | None:
        validate_key(key)
        with self._lock:
            stored = self._objects.get(key) if place is None else None
            return None if stored is None else len(stored.data)

    def free_bytes(self) -> int | None:
        with self._lock:
            return self._room()

    def capacity_bytes(self) -> int | None:
        return self._capacity

    def probe(self) -> None:
        pass

    def read_label(self) -> str | None:
        return self._label

    def write_label(self, text: str) -> None:
        self._label = text

    def _find(self, key: str) -> _Object:
        try:
            return self._objects[validate_key(key)]
        except KeyError:
            raise KeyUnknown(key) from None

    def _room(self) -> int | None:
        if self._capacity is None:
            return None
        return self._capacity - sum(len(stored.data) for stored in self._objects.values())

    def _extend(self, key: str, stored: _Object, data: Buffer) -> None:
        with self._lock, memoryview(data) as view:
            if stored.committed:
                raise KeyUnknown(key)
            room = self._room()
            if room is not None and view.nbytes > room:
                raise StoreFull(errno.ENOSPC, "the store's capacity is used up")
            stored.data += view
            stored.modified = time.time()

    def _commit(self, key: str, stored: _Object) -> None:
        with self._lock:
            if self._objects.get(key) is not stored:
                raise KeyUnknown(key)
            stored.committed = True

    def _release(self, stored: _Object, writer: MemoryAppend) -> None:
        with self._lock:
            if stored.writer is writer:
                stored.writer = None


def _refuse_if_open(stored: _Object, key: str) -> None:
    if stored.writer is not None:
        raise OSError(errno.EBUSY, "an append to this object is still open", key)


class MemoryAppend(Closing):
    def __init__(self, store: MemoryBlobStore, key: str, stored: _Object) -> None:
        self._store = store
        self._key = key
        self._stored = stored
        self._closed = False

    @property
    def offset(self) -> int:
        return len(self._stored.data)

    def write(self, data: Buffer) -> None:
        self._refuse_if_closed()
        self._store._extend(self._key, self._stored, data)

    def sync(self) -> str:
        self._refuse_if_closed()
        if self._stored.committed:
            raise KeyUnknown(self._key)
        return ""

    def before_commit(self) -> str | None:
        return None

    def commit(self) -> None:
        self._refuse_if_closed()
        self._store._commit(self._key, self._stored)

    def close(self) -> None:
        self._closed = True
        self._store._release(self._stored, self)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on a closed append")


class MemoryReader(Closing):
    def __init__(self, lock: threading.Lock, data: bytearray) -> None:
        self._lock = lock
        self._data: bytearray | None = data
        self.size = len(data)

    def read_at(self, offset: int, n: int) -> bytes:
        if offset < 0 or n < 0:
            raise OSError(errno.EINVAL, "offset and length count from zero")
        data = self._data
        if data is None:
            raise ValueError("I/O operation on a closed reader")
        # Slicing the view and not the bytearray: one copy instead of two.
        with self._lock, memoryview(data) as view, view[offset : offset + n] as part:
            return bytes(part)

    read_now = read_at

    def close(self) -> None:
        self._data = None
