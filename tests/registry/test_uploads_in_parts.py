"""Upload sessions in a store that needs a state to go on: docs/design/store.md, "How bytes become
a blob"; blobs/protocol.py.

The store is tests/support/parts_store.py, with parts of ten bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.parts_store import PartsStore, parse_state
from tests.support.registry import ALICE, make_registry, push_blob, settle
from tests.support.soundness import assert_sound
from ullage import failpoints
from ullage.blobs.protocol import StoredObject
from ullage.database.schema.content import repositories
from ullage.database.transaction import Database, Transaction
from ullage.deletion.reclaim import RECLAIM_CLAIM, reclaim_due
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUploadUnknown, DigestInvalid, Unavailable
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.pull.read import open_blob
from ullage.registry.push import upload_claim
from ullage.registry.push.prepared import commit
from ullage.registry.push.sessions import Upload, cancel_upload, get_upload, start_upload
from ullage.registry.push.uploads import append_upload, finish_upload, upload_whole
from ullage.registry.queries.reclaim.tombstones import (
    Tombstone,
    claim_tombstones,
    drop_tombstones,
)
from ullage.registry.queries.upload_claims import CLAIM_PERIOD
from ullage.registry.stored_objects import unnamed
from ullage.usage.usage import registry_totals, unexplained

APP = parse_repository_name("app")
DATA = b"twenty-three bytes long"
OTHER = b"as many bytes of others"
HALF = 14


@pytest.fixture
def parts() -> PartsStore:
    return PartsStore()


@pytest.fixture
def registry(db: Database, parts: PartsStore, clock: FakeClock) -> Iterator[Registry]:
    registry = registry_on(db, parts, clock)
    yield registry
    assert_sound(registry)
    assert unnamed(registry, list(parts.list())) == []


def another(registry: Registry) -> Registry:
    """Another process on the same database and store; on SQLite a later one."""
    assert isinstance(registry.now, FakeClock)
    return registry_on(registry.db, registry.blobs, registry.now)


def append(registry: Registry, upload: Upload, data: bytes) -> Upload:
    """One PATCH."""
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(data)
    return session.close()


def read_blob(registry: Registry, digest: Digest) -> bytes:
    with closing(open_blob(registry, APP, digest)) as reader:
        return reader.read_at(0, reader.size)


def left_over(parts: PartsStore) -> list[StoredObject]:
    """What is in the store and no object."""
    return [found for found in parts.list() if not found.committed]


def cut_off_before_the_row(registry: Registry, work: Callable[[], object]) -> None:
    """Let a final PUT end with its bytes committed, and the row not told."""
    failpoints.configure("upload.finish.before_row=raise:EIO")
    try:
        with pytest.raises(OSError, match="failpoint"):
            work()
    finally:
        failpoints.configure("")


def test_each_request_may_come_to_another_process(registry: Registry, parts: PartsStore) -> None:
    upload = start_upload(registry, APP, ALICE)
    assert parts.requests.total() == 0
    for start in range(0, len(DATA), 3):
        append(another(registry), upload, DATA[start : start + 3])
    blob = finish_upload(another(registry), APP, upload.id, ALICE, digest_of(DATA))
    # The hash goes on as well: nothing was read but tails.
    assert parts.requests["get"] == 0
    settle(registry)
    assert left_over(parts) == []
    assert parts.objects[blob.key].data == read_blob(registry, digest_of(DATA)) == DATA


def test_a_small_blob_costs_one_request_to_the_store(registry: Registry, parts: PartsStore) -> None:
    push_blob(registry, "app", b"small")
    assert parts.requests == {"put": 1}


def test_the_tail_before_goes_with_its_size_once_there_is_another(
    registry: Registry, parts: PartsStore
) -> None:
    upload = start_upload(registry, APP, ALICE)
    append(registry, upload, b"abc")
    append(registry, upload, b"defg")
    assert sorted(found.size for found in left_over(parts)) == [3, 7]
    totals = registry_totals(registry)
    assert (totals.uploading_bytes, totals.pending_bytes) == (7, 3)
    assert totals.disk_bytes == sum(found.size for found in parts.list())
    assert unexplained(registry) == (10, 0)
    assert reclaim_due(registry) == 1
    assert [found.size for found in left_over(parts)] == [7]
    assert registry_totals(registry).reclaimed_bytes == 3


ENDS: dict[str, Callable[[Registry, Upload, FakeClock], None]] = {
    "cancelled": lambda registry, upload, clock: cancel_upload(registry, APP, upload.id, ALICE),
    "expired": lambda registry, upload, clock: expire(registry, clock),
    "of a deleted repository": lambda registry, upload, clock: registry.write(take_name_away),
}


def expire(registry: Registry, clock: FakeClock) -> None:
    clock.advance(registry.limits.upload_idle.total_seconds() + 1)


def take_name_away(tx: Transaction) -> None:
    """As a deletion does, but for what it hands over to the next repository of that name."""
    gone = repositories.update().values(name=None, deleted_at=1)
    tx.execute_directly(gone.where(repositories.c.name == APP))


@pytest.mark.parametrize("end", ENDS)
def test_what_a_session_had_goes_when_it_ends(
    registry: Registry, parts: PartsStore, clock: FakeClock, end: str
) -> None:
    upload = start_upload(registry, APP, ALICE)
    append(registry, upload, DATA)
    assert sorted(found.size for found in left_over(parts)) == [3, 20]
    ENDS[end](registry, upload, clock)
    settle(registry)
    assert list(parts.list()) == []
    assert registry_totals(registry).reclaimed_bytes == len(DATA)


def test_a_cancelled_session_is_on_the_bill_until_it_is_erased(
    registry: Registry, parts: PartsStore
) -> None:
    upload = start_upload(registry, APP, ALICE)
    append(registry, upload, DATA)
    cancel_upload(registry, APP, upload.id, ALICE)
    assert registry_totals(registry).pending_bytes == len(DATA)
    assert unexplained(registry) == (len(DATA), 0)


def test_a_request_that_fails_leaves_nothing_of_its_own(
    registry: Registry, parts: PartsStore
) -> None:
    upload = start_upload(registry, APP, ALICE)
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(DATA)
    assert left_over(parts) != []
    session.abandon()
    assert left_over(parts) == []
    append(registry, upload, DATA)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


def test_a_wrong_digest_leaves_the_session_as_it_was(registry: Registry, parts: PartsStore) -> None:
    upload = start_upload(registry, APP, ALICE)
    append(registry, upload, DATA[:HALF])
    with pytest.raises(DigestInvalid):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(OTHER), [DATA[HALF:]])
    assert get_upload(registry, APP, upload.id, ALICE).offset == HALF
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA[HALF:]])
    settle(registry)
    assert left_over(parts) == []


def test_a_wrong_digest_of_another_algorithm_ends_the_session_with_its_bytes(
    registry: Registry, parts: PartsStore
) -> None:
    """They had to be committed to be read, and an object takes no more bytes."""
    upload = start_upload(registry, APP, ALICE)
    append(registry, upload, DATA[:HALF])
    wrong = digest_of(OTHER, "sha512")
    with pytest.raises(DigestInvalid):
        finish_upload(registry, APP, upload.id, ALICE, wrong, [DATA[HALF:]])
    with pytest.raises(BlobUploadUnknown):
        get_upload(registry, APP, upload.id, ALICE)
    settle(registry)
    assert list(parts.list()) == []


# --- commits that are cut off ---------------------------------------------------------------------


def test_a_commit_is_in_the_row_before_it_begins(registry: Registry, parts: PartsStore) -> None:
    """So that what it began is a session's, whatever becomes of its process."""
    upload = start_upload(registry, APP, ALICE)
    failpoints.configure("upload.finish.before_row=raise:EIO")
    session = append_upload(registry, APP, upload.id, ALICE, last=True)
    session.write(DATA)
    begun = {found.place for found in left_over(parts)}
    cut_off_before_the_row(registry, lambda: session.commit(digest_of(DATA)))
    state = parse_state(get_upload(registry, APP, upload.id, ALICE).state)
    assert (state.committing, {state.upload}) == (True, begun)
    cancel_upload(registry, APP, upload.id, ALICE)
    settle(registry)
    assert list(parts.list()) == []


@pytest.mark.parametrize("first", [0, HALF, len(DATA)])
def test_a_commit_whose_row_was_not_told_is_finished_by_the_same_request(
    registry: Registry, parts: PartsStore, first: int
) -> None:
    upload = start_upload(registry, APP, ALICE)
    append(registry, upload, DATA[:first])

    def finish(registry: Registry) -> str:
        last = [DATA[first:]] if first < len(DATA) else []
        return finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), last).key

    cut_off_before_the_row(registry, lambda: finish(registry))
    assert finish(another(registry)) == upload.key
    settle(registry)
    assert left_over(parts) == []
    assert read_blob(registry, digest_of(DATA)) == DATA


@pytest.mark.parametrize("data", [(DATA, OTHER), (b"small", b"other")], ids=["parts", "whole"])
def test_a_commit_whose_row_was_not_told_is_no_other_blob(
    registry: Registry, parts: PartsStore, data: tuple[bytes, bytes]
) -> None:
    """As many other bytes come with their own right digest: those that are stored count."""
    first, second = data
    upload = start_upload(registry, APP, ALICE)
    cut_off_before_the_row(
        registry,
        lambda: finish_upload(registry, APP, upload.id, ALICE, digest_of(first), [first]),
    )
    with pytest.raises(DigestInvalid):
        finish_upload(another(registry), APP, upload.id, ALICE, digest_of(second), [second])
    finish_upload(another(registry), APP, upload.id, ALICE, digest_of(first), [first])
    assert read_blob(registry, digest_of(first)) == first


@pytest.fixture
def with_memory_sessions(tmp_path: Path, parts: PartsStore, clock: FakeClock) -> Iterator[Registry]:
    """One process that owns its database: sessions without acknowledged bytes have no row."""
    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", parts, clock)
    assert registry.memory_sessions is not None
    yield registry
    assert_sound(registry)
    registry.db.close()


def test_a_session_in_memory_knows_that_a_commit_may_have_begun(
    with_memory_sessions: Registry, parts: PartsStore
) -> None:
    registry = with_memory_sessions
    upload = start_upload(registry, APP, ALICE)
    cut_off_before_the_row(
        registry,
        lambda: finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA]),
    )
    assert registry_totals(registry).uploading_bytes == len(DATA)
    with pytest.raises(DigestInvalid):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(OTHER), [OTHER])
    cancel_upload(registry, APP, upload.id, ALICE)
    settle(registry)
    assert list(parts.list()) == []


def test_what_a_session_in_memory_had_goes_when_it_ends(
    with_memory_sessions: Registry, parts: PartsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit had begun, so what it is made of is the session's."""

    def fails(*asked: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    registry = with_memory_sessions
    monkeypatch.setattr(parts, "complete", fails)
    upload = start_upload(registry, APP, ALICE)
    with pytest.raises(Unavailable):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    assert len(left_over(parts)) == 1
    cancel_upload(registry, APP, upload.id, ALICE)
    assert unnamed(registry, list(parts.list())) == []
    settle(registry)
    assert list(parts.list()) == []


def test_a_blob_that_is_there_already_leaves_no_second_copy(
    registry: Registry, parts: PartsStore
) -> None:
    """Race R19."""
    for _ in range(2):
        upload_whole(registry, APP, ALICE, digest_of(DATA), [DATA])
    settle(registry)
    assert [found.size for found in parts.list()] == [len(DATA)]


# --- requests that come late ----------------------------------------------------------------------


LATE: dict[str, Callable[[Registry, Upload], object]] = {
    "goes on": lambda registry, upload: append(registry, upload, OTHER),
    "cancels": lambda registry, upload: cancel_upload(registry, APP, upload.id, ALICE),
    "finishes": lambda registry, upload: finish_upload(
        registry, APP, upload.id, ALICE, digest_of(DATA[:HALF] + OTHER), [OTHER]
    ),
}


@pytest.mark.postgresql
@pytest.mark.parametrize("end", ["close", "commit"])
@pytest.mark.parametrize("meanwhile", LATE)
def test_what_a_late_request_stored_goes_and_nothing_of_another(
    postgres_db: Database, parts: PartsStore, clock: FakeClock, meanwhile: str, end: str
) -> None:
    """Every write to the row carries the claim; what comes late buries what it alone has."""
    registry = registry_on(postgres_db, parts, clock)
    upload = start_upload(registry, APP, ALICE)
    append(registry, upload, DATA[:HALF])
    late = append_upload(registry, APP, upload.id, ALICE)
    late.write(DATA[HALF:])
    clock.advance(CLAIM_PERIOD.total_seconds())
    LATE[meanwhile](another(registry), upload)
    with pytest.raises((BlobUploadUnknown, Unavailable)):
        late.close() if end == "close" else late.commit(digest_of(DATA))
    settle(registry)
    assert unnamed(registry, list(parts.list())) == []
    assert_sound(registry)
    whole = DATA[:HALF] + OTHER
    if meanwhile == "goes on":
        finish_upload(registry, APP, upload.id, ALICE, digest_of(whole))
    settle(registry)
    assert left_over(parts) == []
    expected = [] if meanwhile == "cancels" else [whole]
    assert [stored.data for stored in parts.objects.values()] == expected


@pytest.mark.parametrize("erased", ["before", "while", "after"])
def test_an_object_that_comes_after_its_session_was_cancelled_goes(
    registry: Registry,
    parts: PartsStore,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    erased: str,
) -> None:
    """Race R17: its tombstone is done, or about to be, when the object appears."""
    upload = start_upload(registry, APP, ALICE)
    put, claimed = parts.put_object, []

    def cancelled_meanwhile(key: str, data: bytes) -> None:
        cancel_upload(registry, APP, upload.id, ALICE)
        if erased == "before":
            settle(registry)
        elif erased == "while":
            claimed.extend(claim(registry))
        put(key, data)

    monkeypatch.setattr(parts, "put_object", cancelled_meanwhile)
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(b"small"), [b"small"])
    # The one that had claimed it has erased it before it came.
    registry.write(lambda tx: drop_tombstones(tx, "claimed before", claimed))
    settle(registry)
    assert list(parts.list()) == []


def claim(registry: Registry) -> list[Tombstone]:
    now = registry.now()
    until = now + RECLAIM_CLAIM
    return registry.write(lambda tx: claim_tombstones(tx, "claimed before", None, now, until, 9))


def test_an_object_that_another_request_made_a_blob_of_stays(
    registry: Registry, parts: PartsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late one of two must not bury what it did commit, but is the other's by now."""
    upload = start_upload(registry, APP, ALICE)
    session = append_upload(registry, APP, upload.id, ALICE, last=True)
    session.write(DATA)
    prepared = session.prepare(digest_of(DATA))
    registry.claims.release(registry.db, upload.id, session._claim._token)
    finish_upload(another(registry), APP, upload.id, ALICE, digest_of(DATA))
    with pytest.raises(BlobUploadUnknown):
        commit(registry, prepared)
    settle(registry)
    assert read_blob(registry, digest_of(DATA)) == DATA


# --- the bill -------------------------------------------------------------------------------------


def test_bytes_that_are_arriving_are_on_the_bill_without_asking_the_store(
    registry: Registry, parts: PartsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_claim, "MOST_UNRECORDED", len(DATA))
    upload = start_upload(registry, APP, ALICE)
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(DATA[:-1])
    assert registry_totals(registry).uploading_bytes == 0
    session.write(DATA)
    assert registry_totals(registry).uploading_bytes == 2 * len(DATA) - 1
    session.close()
    assert registry_totals(registry).uploading_bytes == 2 * len(DATA) - 1
    assert parts.requests["head"] == 0
