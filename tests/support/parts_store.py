"""A store that keeps objects as an object store does: in parts, with a state for who goes on.

As in S3, an object appears whole, under a name that is written once. What is not committed is parts
of an unfinished upload, and a tail for the bytes that fill no part. It keeps no request from what
another one has open, and looks for nothing that it was not told of.
"""

from __future__ import annotations

import errno
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace

from ullage.blobs.memory import MemoryReader
from ullage.blobs.protocol import (
    Append,
    Buffer,
    Closing,
    KeyUnknown,
    Leftover,
    StoredObject,
    validate_key,
)


@dataclass(frozen=True)
class State:
    """What goes on with an object: `parts` are [etag, size], `tail` is [name, size]."""

    upload: str | None = None
    parts: tuple[tuple[str, int], ...] = ()
    tail: tuple[str, int] | None = None
    committing: bool = False

    @property
    def offset(self) -> int:
        return sum(size for _, size in self.parts) + (self.tail[1] if self.tail else 0)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def parse_state(text: str) -> State:
    if not text:
        return State()
    found = json.loads(text)
    parts = tuple((etag, size) for etag, size in found["parts"])
    tail = tuple(found["tail"]) if found["tail"] else None
    return State(found["upload"], parts, tail, found["committing"])


@dataclass
class Stored:
    key: str
    data: bytes
    modified: float = field(default_factory=time.time)


@dataclass
class Unfinished:
    """A multipart upload: parts by number, each an etag and its bytes."""

    key: str
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    modified: float = field(default_factory=time.time)

    @property
    def size(self) -> int:
        return sum(len(data) for _, data in self.parts.values())


class PartsStore:
    """`part` is the size of a part in bytes; `requests` counts what was asked of the store."""

    sizes_appends = False

    def __init__(self, part: int = 10) -> None:
        self.part = part
        self.objects: dict[str, Stored] = {}
        self.unfinished: dict[str, Unfinished] = {}
        self.tails: dict[str, Stored] = {}
        self.requests: Counter[str] = Counter()
        self.lock = threading.Lock()
        self._label: str | None = None

    def begin(self, key: str) -> PartsAppend:
        return PartsAppend(self, validate_key(key), State(), 0)

    def resume(self, key: str, offset: int, state: str) -> Append:
        known = parse_state(state)
        there = self.size(validate_key(key)) if known.committing else None
        if there is None and known.offset >= offset >= 0:
            return PartsAppend(self, key, known, offset)
        if there is None and state:
            raise OSError(errno.EINVAL, f"the object has no byte {offset}", key)
        if there not in (None, offset):
            raise KeyUnknown(key)
        return CommittedParts(self, key, offset)

    def open(self, key: str, size: int) -> MemoryReader:
        self.requests["get"] += 1
        with self.lock:
            if validate_key(key) not in self.objects:
                raise KeyUnknown(key)
            return MemoryReader(self.lock, bytearray(self.objects[key].data))

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        doomed = [validate_key(key) for key in keys]
        known = [parse_state(state) for state in states]
        with self.lock:
            for key in doomed:
                self.objects.pop(key, None)
            for state in known:
                self.unfinished.pop(state.upload or "", None)
                self.tails.pop(state.tail[0] if state.tail else "", None)

    def leftover(self, before: str, now: str | None) -> Leftover | None:
        old, new = parse_state(before), parse_state(now or "")
        # What was committed is no unfinished upload any more.
        if now is None or old.upload == new.upload:
            old = replace(old, upload=None, parts=())
        if old.tail == new.tail:
            old = replace(old, tail=None)
        return Leftover(str(old), old.offset) if old.upload or old.tail else None

    def names(self, state: str) -> Collection[str]:
        known = parse_state(state)
        places = (known.upload, known.tail[0] if known.tail else None)
        return [place for place in places if place is not None]

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        first = "" if shard is None else f"{shard:02x}"
        with self.lock:
            found = [
                StoredObject(each.key, len(each.data), each.modified, committed=True)
                for each in self.objects.values()
            ]
            found += [
                StoredObject(each.key, each.size, each.modified, committed=False, place=place)
                for place, each in self.unfinished.items()
            ]
            found += [
                StoredObject(each.key, len(each.data), each.modified, committed=False, place=name)
                for name, each in self.tails.items()
            ]
        return (each for each in found if each.key.startswith(first))

    def drop(self, found: Iterable[StoredObject]) -> None:
        with self.lock:
            for each in found:
                if each.place is None:
                    self.objects.pop(each.key, None)
                else:
                    self.unfinished.pop(each.place, None)
                    self.tails.pop(each.place, None)

    def link(self, key: str, seconds: int) -> str | None:
        validate_key(key)
        return None

    def size(self, key: str, place: str | None = None) -> int | None:
        self.requests["head"] += 1
        with self.lock:
            if place is None:
                stored = self.objects.get(validate_key(key))
                return None if stored is None else len(stored.data)
            if place in self.unfinished:
                return self.unfinished[place].size
            return len(self.tails[place].data) if place in self.tails else None

    def free_bytes(self) -> int | None:
        return None

    def capacity_bytes(self) -> int | None:
        return None

    def probe(self) -> None:
        pass

    def read_label(self) -> str | None:
        return self._label

    def write_label(self, text: str) -> None:
        self._label = text

    # --- what an Append asks for ---

    def begin_parts(self, key: str) -> str:
        place = f"upload-{secrets.token_hex(8)}"
        with self.lock:
            self.unfinished[place] = Unfinished(key)
        return place

    def put_part(self, key: str, place: str, number: int, data: bytes) -> str:
        with self.lock:
            if place not in self.unfinished:
                raise KeyUnknown(key)
            etag = secrets.token_hex(8)
            self.unfinished[place].parts[number] = (etag, data)
            return etag

    def put_tail(self, key: str, data: bytes) -> str:
        self.requests["tail"] += 1
        name = f"t/{key}.{secrets.token_hex(8)}"
        with self.lock:
            self.tails[name] = Stored(key, data)
        return name

    def read_back(self, key: str, state: State, offset: int) -> bytes:
        """The bytes before `offset` that fill no part; a tail's, as parts cannot be read."""
        name = state.tail[0] if state.tail else ""
        start = state.offset - (state.tail[1] if state.tail else 0)
        if start >= offset:
            return b""
        self.requests["read back"] += 1
        with self.lock:
            if name not in self.tails:
                raise KeyUnknown(key)
            return self.tails[name].data[: offset - start]

    def put_object(self, key: str, data: bytes) -> None:
        """Under a name that is written once; KeyUnknown for one that is there."""
        self.requests["put"] += 1
        with self.lock:
            if key in self.objects:
                raise KeyUnknown(key)
            self.objects[key] = Stored(key, data)

    def complete(self, key: str, place: str, etags: Iterable[str]) -> None:
        self.requests["complete"] += 1
        with self.lock:
            found = self.unfinished.get(place)
            if found is None or key in self.objects:
                raise KeyUnknown(key)
            pieces = []
            for number, etag in enumerate(etags):
                there, data = found.parts.get(number, ("", b""))
                if there != etag:
                    raise OSError(errno.EIO, "a part is not the one that was named", key)
                pieces.append(data)
            self.objects[key] = Stored(key, b"".join(pieces))
            del self.unfinished[place]


class PartsAppend(Closing):
    def __init__(self, store: PartsStore, key: str, state: State, offset: int) -> None:
        self._store, self._key = store, key
        self._parts: list[tuple[str, int]] = []
        kept = 0
        for etag, size in state.parts:
            if kept + size <= offset:
                self._parts.append((etag, size))
                kept += size
        self._upload = state.upload
        self._buffer = bytearray(store.read_back(key, state, offset))
        # The state of the bytes that were synced last.
        self._synced = replace(state, parts=tuple(self._parts), committing=False)
        # A state that names it was returned, or what was returned is all there is of it.
        self._named = state.upload
        self._committed = False
        self._closed = False
        self.offset = offset

    def write(self, data: Buffer) -> None:
        self._refuse_if_closed()
        self._buffer += data
        self.offset += memoryview(data).nbytes
        while len(self._buffer) >= self._store.part:
            self._put_part(self._store.part)

    def sync(self) -> str:
        self._refuse_if_closed()
        if self.offset != self._synced.offset:
            rest = bytes(self._buffer)
            tail = (self._store.put_tail(self._key, rest), len(rest)) if rest else None
            self._synced = State(self._upload, tuple(self._parts), tail)
        self._named = self._upload
        return str(self._synced)

    def before_commit(self) -> str | None:
        self._refuse_if_closed()
        self._named = self._upload
        return str(replace(self._synced, upload=self._upload, committing=True))

    def commit(self) -> None:
        self._refuse_if_closed()
        if self._committed:
            if self._store.size(self._key) != self.offset:
                raise KeyUnknown(self._key)
            return
        if self._upload is None:
            self._store.put_object(self._key, bytes(self._buffer))
        else:
            if self._buffer:
                self._put_part(len(self._buffer))
            self._store.complete(self._key, self._upload, [etag for etag, _ in self._parts])
        self._committed = True

    def close(self) -> None:
        if not self._closed and not self._committed and self._upload != self._named:
            self._store.delete((), [str(State(self._upload))])
        self._closed = True

    def _put_part(self, size: int) -> None:
        if self._upload is None:
            self._upload = self._store.begin_parts(self._key)
        data = bytes(self._buffer[:size])
        etag = self._store.put_part(self._key, self._upload, len(self._parts), data)
        self._parts.append((etag, size))
        del self._buffer[:size]

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on a closed append")


class CommittedParts(Closing):
    """An object that should be committed already."""

    def __init__(self, store: PartsStore, key: str, offset: int) -> None:
        self._store, self._key, self.offset = store, key, offset

    def write(self, data: Buffer) -> None:
        raise KeyUnknown(self._key)

    def sync(self) -> str:
        raise KeyUnknown(self._key)

    def before_commit(self) -> str | None:
        return None

    def commit(self) -> None:
        if self._store.size(self._key) != self.offset:
            raise KeyUnknown(self._key)

    def close(self) -> None:
        pass
