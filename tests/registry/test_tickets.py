"""Upload sessions that no table has: tickets (deletion.md section 3.3, UPLOAD), on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, push_image, settle
from tests.support.soundness import assert_sound
from tests.support.statements import listened
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.schema import space
from ullage.database.transaction import Database, Transaction
from ullage.deletion.reclaim import expire_uploads
from ullage.oci.digest import digest_of
from ullage.oci.errors import BlobUnknown, BlobUploadUnknown, Locked, TooManyRequests
from ullage.oci.reference import parse_repository_name
from ullage.registry.attributes import AttributeChanges, update_repository
from ullage.registry.clients import Caller
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import stat_blob
from ullage.registry.push.end_sessions import DOUBT
from ullage.registry.push.left_sessions import keep_memory_sessions
from ullage.registry.push.prepared import commit
from ullage.registry.push.sessions import cancel_upload, get_upload, start_upload
from ullage.registry.push.sessions_in_memory import MemorySessions
from ullage.registry.push.tickets import ROW, open_tickets
from ullage.registry.push.uploads import add_to_upload, finish_upload, prepare_blob, upload_whole
from ullage.registry.queries import processes
from ullage.registry.queries.processes import DEAD_AFTER
from ullage.registry.queries.reserved_keys import reserved_keys
from ullage.registry.queries.upload_claims import open_claims

pytestmark = pytest.mark.postgresql

APP, WEB = parse_repository_name("app"), parse_repository_name("web")
BOB = Caller(subject="bob", address="192.0.2.1", agent="test")
DATA = b"some bytes of a layer"

Process = Callable[..., Registry]


@pytest.fixture
def process(postgres_db: Database, clock: FakeClock) -> Process:
    """Make a registry as one of several processes has it; all of them share one store."""
    store = MemoryBlobStore()

    def make(name: str = "one", limits: Limits | None = None) -> Registry:
        registry = replace(
            registry_on(postgres_db, store, clock, limits),
            claims=open_claims(postgres_db, name),
            memory_sessions=MemorySessions(),
            tickets=open_tickets(postgres_db, "a secret"),
            process=name,
        )
        beat(registry)
        return registry

    return make


@pytest.fixture
def registry(process: Process) -> Registry:
    return process()


def beat(registry: Registry) -> None:
    now, name = registry.now(), registry.process
    assert name is not None
    registry.write(lambda tx: processes.beat(tx, name, "host", now, now))


def rows(registry: Registry) -> int:
    return registry.read(lambda tx: len(list(tx.execute_directly(space.uploads.select()))))


def is_stored(registry: Registry, data: bytes) -> bool:
    try:
        return stat_blob(registry, APP, digest_of(data)).size == len(data)
    except BlobUnknown:
        return False


def test_opening_a_session_writes_nothing(registry: Registry) -> None:
    with listened(registry.db) as heard:
        upload = start_upload(registry, APP, ALICE)
    assert all(each.startswith("SELECT") for each in heard)
    assert get_upload(registry, APP, upload.id, ALICE).offset == 0
    assert rows(registry) == 0


def test_a_blob_that_comes_whole_never_has_a_row(registry: Registry) -> None:
    upload = start_upload(registry, APP, ALICE)
    with listened(registry.db) as heard:
        finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    assert not [each for each in heard if "uploads SET" in each or "INTO uploads" in each]
    assert is_stored(registry, DATA)
    assert_sound(registry)


def test_a_ticket_is_good_for_one_blob_and_its_answer_can_be_had_again(registry: Registry) -> None:
    """reliability.md F36. `finished_uploads` decides, whatever came in between."""
    upload = start_upload(registry, APP, ALICE)
    first = finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    again = finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    assert again == first
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(b"other"), [b"other"])
    with pytest.raises(BlobUploadUnknown):
        get_upload(registry, APP, upload.id, ALICE)
    settle(registry)
    assert [found.size for found in registry.blobs.list()] == [len(DATA)]
    assert_sound(registry)


def test_of_two_requests_with_one_ticket_one_gets_it(process: Process) -> None:
    """R18: also in two processes, and when the bytes of both are safe already."""
    one, two = process("one"), process("two")
    upload = start_upload(one, APP, ALICE)
    first = prepare_blob(one, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    second = prepare_blob(two, APP, upload.id, ALICE, digest_of(b"other"), [b"other"])
    same = prepare_blob(two, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    blob = commit(one, first)
    with pytest.raises(BlobUploadUnknown):
        commit(two, second)
    assert commit(two, same) == blob
    assert is_stored(one, DATA)
    assert not is_stored(one, b"other")
    settle(one)
    assert [found.size for found in one.blobs.list()] == [len(DATA)]
    assert_sound(one)


@pytest.mark.parametrize("short", [False, True])
def test_a_chunk_gives_the_session_its_row(process: Process, short: bool) -> None:
    """In any process; a client that keeps to the first address is understood, too."""
    one, two = process("one"), process("two")
    opened = start_upload(one, APP, ALICE).id
    kept = add_to_upload(two, APP, opened, ALICE, 0, [DATA[:5]])
    assert kept.id == opened[:ROW]
    assert rows(one) == 1
    upload_id = kept.id if short else opened
    assert get_upload(one, APP, upload_id, ALICE).offset == 5
    add_to_upload(one, APP, upload_id, ALICE, 5, [DATA[5:9]])
    finish_upload(two, APP, upload_id, ALICE, digest_of(DATA), [DATA[9:]])
    assert finish_upload(one, APP, opened, ALICE, digest_of(DATA)).size == len(DATA)
    assert rows(one) == 0
    assert_sound(one)


def test_a_blob_may_come_whole_after_a_chunk_of_nothing(registry: Registry) -> None:
    upload = start_upload(registry, APP, ALICE)
    add_to_upload(registry, APP, upload.id, ALICE, 0, [])
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    assert is_stored(registry, DATA)
    assert rows(registry) == 0
    settle(registry)
    assert_sound(registry)


def test_a_cancelled_session_is_over(registry: Registry) -> None:
    """distribution-spec, end-14."""
    upload = start_upload(registry, APP, ALICE)
    cancel_upload(registry, APP, upload.id, ALICE)
    with pytest.raises(BlobUploadUnknown):
        cancel_upload(registry, APP, upload.id, ALICE)
    with pytest.raises(BlobUploadUnknown):
        add_to_upload(registry, APP, upload.id, ALICE, 0, [DATA])
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    settle(registry)
    assert_sound(registry)


def test_a_ticket_is_its_account_s_and_its_repository_s_and_ends(
    registry: Registry, clock: FakeClock
) -> None:
    """reliability.md I17; and nothing but the registry makes one."""
    upload_id = start_upload(registry, APP, ALICE).id
    longer = (
        f"{upload_id[:ROW]}{int(upload_id[ROW : ROW + 14], 16) + 1:014x}{upload_id[ROW + 14 :]}"
    )
    for name, caller, shown in (
        (APP, BOB, upload_id),
        (WEB, ALICE, upload_id),
        (APP, ALICE, longer),
        (APP, ALICE, upload_id[:-1] + ("1" if upload_id[-1] == "0" else "0")),
    ):
        with pytest.raises(BlobUploadUnknown):
            finish_upload(registry, name, shown, caller, digest_of(DATA), [DATA])
    clock.advance(registry.limits.empty_upload_idle.total_seconds())
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload_id, ALICE, digest_of(DATA), [DATA])
    assert list(registry.blobs.list()) == []


def test_what_a_spent_ticket_became_is_known_for_as_long_as_it_can_be_shown(
    process: Process, clock: FakeClock
) -> None:
    registry = process(limits=Limits(finished_upload=Limits.empty_upload_idle / 2))
    upload = start_upload(registry, APP, ALICE)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    clock.advance(Limits.empty_upload_idle.total_seconds() - 1)
    settle(registry)
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(b"other"), [b"other"])


def test_a_locked_repository_takes_no_upload(registry: Registry) -> None:
    """As soon as it is asked, and in the transaction that would make the blob (R28)."""
    push_image(registry, "app", "v1", [b"first"])
    upload = start_upload(registry, APP, ALICE)
    update_repository(registry, APP, AttributeChanges(write_enabled=False), ALICE)
    with pytest.raises(Locked):
        start_upload(registry, APP, ALICE)
    with pytest.raises(Locked):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    with pytest.raises(Locked):
        add_to_upload(registry, APP, upload.id, ALICE, 0, [DATA])
    settle(registry)
    assert_sound(registry)


def test_sessions_with_bytes_are_limited_however_many_tickets_there_are(process: Process) -> None:
    registry = process(limits=Limits(max_repository_uploads=2))
    opened = [start_upload(registry, APP, ALICE) for _ in range(3)]
    for upload in opened[:2]:
        add_to_upload(registry, APP, upload.id, ALICE, 0, [DATA])
    with pytest.raises(TooManyRequests):
        add_to_upload(registry, APP, opened[2].id, ALICE, 0, [DATA])
    with pytest.raises(TooManyRequests):
        start_upload(registry, APP, ALICE)
    # It needs no row, so it takes the room of no other.
    finish_upload(registry, APP, opened[2].id, ALICE, digest_of(DATA), [DATA])


def test_a_whole_blob_that_is_refused_leaves_nothing(registry: Registry) -> None:
    with pytest.raises(Exception, match="digest"):
        upload_whole(registry, APP, ALICE, digest_of(b"other"), [DATA])
    settle(registry)
    assert list(registry.blobs.list()) == []
    assert rows(registry) == 0
    assert_sound(registry)


def test_what_a_dead_process_had_in_hand_is_given_back(process: Process, clock: FakeClock) -> None:
    """RECOVER: its keys name it. What has all its bytes may be a blob of a lost state: a day."""
    dead, alive = process("dead"), process("alive")
    upload = start_upload(dead, APP, ALICE)
    prepare_blob(dead, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    kept = start_upload(alive, APP, ALICE)
    waits = prepare_blob(alive, APP, kept.id, ALICE, digest_of(b"kept"), [b"kept"])
    for _ in range(2):
        clock.advance(DEAD_AFTER.total_seconds())
        beat(alive)
        expire_uploads(alive)
    assert_sound(alive)
    settle(alive)
    assert sorted(found.size for found in alive.blobs.list()) == [4, len(DATA)]
    assert commit(alive, waits).size == 4
    clock.advance(DOUBT.total_seconds())
    beat(alive)
    settle(alive)
    assert not is_stored(alive, DATA)
    assert len(DATA) not in [found.size for found in alive.blobs.list()]
    # The dead process comes back: its key is another's to erase, so it takes the long way.
    late = start_upload(dead, APP, ALICE)
    prepared = prepare_blob(dead, APP, late.id, ALICE, digest_of(DATA), [DATA])
    assert commit(dead, prepared).size == len(DATA)
    beat(alive)
    settle(alive)
    assert_sound(alive)


def test_a_crash_of_the_database_makes_no_process_a_dead_one(
    process: Process, clock: FakeClock
) -> None:
    """It empties the table in which they give signs of life; they do so again a second later."""
    one, two = process("one"), process("two")
    upload = start_upload(one, APP, ALICE)
    prepared = prepare_blob(one, APP, upload.id, ALICE, digest_of(DATA), [DATA])

    def crash(tx: Transaction) -> None:
        tx.execute_directly(space.processes.delete())

    one.write(crash)
    assert expire_uploads(two) == 0
    for registry in (one, two):
        beat(registry)
    assert expire_uploads(two) == 0
    clock.advance(DEAD_AFTER.total_seconds())
    one.write(crash)
    assert expire_uploads(two) == 0
    assert commit(one, prepared).size == len(DATA)


def test_a_process_that_stops_in_order_leaves_no_key(registry: Registry) -> None:
    upload = start_upload(registry, APP, ALICE)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA), [DATA])
    assert registry.read(reserved_keys)
    keep_memory_sessions(registry)
    assert registry.read(reserved_keys) == []
    assert_sound(registry)
