"""The store in a container, on a real Azurite (docs/design/azure-storage.md)."""

from __future__ import annotations

import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
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
from tests.support.containers import Azurite
from ullage.blobs.protocol import BlobStore, KeyUnknown, NotDeleted

if TYPE_CHECKING:
    from ullage.blobs.azure.store import AzureBlobStore

pytestmark = pytest.mark.client

BLOCK = 8 * MiB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azure") / "containers") as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def container(server: Azurite) -> str:
    return server.fresh_bucket()


@pytest.fixture
def store(server: Azurite, container: str) -> BlobStore:
    return open_at(server.url(container, "below/here"))


def open_at(url: str) -> AzureBlobStore:
    """Without the probe of a start, which has tests of its own."""
    from ullage.blobs.azure.container import Container
    from ullage.blobs.azure.options import parse_azure_url
    from ullage.blobs.azure.store import AzureBlobStore

    return AzureBlobStore(Container(parse_azure_url(url)))


class TestAzureBlobStore(BlobStoreContract):
    """The contract of all stores."""

    def test_resuming_drops_what_lies_beyond_the_offset(self, store: BlobStore) -> None:
        """Blocks cannot be read before the commit, and so none be cut in two."""
        with store.begin(key := fresh_key()) as append:
            append.write(b"kept|")
            append.sync()
            append.write(b"not recorded, and longer than what comes")
            keep(append, key)
        with resume(store, key, 5) as append:
            append.write(b"new")
            append.commit()
        assert content(store, key) == b"kept|new"

    def test_an_upload_deleted_under_its_writer_stays_deleted(self, store: BlobStore) -> None:
        """deletion.md R17: a late block may come; the second deletion of a session removes it."""
        key = upload(store)
        with resume(store, key, 5) as append:
            delete(store, [key])
            append.write(b"into the void")
            keep(append, key)
        with pytest.raises(KeyUnknown):
            commit_as_kept(store, key)
        delete(store, [key])
        assert store.size(key) is None
        assert listed(store) == {}


def two_blocks() -> bytes:
    """Two blocks and a little."""
    return secrets.token_bytes(2 * BLOCK + 12345)


# --- uploads ----------------------------------------------------------------------------------


def test_an_upload_of_blocks_goes_on_in_another_process(
    server: Azurite, container: str, store: BlobStore
) -> None:
    """azure-storage.md section 3: no request needs the process that served the one before."""
    data = two_blocks()
    key = upload(store, data)
    offset, state = KEPT[key]
    other = open_at(server.url(container, "below/here"))
    with other.resume(key, offset, state) as append:
        append.write(data)
        append.commit()
    assert content(store, key) == data + data


def test_blocks_are_listed_with_their_bytes(store: BlobStore) -> None:
    """azure-storage.md section 1: the container adds up with what is not committed."""
    data = two_blocks()
    key = upload(store, data)
    (found,) = store.list()
    assert (found.key, found.size, found.committed) == (key, len(data), False)
    assert (found.place, found.problem) == (None, None)
    assert store.size(key) == len(data)
    assert [each.key for each in store.list(int(key[:2], 16))] == [key]


def test_a_late_block_of_a_stalled_request_changes_nothing(
    server: Azurite, container: str, store: BlobStore
) -> None:
    """azure-storage.md section 4, O1: it has a name of its own, and goes with the commit."""
    key = upload(store, b"first ")
    offset, state = KEPT[key]
    stalled = store.resume(key, offset, state)
    with resume(store, key, offset) as append:
        append.write(b"second")
        keep(append, key)
    stalled.write(b"other bytes")
    stalled.sync()
    stalled.close()
    assert commit_as_kept(store, key) == 12
    assert content(store, key) == b"first second"
    assert server.stored_bytes(container) == 12


def test_a_stalled_request_that_ends_takes_nothing_away(store: BlobStore) -> None:
    """azure-storage.md section 4, O1: of a session whose bytes another request has acknowledged."""
    key = fresh_key()
    stalled = store.begin(key)
    stalled.write(b"x" * BLOCK)
    with store.begin(key) as append:
        append.write(b"acknowledged")
        keep(append, key)
    stalled.close()
    assert commit_as_kept(store, key) == 12
    assert content(store, key) == b"acknowledged"


def commit_as_kept(store: BlobStore, key: str) -> int:
    """Commit what a row knows of an upload, whatever else was stored for it."""
    offset, state = KEPT[key]
    with store.resume(key, offset, state) as append:
        append.commit()
    KEPT[key] = (offset, "")
    return offset


def test_a_small_blob_is_stored_where_a_killed_request_left_blocks(store: BlobStore) -> None:
    """Whether or not the service lets one request replace them."""
    key = fresh_key()
    with store.begin(key) as killed:
        killed.write(b"x" * BLOCK)
    with store.begin(key) as append:
        append.write(b"small")
        append.commit()
    assert content(store, key) == b"small"


def test_an_upload_is_cut_off_where_a_block_ends_and_nowhere_else(store: BlobStore) -> None:
    data = two_blocks()
    key = upload(store, data)
    for offset in (1, BLOCK - 1, 2 * BLOCK + 1):
        with pytest.raises(OSError, match="no byte"):
            resume(store, key, offset)
    with resume(store, key, BLOCK) as append:
        append.write(b"more")
        append.commit()
    assert content(store, key) == data[:BLOCK] + b"more"


def test_many_small_requests_make_one_blob(store: BlobStore) -> None:
    key = upload(store, b"0")
    pieces = [secrets.token_bytes(size) for size in (1, BLOCK, 7, BLOCK + 1, BLOCK - 1)]
    for piece in pieces:
        with resume(store, key, KEPT[key][0]) as append:
            append.write(piece)
            keep(append, key)
    commit(store, key)
    assert content(store, key) == b"0" + b"".join(pieces)


def test_a_state_is_of_one_key(store: BlobStore) -> None:
    key = upload(store)
    with pytest.raises(KeyUnknown):
        store.resume(fresh_key(), 5, KEPT[key][1])


def test_a_state_that_cannot_be_read_does_not_keep_other_keys(store: BlobStore) -> None:
    key = put(store)
    with pytest.raises(NotDeleted) as refused:
        store.delete([key], ["x"])
    assert set(refused.value.failures) == {"x"}
    assert listed(store) == {}


@pytest.mark.parametrize("state", ["x", "{}", "[]", "1", '{"key": "k", "block": "x"}'])
def test_what_is_no_state_is_refused(store: BlobStore, state: str) -> None:
    with pytest.raises(OSError, match="no state of an upload"):
        store.resume(fresh_key(), 5, state)


def test_an_object_of_more_blocks_than_the_service_takes_is_refused(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ullage.blobs.azure import append as module

    monkeypatch.setattr(module, "MOST_BLOCKS", 2)
    with store.begin(fresh_key()) as append, pytest.raises(OSError, match="no more than 2 blocks"):
        append.write(bytes(3 * BLOCK))


# --- commits that are done once more (azure-storage.md section 4: O2, O5) -------------------------


def test_a_blob_of_one_request_whose_answer_was_lost_is_found_out(store: BlobStore) -> None:
    """Also by a request that sends all of its bytes again."""
    key = fresh_key()
    for _ in range(2):
        with store.begin(key) as append:
            append.write(b"small")
            append.commit()
    assert content(store, key) == b"small"


@pytest.mark.parametrize("size", [5, 2 * BLOCK])
def test_a_commit_of_all_that_was_synced_is_done_once_more(store: BlobStore, size: int) -> None:
    key = upload(store, data := secrets.token_bytes(size))
    offset, state = KEPT[key]
    for _ in range(3):
        with store.resume(key, offset, state) as append:
            append.commit()
    assert content(store, key) == data


@pytest.mark.parametrize("size", [5, 2 * BLOCK + 12345])
def test_other_bytes_of_the_same_size_are_not_taken_for_those(store: BlobStore, size: int) -> None:
    """Their digest was proven by what was sent, and what is stored has another one."""
    data = secrets.token_bytes(size)
    with store.begin(key := fresh_key()) as append:
        append.write(data)
        append.commit()
    late = pytest.raises(KeyUnknown)
    with late, store.begin(key) as append:
        append.write(data[::-1])
        append.commit()
    assert content(store, key) == data


def test_a_late_request_replaces_nothing(store: BlobStore) -> None:
    """azure-storage.md section 1: no name is ever written twice."""
    key = put(store, b"first")
    late = pytest.raises(KeyUnknown)
    with late, store.begin(key) as append:
        append.write(b"a late one")
        append.commit()
    assert content(store, key) == b"first"


def test_a_commit_of_an_upload_that_was_cancelled_makes_nothing(store: BlobStore) -> None:
    """deletion.md R17."""
    key = upload(store, two_blocks())
    with resume(store, key, KEPT[key][0]) as append:
        delete(store, [key])
        with pytest.raises(KeyUnknown):
            append.commit()
    assert list(store.list()) == []


# --- deleting and dropping ------------------------------------------------------------------------


@pytest.mark.thorough
def test_more_than_one_request_takes_is_deleted(store: BlobStore) -> None:
    keys = sorted(fresh_key() for _ in range(300))
    for key in keys[:5] + keys[-5:]:
        with store.begin(key) as append:
            append.write(b"x")
            append.commit()
    store.delete(keys)
    assert list(store.list()) == []


def test_one_blob_that_refuses_to_go_does_not_keep_the_others(
    server: Azurite, container: str, store: BlobStore
) -> None:
    """azure-storage.md section 4, O12: a lease keeps it, as a policy of immutability would."""
    keys = sorted(put(store) for _ in range(5))
    lease = (
        server.client(container)
        .get_blob_client(f"below/here/{keys[2][:2]}/{keys[2]}")
        .acquire_lease()
    )
    with pytest.raises(NotDeleted, match=f"{keys[2]}: LeaseIdMissing") as refused:
        store.delete(keys)
    assert set(refused.value.failures) == {keys[2]}
    assert set(listed(store)) == {keys[2]}
    lease.release()
    store.delete(keys)
    assert list(store.list()) == []


def test_blocks_are_dropped_and_a_blob_that_was_made_of_them_is_not(
    server: Azurite, container: str, store: BlobStore
) -> None:
    """azure-storage.md section 4, O4."""
    gone, made = upload(store, b"gone"), upload(store, b"made")
    found = list(store.list())
    commit(store, made)
    late = store.begin(made)
    late.write(b"late")
    late.sync()
    store.drop(found)
    store.drop(found)
    assert store.size(gone) is None
    assert content(store, made) == b"made"
    assert server.stored_bytes(container) == len(b"made" + b"late")


def test_what_no_key_reaches_is_listed_with_its_problem_and_not_dropped(
    server: Azurite, container: str, store: BlobStore
) -> None:
    client = server.client(container)
    for name in ("below/here/notes.txt", "below/here/ab/notes.txt", "below/hereafter", "other/x"):
        client.upload_blob(name, b"notes")
    key = put(store)
    odd = [each for each in store.list() if each.problem]
    assert {each.key for each in odd} == {"notes.txt", "ab/notes.txt"}
    for each in odd:
        with pytest.raises(ValueError, match="not a storage key"):
            store.drop([each])
    assert content(store, key) == b"bytes"


def test_the_container_adds_up(server: Azurite, container: str, store: BlobStore) -> None:
    """azure-storage.md section 1: listed bytes are all bytes but for the label."""
    store.write_label("label")
    put(store, secrets.token_bytes(2 * BLOCK))
    put(store, b"")
    upload(store, two_blocks())
    upload(store, b"small")
    label = frozenset({"below/here/registry-id"})
    stored = server.stored_bytes(container, beside=label)
    assert stored == sum(each.size for each in store.list())


def test_two_registries_share_a_container(
    server: Azurite, container: str, store: BlobStore
) -> None:
    other = open_at(server.url(container, "other"))
    keys = {put(store)}, {put(other), upload(other)}
    assert (set(listed(store)), set(listed(other))) == keys
    whole = open_at(server.url(server.fresh_bucket()))
    key = put(whole)
    assert set(listed(whole)) == {key}


# --- ages -----------------------------------------------------------------------------------------


def test_ages_are_told_by_the_services_clock(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """azure-storage.md section 4, O10: what was just stored is new, whatever the time here is."""
    upload(store)
    put(store)
    now = time.time
    # Within the 15 minutes that a signature allows.
    monkeypatch.setattr(time, "time", lambda: now() + 600)
    for found in store.list():
        assert abs(time.time() - found.modified) < 60


# --- reading --------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that are made from now on: method, and what of a blob."""
    from azure.core.pipeline.transport import RequestsTransport

    made: list[str] = []
    send = RequestsTransport.send

    def counting(self: Any, request: Any, **options: Any) -> Any:
        query = parse_qs(urlsplit(request.url).query)
        made.append(" ".join([request.method, *query.get("comp", ())]))
        return send(self, request, **options)

    monkeypatch.setattr(RequestsTransport, "send", counting)
    return made


def test_reading_in_order_is_one_request(store: BlobStore, asked: list[str]) -> None:
    data = two_blocks()
    key = put(store, data)
    asked.clear()
    with store.open(key, len(data)) as reader:
        pieces = [reader.read_at(at, 256 * 1024) for at in range(0, len(data), 256 * 1024)]
    assert b"".join(pieces) == data
    assert asked == ["GET"]


def test_a_range_is_one_request_for_just_its_bytes(store: BlobStore, asked: list[str]) -> None:
    data = two_blocks()
    key = put(store, data)
    asked.clear()
    with store.open(key, len(data)) as reader:
        assert reader.read_at(BLOCK, 1000) == data[BLOCK : BLOCK + 1000]
        assert reader.read_at(3, 70_000) == data[3 : 3 + 70_000]
    assert asked == ["GET"] * 2


def test_a_blob_that_is_shorter_than_its_row_says_ends_early(store: BlobStore) -> None:
    key = put(store, b"12345")
    with store.open(key, 10) as reader:
        assert reader.read_at(0, 10) == b"12345"
        assert reader.read_at(7, 3) == b""


def test_a_small_blob_is_one_request_to_push_and_one_to_pull(
    store: BlobStore, asked: list[str]
) -> None:
    """azure-storage.md section 3."""
    with store.begin(key := fresh_key()) as append:
        append.write(b"small")
        append.commit()
    with store.open(key, 5) as reader:
        assert reader.read_at(0, 5) == b"small"
    assert asked == ["PUT", "GET"]


def test_a_large_blob_is_one_request_for_each_block_and_one_more(
    store: BlobStore, asked: list[str]
) -> None:
    """azure-storage.md section 3."""
    with store.begin(fresh_key()) as append:
        append.write(two_blocks())
        append.commit()
    assert asked == ["PUT block"] * 3 + ["PUT blocklist"]


# --- links ----------------------------------------------------------------------------------------


def test_a_link_reads_the_blob_and_says_what_it_is(store: BlobStore) -> None:
    key = put(store, b"linked")
    link = store.link(key, 60)
    assert link is not None
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"linked"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == "private, max-age=60"


def test_a_link_lasts_as_long_as_was_asked_for_and_no_longer(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """buckets.md, "Pulls": a blob's bytes stay for exactly as long as its URLs."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    link = store.link(fresh_key(), 300)
    assert link is not None
    assert _end_of(link) == int(now) + 300


def _end_of(link: str) -> int:
    (text,) = parse_qs(urlsplit(link).query)["se"]
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def test_a_link_is_for_the_host_that_clients_reach(server: Azurite, container: str) -> None:
    """azure-storage.md section 1: `public` is another name of the same server."""
    public = server.endpoint.replace("127.0.0.1", "localhost")
    store = open_at(server.url(container, public=public))
    link = store.link(put(store, b"linked"), 60)
    assert link is not None
    assert link.startswith(f"{public}/")
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"linked"


def test_a_link_of_what_is_gone_reads_nothing(store: BlobStore) -> None:
    key = put(store)
    link = store.link(key, 60)
    store.delete([key])
    assert link is not None
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(link)
    refused.value.close()


# --- many at once ---------------------------------------------------------------------------------


@pytest.mark.thorough
def test_uploads_at_once_share_the_room_for_blocks(store: BlobStore) -> None:
    """More than there is room for: each waits for its turn, none for good."""
    data = two_blocks()

    def push() -> None:
        assert content(store, put(store, data)) == data

    in_parallel([push] * 12)
    assert [each.size for each in store.list()] == [len(data)] * 12


def in_parallel(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
