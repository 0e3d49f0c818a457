"""The store in a bucket, on a real S3 server (docs/design/buckets.md)."""

from __future__ import annotations

import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.blobs.contract import (
    KEPT,
    BlobStoreContract,
    MiB,
    commit,
    content,
    delete,
    fresh_key,
    keep,
    listed,
    put,
    resume,
    upload,
)
from tests.support.buckets import CREDENTIALS, S3Server
from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import BlobStore, KeyUnknown

pytestmark = pytest.mark.client

PART = 5 * MiB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "buckets") as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.fresh_bucket()


@pytest.fixture
def store(server: S3Server, bucket: str) -> BlobStore:
    """Without the probe of a start, which has tests of its own."""
    from ullage.blobs.s3.bucket import Bucket
    from ullage.blobs.s3.options import parse_s3_url
    from ullage.blobs.s3.store import S3BlobStore

    return S3BlobStore(Bucket(parse_s3_url(server.url(bucket, "below/here", part="5MiB"))))


class TestS3BlobStore(BlobStoreContract):
    """The contract of all stores."""


def two_parts() -> bytes:
    """Two parts and a little."""
    return secrets.token_bytes(2 * PART + 12345)


def begun(store: BlobStore, data: bytes) -> str:
    """An upload of parts and a tail."""
    return upload(store, data)


# --- uploads ----------------------------------------------------------------------------------


def test_an_upload_of_parts_goes_on_in_another_process(
    server: S3Server, bucket: str, store: BlobStore
) -> None:
    """buckets.md section 3: no request needs the process that served the one before."""
    data = two_parts()
    key = begun(store, data)
    offset, state = KEPT[key]
    other = open_blob_store(server.url(bucket, "below/here", part="64MiB"))
    with other.resume(key, offset, state) as append:
        append.write(data)
        append.commit()
    assert content(store, key) == data + data


def test_parts_and_tail_are_listed_with_their_bytes(store: BlobStore) -> None:
    """buckets.md section 1: the bucket adds up with the parts of unfinished uploads."""
    key = begun(store, two_parts())
    found = list(store.list())
    assert {(each.key, each.committed, each.problem) for each in found} == {(key, False, None)}
    assert sorted(each.size for each in found) == [12345, 2 * PART]
    _, state = KEPT[key]
    assert all(each.place and each.place in state for each in found)
    shard = list(store.list(int(key[:2], 16)))
    assert [each.place for each in shard] == [each.place for each in found]


def test_what_is_left_over_is_the_tail_before(store: BlobStore) -> None:
    key = begun(store, two_parts())
    offset, before = KEPT[key]
    with resume(store, key, offset) as append:
        append.write(b"more")
        keep(append, key)
    leftover = store.leftover(before, KEPT[key][1])
    assert leftover is not None
    assert leftover.size == 12345
    store.delete([fresh_key()], [leftover.state])
    assert sorted(each.size for each in store.list()) == [12345 + 4, 2 * PART]
    assert commit(store, key) == 2 * PART + 12345 + 4


def test_a_session_that_is_gone_leaves_all_of_it_over(store: BlobStore) -> None:
    """buckets.md section 4: a stalled request finds that its session has ended."""
    key = begun(store, data := two_parts())
    leftover = store.leftover(KEPT[key][1], "")
    assert leftover is not None
    assert leftover.size == len(data)
    store.delete([], [leftover.state])
    assert list(store.list()) == []


def test_a_session_that_goes_on_elsewhere_keeps_its_parts(store: BlobStore) -> None:
    """buckets.md section 4, O1: a stalled request deletes what only it has stored: its tail."""
    key = begun(store, two_parts())
    offset, recorded = KEPT[key]
    with store.resume(key, offset, recorded) as stalled:
        stalled.write(b"never recorded")
        late = stalled.sync()
    leftover = store.leftover(late, recorded)
    assert leftover is not None
    store.delete([], [leftover.state])
    assert commit(store, key) == offset


def test_a_part_that_a_stalled_request_replaced_is_never_committed(
    server: S3Server, store: BlobStore
) -> None:
    """buckets.md section 4: the row holds the ETag of each part that was acknowledged."""
    if not server.strict:
        pytest.skip("moto keeps no ETags of parts")
    data = two_parts()
    with store.begin(key := fresh_key()) as append:
        append.write(data[:PART])
        keep(append, key)
    offset, state = KEPT[key]
    stalled = store.resume(key, offset, state)
    with resume(store, key, offset) as append:
        append.write(data[PART : 2 * PART])
        keep(append, key)
    stalled.write(secrets.token_bytes(PART))
    stalled.close()
    with pytest.raises(KeyUnknown):
        commit(store, key)
    assert store.size(key) is None


def test_an_upload_that_no_row_names_is_aborted_when_it_is_closed(store: BlobStore) -> None:
    with store.begin(fresh_key()) as append:
        append.write(two_parts())
    assert list(store.list()) == []


def test_an_upload_of_parts_is_cut_off_in_its_tail_and_not_before(store: BlobStore) -> None:
    data = two_parts()
    key = begun(store, data)
    with pytest.raises(OSError, match="no byte"):
        resume(store, key, 2 * PART - 1)
    with resume(store, key, 2 * PART + 5) as append:
        append.commit()
    assert content(store, key) == data[: 2 * PART + 5]


def test_a_tail_is_of_the_bytes_that_it_was_stored_with(store: BlobStore) -> None:
    """Also where those that follow are as many."""
    data = secrets.token_bytes(3 * PART)
    key = upload(store, data[:12345])
    with resume(store, key, 12345) as append:
        append.write(data[12345 : 12345 + PART])
        keep(append, key)
    with store.resume(key, 12345 + PART - 5, KEPT[key][1]) as append:
        append.write(b"12345")
        keep(append, key)
    assert commit(store, key) == 12345 + PART
    assert content(store, key) == data[: 12345 + PART - 5] + b"12345"
    assert {each.key: each.committed for each in store.list()} == {key: True}


def test_uploads_that_pause_do_not_fill_the_memory(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fill a part waits in the bucket, if there is much of it."""
    monkeypatch.setattr("ullage.blobs.s3.append.MEMORY_BYTES", 0)
    data = {fresh_key(): secrets.token_bytes(size) for size in (PART - 1, 2 * PART + 12345, 1000)}
    appends = {key: store.begin(key) for key in data}
    for start in range(0, 2 * PART + 12345, 100_000):
        for key, append in appends.items():
            append.write(data[key][start : start + 100_000])
    strays = {each.key: each.place for each in store.list() if each.size < PART}
    assert strays.keys() == {key for key in data if len(data[key]) == PART - 1}
    for number, (key, append) in enumerate(appends.items()):
        if number:
            append.commit()
        else:
            keep(append, key)
        append.close()
    (first, *_) = data
    assert commit(store, first) == PART - 1
    assert {key: content(store, key) for key in data} == data
    assert all(each.committed for each in store.list())


@pytest.mark.parametrize("end", ["closed", "committed"])
def test_what_waited_in_the_bucket_goes(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr("ullage.blobs.s3.append.MEMORY_BYTES", 0)
    with store.begin(key := fresh_key()) as append:
        append.write(b"x" * MiB)
        append.write(b"y" * MiB)
        assert [each.size for each in store.list()] == [2 * MiB]
        if end == "committed":
            append.commit()
    found = [(each.key, each.committed) for each in store.list()]
    assert found == ([(key, True)] if end == "committed" else [])


def test_a_state_is_of_one_key(store: BlobStore) -> None:
    key = upload(store)
    with pytest.raises(KeyUnknown):
        store.resume(fresh_key(), 5, KEPT[key][1])


@pytest.mark.parametrize("state", ["x", "{}", "[]", "1", '{"key": "k", "part": "x"}'])
def test_what_is_no_state_is_refused(store: BlobStore, state: str) -> None:
    with pytest.raises(OSError, match="no state of an upload"):
        store.resume(fresh_key(), 5, state)


def test_a_small_blob_is_one_object_and_nothing_else(
    server: S3Server, bucket: str, store: BlobStore
) -> None:
    """buckets.md section 3: no tail, no multipart upload."""
    with store.begin(key := fresh_key()) as append:
        append.write(b"whole")
        append.commit()
    names = [each["Key"] for each in server.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert names == [f"below/here/{key[:2]}/{key}"]


# --- commits that are done once more (buckets.md section 4: O2 and O5) --------------------------


@pytest.mark.parametrize("size", [5, 2 * PART + 12345, 2 * PART])
def test_a_commit_whose_answer_was_lost_is_found_out(
    server: S3Server, store: BlobStore, size: int
) -> None:
    """Also by a request that sends all of its bytes again."""
    if not server.strict and size > PART:
        pytest.skip("moto answers 500 to a part of an upload that has ended")
    data = secrets.token_bytes(size)
    key = begun(store, data)
    offset, state = KEPT[key]
    for _ in range(2):
        with store.resume(key, offset, state) as append:
            append.write(data)
            append.commit()
    with store.begin(key) as append:
        append.write(data + data)
        append.commit()
    leftover = store.leftover(state, None)
    store.delete([], [leftover.state] if leftover else [])
    assert {key: each.size for key, each in listed(store).items()} == {key: 2 * size}
    assert content(store, key) == data + data


@pytest.mark.parametrize("size", [5, 2 * PART + 12345, 2 * PART])
def test_other_bytes_of_the_same_size_are_not_taken_for_those(
    server: S3Server, store: BlobStore, size: int
) -> None:
    """Their digest was proven by what was sent, and what is stored has another one."""
    if not server.strict and size > PART:
        pytest.skip("moto answers 500 to a part of an upload that has ended")
    data = secrets.token_bytes(size)
    key = begun(store, data)
    offset, state = KEPT[key]
    with store.resume(key, offset, state) as append:
        append.write(data)
        append.commit()
    late = pytest.raises(KeyUnknown)
    with late, store.resume(key, offset, state) as append:
        append.write(data[::-1])
        append.commit()
    with late, store.begin(key) as append:
        append.write(data + data[::-1])
        append.commit()
    assert content(store, key) == data + data


def test_a_late_request_replaces_nothing(store: BlobStore) -> None:
    """buckets.md section 1: no name is ever written twice."""
    key = put(store, b"first")
    late = pytest.raises(KeyUnknown)
    with late, store.begin(key) as append:
        append.write(b"a late one")
        append.commit()
    assert content(store, key) == b"first"


def test_a_commit_of_an_upload_that_was_cancelled_makes_nothing(
    server: S3Server, store: BlobStore
) -> None:
    if not server.strict:
        pytest.skip("moto answers 500 to a part of an upload that has ended")
    key = begun(store, two_parts())
    with resume(store, key, KEPT[key][0]) as append:
        delete(store, [key])
        with pytest.raises(KeyUnknown):
            append.commit()
    assert list(store.list()) == []


# --- deleting and dropping ------------------------------------------------------------------------


@pytest.mark.thorough
def test_more_than_one_request_takes_is_deleted(store: BlobStore) -> None:
    keys = [fresh_key() for _ in range(1100)]
    for key in keys[:50] + keys[-50:]:
        with store.begin(key) as append:
            append.write(b"x")
            append.commit()
    store.delete(keys)
    assert list(store.list()) == []


def test_an_unfinished_upload_is_dropped_by_its_place(
    server: S3Server, bucket: str, store: BlobStore
) -> None:
    """buckets.md section 4, O4: a process was killed before its row named the upload."""
    data = two_parts()
    key = begun(store, data)
    stray = server.client().create_multipart_upload(
        Bucket=bucket, Key=f"below/here/{key[:2]}/{key}"
    )["UploadId"]
    found = [each for each in store.list() if each.place == stray]
    assert [(each.key, each.size, each.committed) for each in found] == [(key, 0, False)]
    store.drop(found)
    store.drop(found)
    assert {each.place for each in store.list()} == {
        each.place for each in store.list() if each.place and each.place in KEPT[key][1]
    }
    assert commit(store, key) == len(data)


def test_what_no_key_reaches_is_listed_with_its_problem_and_not_dropped(
    server: S3Server, bucket: str, store: BlobStore
) -> None:
    client = server.client()
    for name in ("below/here/notes.txt", "below/here/ab/notes.txt", "below/here/t/x", "other/x"):
        client.put_object(Bucket=bucket, Key=name, Body=b"notes")
    key = put(store)
    odd = [each for each in store.list() if each.problem]
    assert {each.key for each in odd} == {"notes.txt", "ab/notes.txt", "t/x"}
    for each in odd:
        with pytest.raises(ValueError, match="not a storage key"):
            store.drop([each])
    assert content(store, key) == b"bytes"


def test_the_bucket_adds_up(server: S3Server, bucket: str, store: BlobStore) -> None:
    """buckets.md section 1: listed bytes are all bytes but for the label."""
    store.write_label("label")
    put(store, secrets.token_bytes(2 * PART))
    begun(store, two_parts())
    upload(store, b"small")
    label = frozenset({"below/here/registry-id"})
    assert server.stored_bytes(bucket, beside=label) == sum(each.size for each in store.list())


def test_two_registries_share_a_bucket(server: S3Server, bucket: str, store: BlobStore) -> None:
    other = open_blob_store(server.url(bucket, "other"))
    keys = {put(store)}, {put(other), upload(other)}
    assert (set(listed(store)), set(listed(other))) == keys
    whole = open_blob_store(server.url(server.fresh_bucket()))
    key = put(whole)
    assert set(listed(whole)) == {key}


# --- ages -----------------------------------------------------------------------------------------


def test_ages_are_told_by_the_services_clock(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """buckets.md section 4, O10: what was just stored is new, whatever the time here is."""
    upload(store)
    now = time.time
    # Within the 15 minutes that a signature allows.
    monkeypatch.setattr(time, "time", lambda: now() + 600)
    (found,) = store.list()
    assert abs(time.time() - found.modified) < 60


# --- reading --------------------------------------------------------------------------------------


def test_reading_in_order_is_one_request(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = two_parts()
    key = put(store, data)
    asked = counted(store, monkeypatch)
    with store.open(key, len(data)) as reader:
        pieces = [reader.read_at(at, 256 * 1024) for at in range(0, len(data), 256 * 1024)]
    assert b"".join(pieces) == data
    assert asked == ["get_object"]


def test_a_range_is_one_request_for_just_its_bytes(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = two_parts()
    key = put(store, data)
    asked = counted(store, monkeypatch)
    with store.open(key, len(data)) as reader:
        assert reader.read_at(PART, 1000) == data[PART : PART + 1000]
        assert reader.read_at(3, 70_000) == data[3 : 3 + 70_000]
    assert asked == ["get_object"] * 2


def test_an_object_that_is_shorter_than_its_row_says_ends_early(store: BlobStore) -> None:
    key = put(store, b"12345")
    with store.open(key, 10) as reader:
        assert reader.read_at(0, 10) == b"12345"
        assert reader.read_at(7, 3) == b""


def counted(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that a store asks for from now on."""
    from ullage.blobs.s3.bucket import Bucket

    asked: list[str] = []
    call = Bucket.call

    def counting(self: Bucket, operation: str, /, **parameters: object) -> dict[str, object]:
        asked.append(operation)
        return call(self, operation, **parameters)

    monkeypatch.setattr(Bucket, "call", counting)
    return asked


def test_a_small_blob_is_one_request_to_push_and_one_to_pull(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """buckets.md section 3."""
    asked = counted(store, monkeypatch)
    with store.begin(key := fresh_key()) as append:
        append.write(b"small")
        append.commit()
    with store.open(key, 5) as reader:
        assert reader.read_at(0, 5) == b"small"
    assert asked == ["put_object", "get_object"]


# --- links ----------------------------------------------------------------------------------------


def test_a_link_reads_the_object_and_says_what_it_is(server: S3Server, store: BlobStore) -> None:
    if not server.strict:
        pytest.skip("moto refuses URLs that are signed for an address")
    key = put(store, b"linked")
    link = store.link(key, 60)
    assert link is not None
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"linked"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == "private, max-age=60"


def test_a_link_lasts_as_long_as_was_asked_for_and_no_longer(store: BlobStore) -> None:
    """buckets.md section 5: the registry keeps the bytes for just so long."""
    link = store.link(fresh_key(), 300)
    assert link is not None
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["300"]


def test_a_link_is_for_the_host_that_clients_reach(server: S3Server, bucket: str) -> None:
    """buckets.md section 1: signed for `public`, which is another name of the same server."""
    public = f"http://localhost:{server.port}"
    store = open_blob_store(server.url(bucket, public=public))
    link = store.link(put(store, b"linked"), 60)
    assert link is not None
    assert link.startswith(f"{public}/")
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"linked"


def test_a_link_of_what_is_gone_reads_nothing(server: S3Server, store: BlobStore) -> None:
    if not server.strict:
        pytest.skip("moto refuses URLs that are signed for an address")
    key = put(store)
    link = store.link(key, 60)
    store.delete([key])
    assert link is not None
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(link)
    refused.value.close()


# --- many at once ---------------------------------------------------------------------------------


@pytest.mark.thorough
def test_uploads_at_once_share_the_room_for_parts(store: BlobStore) -> None:
    """More than there is room for: each waits for its turn, none for good."""
    data = two_parts()

    def push() -> None:
        assert content(store, put(store, data)) == data

    threads = [threading.Thread(target=push) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert {each.size for each in store.list()} == {len(data)}
    assert len(list(store.list())) == 12
