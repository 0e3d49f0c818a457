"""Upload sessions and mounts: distribution-spec, "Pushing blobs"; deletion.md section 3, UPLOAD."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.faulty_store import FaultyStore
from tests.support.fixtures import Assemble, Installation, registry_on
from tests.support.planting import plant_image, store_bytes
from tests.support.registry import ALICE, push_blob, push_image, settle
from tests.support.soundness import assert_sound
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.queries import rows
from ullage.check.queries.paging import Only
from ullage.database.transaction import Database, Transaction
from ullage.deletion.delete import delete_repository
from ullage.deletion.reclaim import expire_uploads, recover
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    RangeInvalid,
    StorageFull,
    TooManyRequests,
    Unavailable,
)
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Limits, Registry
from ullage.registry.identity import parse_label
from ullage.registry.pull.read import open_blob, stat_blob, stat_blob_for_push
from ullage.registry.push.append_session import AppendSession
from ullage.registry.push.links import mount_blob
from ullage.registry.push.prepared import Left, commit, commit_each
from ullage.registry.push.session_limits import IDLE_AFTER
from ullage.registry.push.sessions import Upload, cancel_upload, get_upload, start_upload
from ullage.registry.push.uploads import append_upload, finish_upload, prepare_blob
from ullage.registry.quarantine import quarantine_blob
from ullage.registry.queries import quarantine as queries
from ullage.registry.queries.upload_claims import CLAIM_PERIOD
from ullage.usage.usage import registry_totals

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")
BOB = Caller(subject="bob", address="192.0.2.1", agent="test")
DATA = b"some bytes of a layer"


def begin(registry: Registry, algorithm: str = "sha256") -> Upload:
    return start_upload(registry, APP, ALICE, algorithm)


def append(registry: Registry, upload: Upload, data: bytes, start: int | None = None) -> Upload:
    """One PATCH."""
    session = append_upload(registry, APP, upload.id, ALICE, start)
    session.write(data)
    return session.close()


def read_blob(registry: Registry, digest: Digest, name: str = "app") -> bytes:
    reader = open_blob(registry, parse_repository_name(name), digest)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


def stored(registry: Registry) -> list[int]:
    """The sizes of all objects in the store."""
    return sorted(found.size for found in registry.blobs.list())


# --- a session's life -----------------------------------------------------------------------------


def test_a_blob_arrives_in_chunks(registry: Registry) -> None:
    """distribution-spec, "Pushing a blob in chunks": end-4a, end-5, end-6."""
    upload = begin(registry)
    assert (upload.offset, upload.algorithm) == (0, "sha256")
    assert append(registry, upload, DATA[:4], start=0).offset == 4
    assert append(registry, upload, DATA[4:], start=4).offset == len(DATA)
    digest = digest_of(DATA)
    blob = finish_upload(registry, APP, upload.id, ALICE, digest)
    assert (blob.digest, blob.size) == (digest, len(DATA))
    assert read_blob(registry, digest) == DATA


def test_the_last_chunk_may_come_with_the_end(registry: Registry) -> None:
    upload = begin(registry)
    append(registry, upload, DATA[:4])
    session = append_upload(registry, APP, upload.id, ALICE, start=4)
    session.write(DATA[4:])
    assert session.commit(digest_of(DATA)).size == len(DATA)
    assert read_blob(registry, digest_of(DATA)) == DATA


def test_an_empty_blob_is_a_blob(registry: Registry) -> None:
    upload = begin(registry)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(b""))
    assert read_blob(registry, digest_of(b"")) == b""


def test_a_session_tells_how_far_it_is(registry: Registry) -> None:
    """end-13: what a client asks that lost the connection."""
    upload = begin(registry)
    append(registry, upload, DATA[:4])
    assert get_upload(registry, APP, upload.id, ALICE).offset == 4


def test_what_arrived_before_the_connection_broke_is_kept(registry: Registry) -> None:
    """reliability.md F31: the bytes before the break stay at the recorded offset."""
    upload = begin(registry)
    session = append_upload(registry, APP, upload.id, ALICE, start=0)
    session.write(DATA[:7])
    session.close()
    assert get_upload(registry, APP, upload.id, ALICE).offset == 7
    append(registry, upload, DATA[7:], start=7)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


def test_an_abandoned_request_leaves_the_session_as_it_was(registry: Registry) -> None:
    upload = begin(registry)
    append(registry, upload, DATA[:4])
    session = append_upload(registry, APP, upload.id, ALICE, start=4)
    session.write(b"garbage")
    session.abandon()
    assert get_upload(registry, APP, upload.id, ALICE).offset == 4
    assert stored(registry) == [4]
    append(registry, upload, DATA[4:], start=4)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))
    assert read_blob(registry, digest_of(DATA)) == DATA


@pytest.mark.parametrize("start", [0, 3, 5, 2**63])
def test_bytes_from_elsewhere_are_refused_with_the_right_offset(
    registry: Registry, start: int
) -> None:
    """R18, "Pushing a blob in chunks": 416 with the current Range; the session survives."""
    upload = begin(registry)
    append(registry, upload, DATA[:4])
    with pytest.raises(RangeInvalid) as refused:
        append_upload(registry, APP, upload.id, ALICE, start=start)
    assert refused.value.offset == 4
    append(registry, upload, DATA[4:], start=4)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


def test_a_wrong_digest_is_refused_and_the_session_stays(registry: Registry) -> None:
    """reliability.md F34: nothing is stored, and the client may still name the right one."""
    upload = begin(registry)
    append(registry, upload, DATA)
    wrong = digest_of(b"something else")
    with pytest.raises(DigestInvalid) as refused:
        finish_upload(registry, APP, upload.id, ALICE, wrong)
    assert refused.value.detail == {"expected": wrong, "found": digest_of(DATA)}
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, wrong)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


def test_a_wrong_digest_drops_the_bytes_that_came_with_it(registry: Registry) -> None:
    upload = begin(registry)
    append(registry, upload, DATA[:4])
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(b"garbage")
    with pytest.raises(DigestInvalid):
        session.commit(digest_of(DATA))
    assert get_upload(registry, APP, upload.id, ALICE).offset == 4
    append(registry, upload, DATA[4:], start=4)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


def test_sha512_is_hashed_along(registry: Registry) -> None:
    upload = begin(registry, "sha512")
    append(registry, upload, DATA)
    digest = digest_of(DATA, "sha512")
    assert finish_upload(registry, APP, upload.id, ALICE, digest).digest == digest
    assert read_blob(registry, digest) == DATA


def test_another_algorithm_than_announced_costs_a_second_look(registry: Registry) -> None:
    upload = begin(registry, "sha256")
    append(registry, upload, DATA)
    digest = digest_of(DATA, "sha512")
    assert finish_upload(registry, APP, upload.id, ALICE, digest).digest == digest


def test_an_unknown_algorithm_opens_no_session(registry: Registry) -> None:
    with pytest.raises(DigestInvalid):
        begin(registry, "md5")
    assert stored(registry) == []


def test_a_cancelled_session_is_gone_with_its_bytes(registry: Registry) -> None:
    """distribution-spec, end-14."""
    upload = begin(registry)
    append(registry, upload, DATA)
    cancel_upload(registry, APP, upload.id, ALICE)
    for ask in (get_upload, append_upload, cancel_upload):
        with pytest.raises(BlobUploadUnknown):
            ask(registry, APP, upload.id, ALICE)
    settle(registry)
    assert stored(registry) == []


def test_a_session_is_its_owner_s_and_its_repository_s(registry: Registry) -> None:
    """reliability.md I17: another caller that asks is told that there is none."""
    upload = begin(registry)
    append(registry, upload, DATA)
    for name, caller in ((APP, BOB), (OTHER, ALICE)):
        for ask in (get_upload, append_upload, cancel_upload):
            with pytest.raises(BlobUploadUnknown):
                ask(registry, name, upload.id, caller)
        with pytest.raises(BlobUploadUnknown):
            finish_upload(registry, name, upload.id, caller, digest_of(DATA))
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload.id, BOB, digest_of(DATA))


def test_a_finished_upload_is_confirmed_once_more(registry: Registry, clock: FakeClock) -> None:
    """reliability.md F36: the answer to the last PUT got lost, so the client sends it again."""
    upload = begin(registry)
    append(registry, upload, DATA)
    first = finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))
    clock.advance(60)
    assert finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA)) == first
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(b"something else"))
    clock.advance(registry.limits.finished_upload.total_seconds())
    settle(registry)
    with pytest.raises(BlobUploadUnknown):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


# --- more than one process, more than one request -------------------------------------------------


def test_a_session_goes_on_in_a_new_process(installation: Installation) -> None:
    """What was hashed so far is in the session's row."""
    upload = begin(installation.registry)
    append(installation.registry, upload, DATA[:4])
    installation.restart()
    append(installation.registry, upload, DATA[4:], start=4)
    installation.restart()
    finish_upload(installation.registry, APP, upload.id, ALICE, digest_of(DATA))
    assert read_blob(installation.registry, digest_of(DATA)) == DATA


def test_a_new_process_finds_a_wrong_digest_too(installation: Installation) -> None:
    upload = begin(installation.registry)
    append(installation.registry, upload, DATA)
    installation.restart()
    with pytest.raises(DigestInvalid):
        finish_upload(installation.registry, APP, upload.id, ALICE, digest_of(DATA[:4]))


@pytest.mark.thorough
def test_a_chunk_by_another_process_is_not_left_out_of_the_digest(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    """Each process has hashed its own chunks only; neither may trust what it has."""
    one, two = (registry_on(postgres_db, store, clock) for _ in range(2))
    upload = begin(one)
    append(one, upload, DATA[:4])
    append(two, upload, DATA[4:8])
    append(one, upload, DATA[8:])
    finish_upload(two, APP, upload.id, ALICE, digest_of(DATA))
    assert read_blob(one, digest_of(DATA)) == DATA
    assert_sound(one)


def test_two_requests_never_work_on_one_session(registry: Registry) -> None:
    """R18: the second is told to come back, and nothing of it arrives."""
    upload = begin(registry)
    session = append_upload(registry, APP, upload.id, ALICE)
    with pytest.raises(Unavailable):
        append_upload(registry, APP, upload.id, ALICE)
    with pytest.raises(Unavailable):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(b""))
    session.write(DATA)
    session.close()
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


@pytest.mark.parametrize("refusal", ["range", "digest", "abandon"])
def test_a_refused_request_lets_go_of_the_session(registry: Registry, refusal: str) -> None:
    upload = begin(registry)
    if refusal == "range":
        with pytest.raises(RangeInvalid):
            append_upload(registry, APP, upload.id, ALICE, start=9)
    elif refusal == "digest":
        with pytest.raises(DigestInvalid):
            finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))
    else:
        append_upload(registry, APP, upload.id, ALICE).abandon()
    assert append(registry, upload, DATA).offset == len(DATA)


@pytest.mark.postgresql
def test_a_dead_process_blocks_a_session_for_a_while_only(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    """reliability.md F11: its claim ends by itself. Its file was closed when it died."""
    dead, alive = (registry_on(postgres_db, store, clock) for _ in range(2))
    upload = begin(dead)
    session = append_upload(dead, APP, upload.id, ALICE)
    session.write(DATA)
    session._append.close()
    with pytest.raises(Unavailable):
        append_upload(alive, APP, upload.id, ALICE)
    clock.advance(CLAIM_PERIOD.total_seconds())
    append(alive, upload, DATA, start=0)
    finish_upload(alive, APP, upload.id, ALICE, digest_of(DATA))
    assert read_blob(alive, digest_of(DATA)) == DATA
    assert_sound(alive)


def test_a_cancelled_session_does_not_come_back_by_what_was_under_way(registry: Registry) -> None:
    """R17: cancel against the final PUT, and against a PATCH; the loser hears 404."""
    for end in (AppendSession.close, lambda session: session.commit(digest_of(DATA))):
        upload = begin(registry)
        session = append_upload(registry, APP, upload.id, ALICE)
        session.write(DATA)
        cancel_upload(registry, APP, upload.id, ALICE)
        with pytest.raises(BlobUploadUnknown):
            end(session)
    settle(registry)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest_of(DATA))
    assert stored(registry) == []


def test_parallel_uploads_of_one_digest_leave_one_copy(registry: Registry) -> None:
    """R19, reliability.md F41: each has its own key, all are told 201, the losers' bytes go."""
    count = 6
    barrier = threading.Barrier(count)

    def upload(number: int) -> Digest:
        name = parse_repository_name(f"app{number % 3}")
        caller = Caller(f"user{number}", "192.0.2.1", "test")
        session = append_upload(
            registry, name, start_upload(registry, name, caller).id, caller, start=0
        )
        session.write(DATA)
        barrier.wait(30)
        return session.commit(digest_of(DATA)).digest

    with ThreadPoolExecutor(count) as clients:
        assert set(clients.map(upload, range(count))) == {digest_of(DATA)}
    settle(registry)
    assert stored(registry) == [len(DATA)]
    for number in range(3):
        assert read_blob(registry, digest_of(DATA), f"app{number}") == DATA


# --- limits and faults ----------------------------------------------------------------------------


def test_an_idle_session_expires(registry: Registry, clock: FakeClock) -> None:
    upload = begin(registry)
    append(registry, upload, DATA)
    clock.advance(registry.limits.upload_idle.total_seconds() - 1)
    assert expire_uploads(registry) == 0
    clock.advance(1)
    assert expire_uploads(registry) == 1
    with pytest.raises(BlobUploadUnknown):
        get_upload(registry, APP, upload.id, ALICE)
    settle(registry)
    assert stored(registry) == []


def test_each_chunk_prolongs_the_session(registry: Registry, clock: FakeClock) -> None:
    """R17: by the last activity, not by the start: a slow upload is not an idle one."""
    upload = begin(registry)
    clock.advance(registry.limits.empty_upload_idle.total_seconds() - 1)
    for number in range(3):
        assert expire_uploads(registry) == 0
        append(registry, upload, b"chunk", start=number * 5)
        clock.advance(registry.limits.upload_idle.total_seconds() - 1)


def test_a_session_without_a_byte_expires_sooner(registry: Registry, clock: FakeClock) -> None:
    upload = begin(registry)
    clock.advance(10 * 60 - 1)
    assert expire_uploads(registry) == 0
    clock.advance(1)
    assert expire_uploads(registry) == 1
    with pytest.raises(BlobUploadUnknown):
        get_upload(registry, APP, upload.id, ALICE)


ACCOUNT, REPOSITORY, ALL = (
    Limits(max_account_uploads=2),
    Limits(max_repository_uploads=2),
    Limits(max_uploads=2),
)


@pytest.mark.parametrize("limits", [ACCOUNT, REPOSITORY, ALL])
def test_the_number_of_sessions_with_bytes_is_limited(
    installation: Installation, limits: Limits
) -> None:
    installation.stop()
    installation.start(limits)
    registry = installation.registry
    uploads = [begin(registry) for _ in range(2)]
    for upload in uploads:
        append(registry, upload, DATA)
    with pytest.raises(TooManyRequests):
        begin(registry)
    cancel_upload(registry, APP, uploads[0].id, ALICE)
    begin(registry)


@pytest.mark.parametrize("limits", [ACCOUNT, REPOSITORY, ALL])
def test_a_session_without_a_byte_makes_way(installation: Installation, limits: Limits) -> None:
    """Opening sessions costs a client nothing, so it gets nothing for it: the first ends first."""
    installation.stop()
    installation.start(limits)
    registry = installation.registry
    clock = registry.now
    assert isinstance(clock, FakeClock)
    kept = begin(registry)
    append(registry, kept, DATA)
    opened = []
    for _ in range(3):
        clock.advance(1)
        opened.append(begin(registry))
    for upload in opened[:2]:
        with pytest.raises(BlobUploadUnknown):
            get_upload(registry, APP, upload.id, ALICE)
    finish_upload(registry, APP, opened[2].id, ALICE, digest_of(b""))
    finish_upload(registry, APP, kept.id, ALICE, digest_of(DATA))


def test_empty_sessions_of_one_account_end_none_of_another(installation: Installation) -> None:
    """The account with most of them makes way, and a whole blob is taken all the same."""
    installation.stop()
    installation.start(Limits(max_repository_uploads=3))
    registry = installation.registry
    mine = begin(registry)
    mallory = Caller("mallory", "192.0.2.66", "test")
    for _ in range(10):
        start_upload(registry, APP, mallory)
    push_blob(registry, str(APP), b"a whole blob")
    assert get_upload(registry, APP, mine.id, ALICE).id == mine.id


MALLORY = Caller("mallory", "192.0.2.66", "test")


def begin_as(registry: Registry, caller: Caller) -> Upload:
    """A session with one byte."""
    upload = start_upload(registry, APP, caller)
    session = append_upload(registry, APP, upload.id, caller)
    session.write(b"x")
    return session.close()


def is_open(registry: Registry, upload: Upload, caller: Caller) -> bool:
    try:
        get_upload(registry, APP, upload.id, caller)
    except BlobUploadUnknown:
        return False
    return True


@pytest.mark.parametrize("limits", [Limits(max_repository_uploads=6), Limits(max_uploads=6)])
def test_sessions_with_a_byte_each_keep_no_other_account_out(
    installation: Installation, limits: Limits
) -> None:
    """B6: the share is the account's that has few of them, also while the other goes on."""
    installation.stop()
    installation.start(limits)
    registry = installation.registry
    clock = registry.now
    assert isinstance(clock, FakeClock)
    theirs = []
    for _ in range(6):
        clock.advance(1)
        theirs.append(begin_as(registry, MALLORY))
    mine = []
    for _ in range(3):
        clock.advance(1)
        mine.append(begin_as(registry, ALICE))
        for upload in theirs:
            with suppress(BlobUploadUnknown):
                append_upload(registry, APP, upload.id, MALLORY).close()
        with pytest.raises(TooManyRequests):
            begin_as(registry, MALLORY)
    left = [upload for upload in theirs if is_open(registry, upload, MALLORY)]
    assert len(left) == 3
    # Neither has more than the other: whose session is idle makes way.
    with pytest.raises(TooManyRequests):
        begin_as(registry, ALICE)
    finish_upload(registry, APP, left[0].id, MALLORY, digest_of(b"x"))
    assert all(is_open(registry, upload, ALICE) for upload in mine)
    finish_upload(registry, APP, mine[0].id, ALICE, digest_of(b"x"))


@pytest.mark.parametrize("limits", [ACCOUNT, REPOSITORY, ALL])
def test_of_an_accounts_own_sessions_the_idlest_makes_way_once_it_is_idle(
    installation: Installation, limits: Limits
) -> None:
    """Jobs that died leave theirs for a day; and Retry-After says when the first is idle."""
    installation.stop()
    installation.start(limits)
    registry = installation.registry
    clock = registry.now
    assert isinstance(clock, FakeClock)
    first = begin_as(registry, ALICE)
    clock.advance(10)
    second = begin_as(registry, ALICE)
    clock.advance(10)
    # Bytes come to the older one.
    append(registry, first, b"y", start=1)
    clock.advance(10)
    with pytest.raises(TooManyRequests) as refused:
        begin_as(registry, ALICE)
    assert refused.value.retry_after == IDLE_AFTER.total_seconds() - 20
    clock.advance(refused.value.retry_after - 1)
    with pytest.raises(TooManyRequests):
        begin_as(registry, ALICE)
    clock.advance(1)
    third = begin_as(registry, ALICE)
    open_ = [is_open(registry, upload, ALICE) for upload in (first, second, third)]
    assert open_ == [True, False, True]


def test_uploads_are_refused_before_the_disk_is_full(assemble: Assemble) -> None:
    """deletion.md section 3: a high-water mark, so that deletions always have some room."""
    registry = assemble(MemoryBlobStore(capacity=1000), Limits(min_free_bytes=900))
    push_blob(registry, "app", b"x" * 200)
    with pytest.raises(StorageFull):
        begin(registry)


def test_a_full_disk_ends_the_request_and_not_the_session(assemble: Assemble) -> None:
    """reliability.md F15: 507, the room of what had arrived is given back, the client goes on."""
    registry = assemble(MemoryBlobStore(capacity=100), Limits(min_free_bytes=0))
    upload = begin(registry)
    append(registry, upload, DATA)
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(b"x" * 50)
    with pytest.raises(StorageFull):
        session.write(b"x" * 50)
    assert stored(registry) == [len(DATA)]
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))


@pytest.mark.parametrize("operation", ["create", "append", "write", "commit"])
def test_a_failing_disk_is_an_answer_and_loses_nothing(
    assemble: Assemble, store: MemoryBlobStore, operation: str
) -> None:
    """reliability.md F18: the request fails with a 503; the next attempt works."""
    faulty = FaultyStore(store)
    registry = assemble(faulty)
    with pytest.raises(Unavailable), faulty.failing(operation):
        push_blob(registry, "app", DATA)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest_of(DATA))
    assert_sound(registry)
    push_blob(registry, "app", DATA)
    assert read_blob(registry, digest_of(DATA)) == DATA


def test_a_chunk_that_cannot_be_made_durable_is_not_acknowledged(
    assemble: Assemble, store: MemoryBlobStore
) -> None:
    """reliability.md F18: the session is as it was before the chunk."""
    faulty = FaultyStore(store)
    registry = assemble(faulty)
    upload = begin(registry)
    with pytest.raises(Unavailable), faulty.failing("sync"):
        append(registry, upload, b"lost")
    append(registry, upload, DATA)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA))
    assert read_blob(registry, digest_of(DATA)) == DATA


def test_bytes_that_are_safe_while_their_row_is_not_are_finished_later(
    registry: Registry, store: MemoryBlobStore
) -> None:
    """A crash or a busy database between the store's commit and the row: the same PUT once more."""
    upload = begin(registry)
    append(registry, upload, DATA)
    with store.resume(upload.key, len(DATA), "") as again:
        again.commit()
    with pytest.raises(DigestInvalid):
        finish_upload(registry, APP, upload.id, ALICE, digest_of(b"something else"))
    assert finish_upload(registry, APP, upload.id, ALICE, digest_of(DATA)).key == upload.key
    assert read_blob(registry, digest_of(DATA)) == DATA


def test_a_crash_ends_sessions_without_acknowledged_bytes_and_no_others(
    installation: Installation,
) -> None:
    """deletion.md section 3.3, RECOVER: known by a reserved key, and given back."""
    registry = installation.registry
    without, resumable = begin(registry), begin(registry)
    append_upload(registry, APP, without.id, ALICE, 0).write(DATA)
    append(registry, resumable, DATA[:4])
    installation.crash()
    installation.start()
    registry = installation.registry
    if registry.db.dialect == "sqlite":
        assert recover(registry) == 1
        with pytest.raises(BlobUploadUnknown):
            get_upload(registry, APP, without.id, ALICE)
        assert registry_totals(registry).pending_bytes == len(DATA)
        settle(registry)
        assert registry.blobs.size(without.key) is None
    else:
        # Another process may be in the middle of it.
        assert recover(registry) == 0
    append(registry, resumable, DATA[4:])
    finish_upload(registry, APP, resumable.id, ALICE, digest_of(DATA))


def test_a_damaged_blob_is_healed_by_the_next_push(
    registry: Registry, store: MemoryBlobStore
) -> None:
    """reliability.md F47: under a new key; the old one is erased."""
    plant_image(registry, "app", "v1", [DATA])
    old = stat_blob(registry, APP, digest_of(DATA))
    quarantine(registry, old.digest)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest_of(DATA))
    push_blob(registry, "app", DATA)
    healed = stat_blob(registry, APP, digest_of(DATA))
    assert healed.key != old.key
    settle(registry)
    assert store.size(old.key) is None
    assert read_blob(registry, digest_of(DATA)) == DATA


@pytest.mark.parametrize("found_by", ["nobody", "pull", "another push"])
@pytest.mark.parametrize("loss", ["missing", "short"])
def test_a_blob_whose_bytes_were_lost_is_healed_by_the_next_push(
    registry: Registry, store: MemoryBlobStore, loss: str, found_by: str
) -> None:
    """damage.md section 3: the second copy goes only where the first one is there, whole."""
    plant_image(registry, "app", "v1", [DATA])
    old = stat_blob(registry, APP, digest_of(DATA))
    store.delete([old.key])
    if loss == "short":
        store_bytes(store, old.key, DATA[:-1])
    if found_by == "pull":
        for _ in range(2):
            with pytest.raises(BlobUnknown):
                open_blob(registry, APP, digest_of(DATA))
            with pytest.raises(BlobUnknown):
                stat_blob_for_push(registry, APP, digest_of(DATA), ALICE)
            assert not mount_blob(registry, OTHER, APP, digest_of(DATA), ALICE)
    # Also where it goes to another repository: there is one copy for all.
    push_blob(registry, "other" if found_by == "another push" else "app", DATA)
    assert stat_blob(registry, APP, digest_of(DATA)).key != old.key
    assert read_blob(registry, digest_of(DATA)) == DATA
    settle(registry)
    assert store.size(old.key) is None


@pytest.mark.parametrize(
    ("kept", "found"), [(None, "was missing"), (3, f"had 3 bytes instead of {len(DATA)}")]
)
def test_a_push_that_heals_a_blob_says_so_once(
    registry: Registry,
    store: MemoryBlobStore,
    caplog: pytest.LogCaptureFixture,
    kept: int | None,
    found: str,
) -> None:
    """damage.md section 3: damage is never mended without a word to the operator."""
    digest = push_blob(registry, "app", DATA)
    key = stat_blob(registry, APP, digest).key
    store.delete([key])
    if kept is not None:
        store_bytes(store, key, DATA[:kept])
    push_blob(registry, "other", DATA)
    push_blob(registry, "other", DATA)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"blob {digest} {found} in the storage; this push replaced it")
    ]
    settle(registry)


def test_a_sound_copy_stays_and_the_second_one_goes(
    registry: Registry, store: MemoryBlobStore
) -> None:
    first = push_blob(registry, "app", DATA)
    key = stat_blob(registry, APP, first).key
    push_blob(registry, "other", DATA)
    assert stat_blob(registry, OTHER, first).key == key
    settle(registry)
    assert [found.key for found in store.list()] == [key]


def test_one_push_of_a_commit_that_meets_a_copy_holds_up_none_beside_it(
    registry: Registry, store: MemoryBlobStore
) -> None:
    """damage.md section 3: it is taken back by itself, looks at the copy, and comes once more."""
    pushed = [DATA, b"new", DATA, b"newer"]
    push_blob(registry, "other", DATA)
    uploads = [start_upload(registry, APP, ALICE) for _ in pushed]
    prepared = [
        prepare_blob(registry, APP, upload.id, ALICE, digest_of(data), [data])
        for upload, data in zip(uploads, pushed, strict=True)
    ]
    ended = commit_each(registry, prepared)
    blobs = [commit(registry, each.prepared) if isinstance(each, Left) else each for each in ended]
    assert [blob.digest for blob in blobs] == [digest_of(data) for data in pushed]
    assert blobs[0].key == blobs[2].key
    settle(registry)
    assert len(list(store.list())) == 3
    assert_sound(registry)


def test_a_copy_that_took_another_s_place_is_looked_at_too(
    registry: Registry, store: MemoryBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """damage.md section 3: what was seen holds for one storage key, and no other."""
    old = stat_blob(registry, APP, push_blob(registry, "app", DATA)).key
    sizes, asked = store.size, []

    def size(key: str) -> int | None:
        asked.append(key)
        if len(asked) == 1:
            # Between the look and the commit it is lost, healed by somebody else, and lost again.
            store.delete([old])
            push_blob(registry, "app", DATA)
            store.delete([stat_blob(registry, APP, digest_of(DATA)).key])
            return len(DATA)
        return sizes(key)

    monkeypatch.setattr(store, "size", size)
    push_blob(registry, "other", DATA)
    monkeypatch.undo()
    assert read_blob(registry, digest_of(DATA)) == DATA
    assert asked[0] == old
    assert asked[-1] not in (old, stat_blob(registry, APP, digest_of(DATA)).key)
    settle(registry)


def test_a_pull_of_what_has_just_been_replaced_is_no_damage(
    registry: Registry, store: MemoryBlobStore
) -> None:
    """Its row was read before, its bytes were looked for afterwards."""
    digest = push_blob(registry, "app", DATA)
    old = stat_blob(registry, APP, digest)
    assert not quarantine_blob(registry, digest, "0" * 32, "another copy")
    assert stat_blob(registry, APP, digest) == old


def test_nothing_is_quarantined_while_the_store_is_anothers(
    registry: Registry, store: MemoryBlobStore
) -> None:
    """A disk that came off, and an empty folder in its place: not everything is pushed anew."""
    digest = push_blob(registry, "app", DATA)
    key, label = stat_blob(registry, APP, digest).key, store.read_label()
    assert label is not None
    store.delete([key])
    store.write_label(label.replace(parse_label(label).registry, "f" * 32))
    with pytest.raises(Unavailable):
        open_blob(registry, APP, digest)
    assert stat_blob(registry, APP, digest).key == key
    store.write_label(label)
    with pytest.raises(BlobUnknown):
        open_blob(registry, APP, digest)
    push_blob(registry, "app", DATA)


# --- mounts ---------------------------------------------------------------------------------------


def test_a_mounted_blob_is_read_in_both_repositories(registry: Registry) -> None:
    """distribution-spec, "Mounting a blob from another repository": end-11."""
    digest = push_blob(registry, "other", DATA)
    assert mount_blob(registry, APP, OTHER, digest, ALICE)
    assert read_blob(registry, digest, "app") == read_blob(registry, digest, "other") == DATA
    assert stored(registry) == [len(DATA)]


def test_a_mount_that_cannot_be_makes_nothing(registry: Registry) -> None:
    """Then the client uploads: 202. No repository is left behind either."""
    digest = push_blob(registry, "other", DATA)
    nowhere = parse_repository_name("nowhere")
    assert not mount_blob(registry, APP, nowhere, digest, ALICE)
    assert not mount_blob(registry, APP, OTHER, digest_of(b"something else"), ALICE)
    assert not mount_blob(registry, APP, APP, digest, ALICE)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest)


def test_a_blob_of_a_deleted_repository_is_not_mounted(registry: Registry) -> None:
    """R10: also while its bytes are still there."""
    push_image(registry, "other", "v1", [DATA])
    delete_repository(registry, OTHER, ALICE)
    assert not mount_blob(registry, APP, OTHER, digest_of(DATA), ALICE)


def test_mounting_twice_is_mounting_once(registry: Registry) -> None:
    digest = push_blob(registry, "other", DATA)
    assert mount_blob(registry, APP, OTHER, digest, ALICE)
    assert mount_blob(registry, APP, OTHER, digest, ALICE)
    assert read_blob(registry, digest) == DATA


def test_a_damaged_blob_is_not_mounted(registry: Registry) -> None:
    digest = push_blob(registry, "other", DATA)
    quarantine(registry, digest)
    assert not mount_blob(registry, APP, OTHER, digest, ALICE)
    # Healed, so that the audit at the end finds nothing.
    push_blob(registry, "other", DATA)


def quarantine(registry: Registry, digest: Digest) -> None:
    """As `ullage check` does with a blob whose bytes it found wrong."""

    def mark(tx: Transaction) -> None:
        for facts in rows.blobs(tx, Only([digest])):
            assert queries.quarantine(tx, facts.key, facts.storage_key, registry.now())

    registry.write(mark)


def test_deadlines_are_those_of_the_limits() -> None:
    """What the documentation promises by default."""
    limits = Limits()
    assert limits.lease == timedelta(hours=1)
    assert limits.upload_idle == timedelta(hours=24)
    assert limits.read_grace == timedelta(seconds=2)
    assert limits.finished_upload == timedelta(minutes=10)
