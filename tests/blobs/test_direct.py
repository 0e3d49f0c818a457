"""Large objects go to the disk past the page cache (docs/design/store.md)."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.blobs.contract import content, create, fresh_key, resume
from ullage.blobs.files.direct import AFTER_BYTES, AT_ONCE, BLOCK_BYTES, BUFFER_BYTES, direct_from
from ullage.blobs.files.store import FileBlobStore
from ullage.blobs.protocol import StoreFull

pytestmark = pytest.mark.thorough

MiB = 1024 * 1024
LARGE = AFTER_BYTES + 3 * BUFFER_BYTES + 12_345


@pytest.fixture
def store(tmp_path: Path) -> FileBlobStore:
    return FileBlobStore(tmp_path / "store")


class Writes:
    """os.pwrite as it is, with what it was asked: where, how much, and whether past the cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, int, bool]] = []
        self.real = os.pwrite
        # What the write at an offset raises, once.
        self.errors: dict[int, int] = {}
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, descriptor: int, data: memoryview, offset: int) -> int:
        direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        self.seen.append((offset, len(data), direct))
        if number := self.errors.pop(offset, None):
            raise OSError(number, os.strerror(number))
        return self.real(descriptor, data, offset)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


def pieces(data: bytes) -> list[memoryview]:
    return [memoryview(data)[start : start + MiB] for start in range(0, len(data), MiB)]


def test_the_beginning_goes_through_the_cache_then_whole_buffers_then_the_tail(
    store: FileBlobStore, writes: Writes
) -> None:
    data = secrets.token_bytes(LARGE)
    with store.begin(key := fresh_key()) as append:
        for piece in pieces(data):
            append.write(piece)
        append.commit()
    assert content(store, key) == data
    beginning = [each for each in writes.seen if each[0] < AFTER_BYTES]
    assert beginning == [(start * MiB, MiB, False) for start in range(AFTER_BYTES // MiB)]
    assert writes.seen[len(beginning) :] == [
        (AFTER_BYTES, BUFFER_BYTES, True),
        (AFTER_BYTES + BUFFER_BYTES, BUFFER_BYTES, True),
        (AFTER_BYTES + 2 * BUFFER_BYTES, BUFFER_BYTES, True),
        (AFTER_BYTES + 3 * BUFFER_BYTES, 12_345, False),
    ]


@pytest.mark.parametrize("offset", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 123_457])
def test_an_upload_that_goes_on_anywhere_begins_at_a_block(
    store: FileBlobStore, writes: Writes, offset: int
) -> None:
    data = secrets.token_bytes(offset + AFTER_BYTES + 2 * BUFFER_BYTES)
    create(store, key := fresh_key())
    with resume(store, key, 0) as append:
        append.write(data[:offset])
    with resume(store, key, offset) as append:
        append.write(memoryview(data)[offset:])
        append.commit()
    assert content(store, key) == data
    past = [start for start, _, direct in writes.seen if direct]
    assert past[0] == direct_from(offset)
    assert all(start % BLOCK_BYTES == 0 for start in past)
    assert direct_from(offset) - offset >= AFTER_BYTES


def test_so_many_at_once_and_the_others_through_the_cache(
    store: FileBlobStore, writes: Writes
) -> None:
    data = secrets.token_bytes(AFTER_BYTES + BUFFER_BYTES)
    keys = [fresh_key() for _ in range(AT_ONCE + 1)]
    with ExitStack() as open_appends:
        appends = [open_appends.enter_context(store.begin(key)) for key in keys]
        for append in appends:
            append.write(data)
        for append in appends:
            append.commit()
    assert sum(direct for _, _, direct in writes.seen) == AT_ONCE
    assert all(content(store, key) == data for key in keys)

    writes.seen.clear()
    with store.begin(fresh_key()) as append:
        append.write(data)
        append.commit()
    assert any(direct for _, _, direct in writes.seen), "their room was not given back"


def test_a_full_disk_tells_how_far_it_came_and_the_rest_can_follow(
    store: FileBlobStore, writes: Writes
) -> None:
    """reliability.md F15. The error of a buffer comes with one of the next writes."""
    data = secrets.token_bytes(LARGE)
    reached = AFTER_BYTES + BUFFER_BYTES
    writes.errors[reached] = errno.ENOSPC
    with store.begin(key := fresh_key()) as append:
        with pytest.raises(StoreFull):
            append.write(data)
        assert append.offset == reached
        assert store.size(key) == reached
        append.write(memoryview(data)[reached:])
        append.commit()
    assert content(store, key) == data


def test_the_error_of_the_last_buffer_comes_with_the_commit(
    store: FileBlobStore, writes: Writes
) -> None:
    data = secrets.token_bytes(AFTER_BYTES + BUFFER_BYTES)
    writes.errors[AFTER_BYTES] = errno.EDQUOT
    with store.begin(key := fresh_key()) as append:
        append.write(data)
        with pytest.raises(StoreFull):
            append.commit()
        assert append.offset == AFTER_BYTES
    assert not list((Path(f"/proc/self/fd/{store._blobs}")).rglob(key)), "it is no blob"


def test_a_file_system_that_takes_no_such_writes_gets_others(
    store: FileBlobStore, writes: Writes
) -> None:
    data = secrets.token_bytes(LARGE)
    writes.errors[AFTER_BYTES] = errno.EINVAL
    with store.begin(key := fresh_key()) as append:
        append.write(data)
        append.commit()
    assert content(store, key) == data
    assert [direct for start, _, direct in writes.seen if start >= AFTER_BYTES] == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_no_descriptor_is_closed_under_a_thread_that_writes(
    store: FileBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number may be another file's by then."""
    real, begun, go_on = os.pwrite, threading.Event(), threading.Event()

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= AFTER_BYTES:
            begun.set()
            go_on.wait(30)
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    append = store.begin(key := fresh_key())
    append.write(secrets.token_bytes(AFTER_BYTES + BUFFER_BYTES))
    assert begun.wait(30)
    closing = threading.Thread(target=append.close)
    closing.start()
    assert Path(f"/proc/self/fd/{append._file.fileno()}").readlink().name == key
    go_on.set()
    closing.join(30)
    assert store.size(key) == AFTER_BYTES + BUFFER_BYTES
