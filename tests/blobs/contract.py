"""What every blob store promises (`ullage.blobs.BlobStore`), run over each driver.

A driver's test file subclasses `BlobStoreContract` and provides the fixture `store`. One whose
store knows of uploads without a state subclasses `LocalStoreContract`, with another fixture:
`small_store` with room for between 1 and 8 MiB.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import pytest

from ullage.blobs.protocol import (
    Append,
    BlobStore,
    Buffer,
    KeyUnknown,
    Reader,
    StoredObject,
    StoreFull,
)

MiB = 1024 * 1024

BAD_KEYS = [
    "",
    "../x",
    "../../../../../../../etc/passwd/x",
    "/etc/passwd",
    "0123456789abcdef0123456789abcde",
    "0123456789abcdef0123456789abcdef0",
    "0123456789ABCDEF0123456789ABCDEF",
    "0123456789abcdef0123456789abcdeg",
    "0123456789abcdef0123456789abcde\n",
    "0123456789abcdef0123456789abcdef\n",
    "0123456789abcdef0123456789abcde\0",
    "0123456789abcdef0123456789abcde/",
    "01/23/456789abcdef0123456789abcd",
    "\u0660123456789abcdef0123456789abcdef",  # a digit, but not one of ours
]


def _first_byte(store: BlobStore, key: str) -> bytes:
    """A store need not look before the first read."""
    with store.open(key, 1) as reader:
        return reader.read_at(0, 1)


OPERATIONS: dict[str, Callable[[BlobStore, str], Any]] = {
    "begin": lambda store, key: store.begin(key),
    "resume": lambda store, key: store.resume(key, 0, ""),
    "open": lambda store, key: _first_byte(store, key),
    "link": lambda store, key: store.link(key, 60),
    "delete": lambda store, key: store.delete([key]),
    "size": lambda store, key: store.size(key),
}


# What a caller keeps of each upload: its offset, and the state that its last sync returned.
KEPT: dict[str, tuple[int, str]] = {}


def fresh_key() -> str:
    return secrets.token_hex(16)


def keep(append: Append, key: str) -> None:
    """Sync an upload, and keep what the next Append of it needs."""
    state = append.sync()
    KEPT[key] = (append.offset, state)


def upload(store: BlobStore, data: Buffer = b"bytes", key: str | None = None) -> str:
    """A synced, still appendable object."""
    key = key or fresh_key()
    with store.begin(key) as append:
        append.write(data)
        keep(append, key)
    return key


def create(store: BlobStore, key: str) -> None:
    """An appendable object without a byte."""
    store.begin(key).close()
    KEPT[key] = (0, "")


def resume(store: BlobStore, key: str, offset: int) -> Append:
    """Go on with what was kept."""
    return store.resume(key, offset, KEPT.get(key, (0, ""))[1])


def commit(store: BlobStore, key: str) -> int:
    """Commit an object as it is, or once more; its size. Raises KeyUnknown.

    What the upload leaves over is deleted, as its caller does.
    """
    offset, state = KEPT.get(key, (-1, ""))
    known = store.size(key)
    size = offset if known is None else known
    if size < 0:
        raise KeyUnknown(key)
    with store.resume(key, size, state if size == offset else "") as append:
        append.commit()
    leftover = store.leftover(state, None)
    if leftover is not None:
        store.delete([], [leftover.state])
    KEPT[key] = (size, "")
    return size


def delete(store: BlobStore, keys: Iterable[str]) -> None:
    """Delete objects, with what their uploads have stored beside them."""
    keys = list(keys)
    store.delete(iter(keys), iter([KEPT[key][1] for key in keys if key in KEPT]))


def put(store: BlobStore, data: Buffer = b"bytes", key: str | None = None) -> str:
    """A committed object."""
    key = upload(store, data, key)
    assert commit(store, key) == len(data)
    return key


def content(store: BlobStore, key: str) -> bytes:
    size = store.size(key)
    with store.open(key, -1 if size is None else size) as reader:
        return reader.read_at(0, reader.size)


def opened(store: BlobStore, key: str) -> Reader:
    """A committed object, to be read."""
    return store.open(key, store.size(key) or 0)


def appended(store: BlobStore, key: str) -> bytes:
    """The bytes of an object that is committed for it, for only those can be read."""
    commit(store, key)
    return content(store, key)


def listed(store: BlobStore) -> dict[str, StoredObject]:
    objects = list(store.list())
    by_key = {each.key: each for each in objects}
    assert len(by_key) == len(objects), "an object is listed twice"
    return by_key


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run every call in a thread of its own, all let go at once; the first error is raised."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def fill(append: Append, piece: Buffer) -> None:
    for _ in range(9):
        append.write(piece)


class BlobStoreContract:
    # --- the label ---

    def test_a_label_is_what_was_written_last(self, store: BlobStore) -> None:
        assert store.read_label() is None
        for text in ('{"registry": "one"}', "two", "three" * 50):
            store.write_label(text)
            assert store.read_label() == text

    def test_a_label_is_no_object(self, store: BlobStore) -> None:
        store.write_label("one")
        assert listed(store) == {}

    def test_labels_written_at_once_are_never_mixed(self, store: BlobStore) -> None:
        texts = [letter * 200 for letter in "abcdefgh"]
        in_threads(*(partial(store.write_label, text) for text in texts))
        assert store.read_label() in texts

    # --- append ---

    def test_appended_bytes_are_read_back(self, store: BlobStore) -> None:
        key = fresh_key()
        create(store, key)
        with resume(store, key, 0) as append:
            append.write(b"one ")
            append.write(bytearray(b"two "))
            append.write(memoryview(b"...three...")[3:8])
            append.write(b"")
            assert append.offset == 13
            keep(append, key)
        assert commit(store, key) == 13
        assert content(store, key) == b"one two three"

    def test_views_of_wider_items_are_written_as_their_bytes(self, store: BlobStore) -> None:
        key = put(store, b"")
        other = fresh_key()
        create(store, other)
        with resume(store, other, 0) as append:
            append.write(memoryview(b"abcdefgh").cast("I"))
            assert append.offset == 8
            keep(append, other)
        assert appended(store, other) == b"abcdefgh"
        assert appended(store, key) == b""

    def test_large_pieces_arrive_whole(self, store: BlobStore) -> None:
        pieces = [secrets.token_bytes(MiB) for _ in range(3)] + [b"tail"]
        key = fresh_key()
        create(store, key)
        with resume(store, key, 0) as append:
            for piece in pieces:
                append.write(memoryview(piece))
            keep(append, key)
        assert commit(store, key) == 3 * MiB + 4
        with opened(store, key) as reader:
            read = b"".join(reader.read_at(at, 700_000) for at in range(0, reader.size, 700_000))
        assert hashlib.sha256(read).digest() == hashlib.sha256(b"".join(pieces)).digest()

    def test_a_very_large_object_arrives_whole(self, store: BlobStore) -> None:
        """Also where it is written otherwise from some size on, and in pieces of odd lengths."""
        data = secrets.token_bytes(23 * MiB + 5)
        with store.begin(key := fresh_key()) as append:
            for start in range(0, len(data), MiB + 777):
                append.write(memoryview(data)[start : start + MiB + 777])
                assert append.offset == min(start + MiB + 777, len(data))
            append.sync()
            append.write(b"more")
            append.commit()
        assert store.size(key) == len(data) + 4
        assert content(store, key) == data + b"more"

    def test_the_callers_buffer_is_free_again_after_a_write(self, store: BlobStore) -> None:
        key = fresh_key()
        create(store, key)
        buffer = bytearray(b"first")
        with resume(store, key, 0) as append:
            append.write(buffer)
            buffer[:] = b"second one"  # a BufferError if the store still had a view of it
            append.write(buffer)
            keep(append, key)
        assert appended(store, key) == b"firstsecond one"

    def test_an_upload_is_resumed_where_it_stopped(self, store: BlobStore) -> None:
        key = upload(store, b"hello, ")
        with resume(store, key, 7) as append:
            assert append.offset == 7
            append.write(b"world")
            keep(append, key)
        assert commit(store, key) == 12
        assert content(store, key) == b"hello, world"

    def test_resuming_drops_what_lies_beyond_the_offset(self, store: BlobStore) -> None:
        """deletion.md R18: write at the recorded offset after truncating the tail."""
        key = upload(store, b"kept|not recorded, and longer than what comes")
        with resume(store, key, 5) as append:
            append.write(b"new")
            keep(append, key)
        assert store.size(key) in (8, None)
        assert commit(store, key) == 8
        assert content(store, key) == b"kept|new"

    @pytest.mark.parametrize("offset", [6, 2**40, -1])
    def test_an_offset_the_object_does_not_have_is_refused(
        self, store: BlobStore, offset: int
    ) -> None:
        key = upload(store, b"12345")
        with pytest.raises(OSError, match="no byte") as refused:
            resume(store, key, offset)
        assert refused.value.errno == errno.EINVAL
        assert appended(store, key) == b"12345"

    def test_a_committed_object_takes_no_more_bytes(self, store: BlobStore) -> None:
        key = put(store)
        late = pytest.raises(KeyUnknown)
        with late, resume(store, key, 0) as append:
            append.write(b"other")
            append.commit()
        assert content(store, key) == b"bytes"

    def test_a_closed_append_takes_nothing(self, store: BlobStore) -> None:
        key = upload(store)
        append = resume(store, key, 5)
        append.close()
        append.close()
        with pytest.raises(ValueError, match="closed"):
            append.write(b"late")
        with pytest.raises(ValueError, match="closed"):
            append.sync()
        assert appended(store, key) == b"bytes"

    # --- create and commit ---

    def test_an_object_of_no_bytes_is_an_object(self, store: BlobStore) -> None:
        key = fresh_key()
        create(store, key)
        assert store.size(key) in (0, None)
        assert commit(store, key) == 0
        assert store.size(key) == 0
        with opened(store, key) as reader:
            assert reader.size == 0
            assert reader.read_at(0, 10) == b""

    def test_an_append_commits_what_it_wrote(self, store: BlobStore) -> None:
        key = upload(store)
        with resume(store, key, 5) as append:
            append.write(b" and more")
            append.commit()
        assert content(store, key) == b"bytes and more"
        assert commit(store, key) == 14
        late = pytest.raises(KeyUnknown)
        with late, store.resume(key, 13, "") as append:
            append.commit()

    def test_an_append_of_a_deleted_object_commits_nothing(self, store: BlobStore) -> None:
        key = upload(store)
        with resume(store, key, 5) as append:
            delete(store, [key])
            with pytest.raises(KeyUnknown):
                append.commit()
        assert store.size(key) is None

    def test_commit_is_idempotent(self, store: BlobStore) -> None:
        key = upload(store)
        assert [commit(store, key) for _ in range(3)] == [5, 5, 5]
        assert content(store, key) == b"bytes"
        assert listed(store)[key].committed

    def test_what_is_not_committed_cannot_be_opened(self, store: BlobStore) -> None:
        key = upload(store)
        with pytest.raises(KeyUnknown), store.open(key, 5) as reader:
            reader.read_at(0, 5)
        assert appended(store, key) == b"bytes"

    def test_a_committed_object_is_resumed_to_be_committed_only(self, store: BlobStore) -> None:
        """deletion.md section 3.3: the answer was lost, or its process was killed."""
        key = put(store)
        with store.resume(key, 5, "") as append:
            assert append.offset == 5
            append.commit()
            append.commit()
        late = pytest.raises(KeyUnknown)
        with late, store.resume(key, 5, "") as append:
            append.write(b"late")
            append.sync()
        assert content(store, key) == b"bytes"

    def test_a_commit_that_was_announced_and_not_made_is_none(self, store: BlobStore) -> None:
        key = upload(store)
        with resume(store, key, 5) as append:
            append.write(b" lost")
            state = append.before_commit()
        with store.resume(key, 5, KEPT[key][1] if state is None else state) as append:
            append.write(b" kept")
            append.commit()
        assert content(store, key) == b"bytes kept"

    def test_a_commit_that_was_announced_and_made_takes_no_more_bytes(
        self, store: BlobStore
    ) -> None:
        """Its row was not told: what comes with the next request may be other bytes."""
        key = upload(store)
        with resume(store, key, 5) as append:
            append.write(b" and more")
            state = append.before_commit()
            append.commit()
        with pytest.raises(KeyUnknown):
            store.resume(key, 5, KEPT[key][1] if state is None else state)
        assert content(store, key) == b"bytes and more"

    # --- leftovers and links ---

    def test_what_a_state_names_is_there_and_has_a_size(self, store: BlobStore) -> None:
        key = upload(store, b"12345")
        places = store.names(KEPT[key][1])
        assert None not in [store.size(key, place) for place in places]
        listed_places = {each.place for each in store.list() if each.place is not None}
        assert listed_places == set(places)
        assert list(store.names("")) == []
        store.delete([key], [KEPT[key][1]])
        assert [store.size(key, place) for place in places] == [None] * len(places)

    def test_no_size_is_known_of_a_place_that_is_not_there(self, store: BlobStore) -> None:
        assert store.size(put(store), "nowhere") is None

    def test_a_shard_of_a_listing_has_the_keys_that_begin_with_it(self, store: BlobStore) -> None:
        keys = {
            put(store),
            upload(store),
            put(store, b"", "00" * 16),
            upload(store, b"0", "ff" * 16),
        }
        shards = [{each.key for each in store.list(shard)} for shard in range(256)]
        assert set().union(*shards) == keys
        for number, shard in enumerate(shards):
            assert all(int(key[:2], 16) == number for key in shard)

    def test_what_a_listing_found_is_dropped_and_nothing_else(self, store: BlobStore) -> None:
        kept, gone = {put(store), upload(store)}, {put(store), upload(store)}
        found = [each for each in store.list() if each.key in gone]
        store.drop(found)
        store.drop(found)
        assert set(listed(store)) == kept

    def test_a_blob_is_not_dropped_for_the_upload_that_it_was(self, store: BlobStore) -> None:
        key = upload(store)
        found = list(store.list())
        commit(store, key)
        store.drop(found)
        assert content(store, key) == b"bytes"

    def test_the_same_state_leaves_nothing_over(self, store: BlobStore) -> None:
        _, state = KEPT[upload(store)]
        assert store.leftover(state, state) is None
        assert store.leftover("", None) is None

    def test_objects_do_not_touch_each_other(self, store: BlobStore) -> None:
        """Keys that differ in one digit, first or last, are as different as any."""
        keys = ["0" * 32, "0" * 31 + "1", "1" + "0" * 31, "0010" + "0" * 28]
        for key in keys:
            put(store, key.encode(), key)
        store.delete([keys[1]])
        assert {key: content(store, key) for key in listed(store)} == {
            key: key.encode() for key in keys if key != keys[1]
        }

    # --- missing and malformed keys ---

    def test_a_missing_key_is_unknown(self, store: BlobStore) -> None:
        key = fresh_key()
        with pytest.raises(KeyUnknown) as unknown:
            OPERATIONS["open"](store, key)
        assert unknown.value.key == key

    def test_a_missing_key_has_no_size(self, store: BlobStore) -> None:
        assert store.size(fresh_key()) is None

    @pytest.mark.parametrize("key", BAD_KEYS)
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_what_is_not_a_key_is_refused(self, store: BlobStore, operation: str, key: str) -> None:
        with pytest.raises(ValueError, match="is not a storage key"):
            OPERATIONS[operation](store, key)

    def test_one_bad_key_keeps_a_whole_batch_from_being_deleted(self, store: BlobStore) -> None:
        key = put(store)
        with pytest.raises(ValueError, match="is not a storage key"):
            store.delete([key, "../x"])
        assert content(store, key) == b"bytes"

    # --- reading ---

    def test_any_part_can_be_read(self, store: BlobStore) -> None:
        key = put(store, b"0123456789")
        with opened(store, key) as reader:
            assert reader.size == 10
            assert reader.read_at(0, 10) == b"0123456789"
            assert reader.read_at(3, 4) == b"3456"
            assert reader.read_at(8, 100) == b"89"
            assert reader.read_at(10, 1) == b""
            assert reader.read_at(10**6, 1) == b""
            assert reader.read_at(5, 0) == b""

    @pytest.mark.parametrize(("offset", "n"), [(-1, 1), (0, -1)])
    def test_negative_places_are_refused(self, store: BlobStore, offset: int, n: int) -> None:
        with opened(store, put(store)) as reader, pytest.raises(OSError) as refused:  # noqa: PT011
            reader.read_at(offset, n)
        assert refused.value.errno == errno.EINVAL

    def test_what_is_read_without_waiting_is_the_same_or_nothing(self, store: BlobStore) -> None:
        with opened(store, put(store, b"0123456789")) as reader:
            spans = [(0, 10), (3, 4), (8, 100), (10, 1), (10**6, 1), (5, 0), (0, 2)]
            found = [reader.read_now(offset, n) for offset, n in spans]
            for (offset, n), data in zip(spans, found, strict=True):
                assert data in (None, reader.read_at(offset, n))

    def test_a_closed_reader_reads_nothing(self, store: BlobStore) -> None:
        reader = opened(store, put(store))
        reader.close()
        reader.close()
        for read in (reader.read_at, reader.read_now):
            with pytest.raises(ValueError, match="closed"):
                read(0, 1)

    def test_threads_share_a_reader(self, store: BlobStore) -> None:
        data = secrets.token_bytes(8 * 4096)
        with opened(store, put(store, data)) as reader:

            def read(start: int) -> bool:
                spans = range(start, len(data), 1009)
                return all(reader.read_at(at, 4096) == data[at : at + 4096] for at in spans)

            assert all(in_threads(*[partial(read, start) for start in range(8)]))

    # --- delete ---

    def test_deleting_removes_uploads_and_committed_objects(self, store: BlobStore) -> None:
        gone, kept = [upload(store), put(store), fresh_key()], [upload(store), put(store)]
        delete(store, gone)
        assert [store.size(key) for key in gone] == [None] * 3
        assert set(listed(store)) == set(kept)
        assert [appended(store, key) for key in kept] == [b"bytes"] * 2

    def test_deleting_twice_or_nothing_is_fine(self, store: BlobStore) -> None:
        key = put(store)
        store.delete([])
        store.delete([key, key])
        store.delete([key])
        assert listed(store) == {}

    def test_an_upload_deleted_under_its_writer_stays_deleted(self, store: BlobStore) -> None:
        """deletion.md R17: cancel against a running PATCH; the loser learns it by the commit."""
        key = upload(store)
        with resume(store, key, 5) as append:
            delete(store, [key])
            with suppress(KeyUnknown):
                append.write(b"into the void")
                append.sync()
        with pytest.raises(KeyUnknown):
            commit(store, key)
        assert store.size(key) is None
        assert listed(store) == {}

    # --- listing and sizes ---

    def test_listing_tells_every_object(self, store: BlobStore) -> None:
        expected = {upload(store, b"123"): (3, False), put(store, b"12345"): (5, True)}
        found = listed(store)
        assert {key: (each.size, each.committed) for key, each in found.items()} == expected
        assert [each.problem for each in found.values()] == [None, None]
        assert all(each.modified > 1_600_000_000 for each in found.values())

    def test_an_empty_store_lists_nothing(self, store: BlobStore) -> None:
        assert listed(store) == {}

    def test_two_listings_do_not_disturb_each_other(self, store: BlobStore) -> None:
        keys = {put(store) for _ in range(20)} | {upload(store) for _ in range(20)}
        first, second = store.list(), store.list()
        pairs = list(zip(first, second, strict=True))
        assert {a.key for a, _ in pairs} == {b.key for _, b in pairs} == keys

    def test_what_stays_is_listed_while_others_come_and_go(self, store: BlobStore) -> None:
        """The slow walk of deletion.md section 3 runs beside pushes and deletions."""
        stay = {put(store) for _ in range(30)} | {upload(store) for _ in range(10)}
        done = threading.Event()

        def churn() -> None:
            while not done.is_set():
                store.delete([put(store)])

        def walk() -> list[list[str]]:
            try:
                return [[each.key for each in store.list()] for _ in range(20)]
            finally:
                done.set()

        for keys in in_threads(walk, churn)[0]:
            assert sorted(key for key in keys if key in stay) == sorted(stay)

    def test_a_listing_goes_on_from_where_it_was(self, store: BlobStore) -> None:
        stay = {put(store) for _ in range(10)} | {upload(store) for _ in range(10)}
        gone = upload(store)
        listing = store.list()
        seen = [next(listing).key]
        come = {put(store), upload(store)}
        delete(store, [gone])
        seen += [each.key for each in listing]
        assert sorted(key for key in seen if key in stay) == sorted(stay)
        assert set(seen) <= stay | come | {gone}

    def test_a_commit_during_a_listing_hides_nothing(self, store: BlobStore) -> None:
        keys = {upload(store) for _ in range(30)}
        listing = store.list()
        seen = {next(listing).key}
        for key in keys:
            commit(store, key)
        seen.update(each.key for each in listing)
        assert seen == keys

    def test_sizes_are_known_before_and_after_the_commit(self, store: BlobStore) -> None:
        key = upload(store, b"1234")
        assert store.size(key) in (4, None)
        commit(store, key)
        assert store.size(key) == 4

    # --- concurrency ---

    def test_threads_that_create_commit_and_delete_do_not_meet(self, store: BlobStore) -> None:
        """All keys share their first four digits, and so whatever a driver groups them by."""

        def live(thread: int) -> list[str]:
            kept = []
            for round_ in range(25):
                key = "abcd" + secrets.token_hex(14)
                data = f"{thread} {round_}".encode()
                put(store, data, key)
                assert content(store, key) == data
                assert store.size(key) == len(data)
                if round_ % 8:
                    store.delete([key])
                    assert store.size(key) is None
                else:
                    kept.append(key)
            return kept

        kept = chain.from_iterable(in_threads(*[partial(live, thread) for thread in range(8)]))
        assert set(listed(store)) == set(kept)

    # --- room ---

    def test_a_store_that_can_be_used_says_so(self, store: BlobStore) -> None:
        """observability.md section 1: what `/readyz` asks of it."""
        store.probe()

    def test_free_bytes_are_a_number_or_unknown(self, store: BlobStore) -> None:
        free, capacity = store.free_bytes(), store.capacity_bytes()
        assert free is None or free > 0
        assert capacity is None or capacity >= (free or 0)


class LocalStoreContract(BlobStoreContract):
    """Of stores that know of uploads without a state, and have only so much room."""

    def test_a_missing_upload_is_unknown(self, store: BlobStore) -> None:
        key = fresh_key()
        with pytest.raises(KeyUnknown) as unknown:
            OPERATIONS["resume"](store, key)
        assert unknown.value.key == key

    def test_the_size_of_an_upload_is_known(self, store: BlobStore) -> None:
        key = upload(store, b"1234")
        assert store.size(key) == 4
        resume(store, key, 2).close()
        assert store.size(key) == 2
        create(store, empty := fresh_key())
        assert store.size(empty) == 0

    def test_a_committed_object_is_not_resumed(self, store: BlobStore) -> None:
        key = put(store)
        with pytest.raises(KeyUnknown):
            store.resume(key, 4, "")

    def test_what_was_written_and_not_synced_is_committed_all_the_same(
        self, store: BlobStore
    ) -> None:
        data = secrets.token_bytes(17 * MiB)
        with store.begin(key := fresh_key()) as append:
            append.write(data)
        assert commit(store, key) == len(data)
        assert content(store, key) == data

    def test_truncating_alone_is_enough(self, store: BlobStore) -> None:
        key = upload(store, b"0123456789")
        resume(store, key, 4).close()
        assert commit(store, key) == 4
        assert content(store, key) == b"0123"

    def test_an_object_has_one_append_at_a_time(self, store: BlobStore) -> None:
        """A stalled request must not write into what another one has taken over and hashed."""
        key = upload(store)
        with resume(store, key, 5) as first:
            with pytest.raises(OSError, match="still open") as refused:
                resume(store, key, 0)
            assert refused.value.errno == errno.EBUSY
            first.write(b" kept")
        with resume(store, key, 10) as second:
            second.write(b" too")
        assert appended(store, key) == b"bytes kept too"

    def test_a_commit_is_refused_while_an_append_is_open(self, store: BlobStore) -> None:
        key = upload(store)
        with resume(store, key, 5) as append:
            with pytest.raises(OSError, match="still open") as refused:
                commit(store, key)
            assert refused.value.errno == errno.EBUSY
            append.write(b"!")
        assert commit(store, key) == 6

    def test_an_append_closes_when_its_block_fails(self, store: BlobStore) -> None:
        key = upload(store)

        def broken_connection() -> None:
            with resume(store, key, 5) as append:
                append.write(b", kept")
                raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            broken_connection()
        with resume(store, key, 11) as append:
            append.write(b", resumed")
        assert appended(store, key) == b"bytes, kept, resumed"

    def test_an_upload_is_not_begun_again(self, store: BlobStore) -> None:
        key = upload(store)
        with pytest.raises(FileExistsError):
            create(store, key)
        assert appended(store, key) == b"bytes"

    def test_one_of_many_creators_wins(self, store: BlobStore) -> None:
        for _ in range(10):
            key = fresh_key()

            def begin(key: str = key) -> bool:
                try:
                    create(store, key)
                except FileExistsError:
                    return False
                return True

            assert sorted(in_threads(*[begin] * 8)) == [False] * 7 + [True]

    def test_commit_and_delete_of_one_key_end_one_way_or_the_other(self, store: BlobStore) -> None:
        """deletion.md R17. Whichever was first: after the delete nothing of the object is left."""
        for _ in range(50):
            key = upload(store)

            def finish(key: str = key) -> int | None:
                try:
                    return commit(store, key)
                except KeyUnknown:
                    return None

            outcome, _ = in_threads(finish, partial(store.delete, [key]))
            assert outcome in (5, None)
            assert store.size(key) is None
        assert listed(store) == {}

    def test_a_full_store_says_so_and_recovers(self, small_store: BlobStore) -> None:
        """reliability.md F15: deletes and reads keep working, the session stays resumable."""
        kept = put(small_store, b"kept")
        key = fresh_key()
        create(small_store, key)
        piece = bytearray(secrets.token_bytes(MiB))
        with resume(small_store, key, 0) as append:
            with pytest.raises(StoreFull) as full:
                fill(append, piece)
            assert full.value.errno == errno.ENOSPC
            piece.clear()  # the failed write does not keep the buffer either
            stored = append.offset
        assert small_store.size(key) == stored
        free = small_store.free_bytes()
        assert free is not None
        assert free < MiB
        assert content(small_store, kept) == b"kept"

        resume(small_store, key, stored // 2).close()
        assert commit(small_store, key) == stored // 2
        small_store.delete([key])
        free = small_store.free_bytes()
        assert free is not None
        assert free >= MiB
        again = put(small_store, secrets.token_bytes(MiB // 2))
        assert set(listed(small_store)) == {kept, again}
