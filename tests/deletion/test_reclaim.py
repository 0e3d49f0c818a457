"""Giving space back: deletion.md section 3, REVIEW, RECLAIM, RECOVER, piece by piece."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.actors import interleave, observing
from tests.support.clock import FakeClock
from tests.support.disks import small_disk
from tests.support.faulty_store import FaultyStore
from tests.support.fixtures import registry_on
from tests.support.parts_store import PartsStore
from tests.support.planting import plant_blobs, plant_image
from tests.support.registry import ALICE, push_blob, push_image, settle
from tests.support.soundness import assert_sound
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.files.store import FileBlobStore
from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.protocol import BlobStore
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.database.opening import open_database
from ullage.database.schema import content, space
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Database, Transaction
from ullage.deletion.delete import delete_manifest, delete_repository
from ullage.deletion.reclaim import (
    MAX_BACKOFF,
    RECLAIM_CLAIM,
    erase_deleted,
    next_due,
    reclaim_due,
    recover,
    review_due,
)
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUnknown, StorageFull
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import get_manifest, list_repositories, stat_blob
from ullage.registry.push.end_sessions import DOUBT
from ullage.registry.push.sessions import cancel_upload, start_upload
from ullage.registry.push.uploads import add_to_upload, append_upload, finish_upload
from ullage.registry.queries.content.blobs import find_blob
from ullage.registry.queries.counters import totals
from ullage.registry.queries.reclaim.backup_leases import (
    LEASE,
    begin_backup,
    end_backup,
    renew_backup,
)
from ullage.registry.queries.reclaim.tombstones import (
    claim_tombstones,
    drop_tombstones,
    known_keys,
    tombstone_due,
)

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")


@pytest.fixture
def faulty(store: MemoryBlobStore) -> FaultyStore:
    return FaultyStore(store)


@pytest.fixture
def registry(db: Database, faulty: FaultyStore, clock: FakeClock) -> Iterator[Registry]:
    registry = registry_on(db, faulty, clock)
    yield registry
    assert_sound(registry)


def bury_image(registry: Registry, *layers: bytes) -> int:
    """Tombstones for an image's blobs, due now; returns how many bytes they stand for."""
    digest = plant_image(registry, "app", None, layers, config=b"config of " + b"".join(layers))
    freed = delete_manifest(registry, APP, digest, ALICE).freed_bytes
    assert isinstance(registry.now, FakeClock)
    registry.now.advance(registry.limits.read_grace.total_seconds())
    return freed


def pending_and_reclaimed(registry: Registry) -> tuple[int, int]:
    found = registry.read(totals)
    return found["pending_bytes"], found["reclaimed_bytes"]


def keys_in_store(registry: Registry) -> set[str]:
    return {found.key for found in registry.blobs.list()}


# --- erasing --------------------------------------------------------------------------------------


def test_bytes_are_erased_when_they_are_due(registry: Registry, clock: FakeClock) -> None:
    digest = plant_image(registry, "app", None, [b"layer"])
    delete_manifest(registry, APP, digest, ALICE)
    assert next_due(registry) == clock() + registry.limits.read_grace
    assert reclaim_due(registry) == 0
    clock.advance(registry.limits.read_grace.total_seconds())
    assert reclaim_due(registry) == 2
    assert keys_in_store(registry) == set()
    assert pending_and_reclaimed(registry) == (0, 7)
    assert next_due(registry) is None
    assert reclaim_due(registry) == 0


def test_nothing_is_erased_while_a_backup_runs_and_all_goes_on(
    registry: Registry, clock: FakeClock
) -> None:
    """Race R25: deletions are acknowledged, their bytes wait; images are pushed as ever."""
    begin_backup_now(registry, "one")
    size = bury_image(registry, b"layer")
    assert reclaim_due(registry) == 0
    assert pending_and_reclaimed(registry) == (size, 0)
    push_image(registry, "app", "v2", [b"pushed meanwhile"])
    registry.write(lambda tx: end_backup(tx, "one"))
    assert reclaim_due(registry) == 2
    assert pending_and_reclaimed(registry) == (0, size)


def test_a_backup_that_was_killed_keeps_bytes_for_ten_minutes_at_most(
    registry: Registry, clock: FakeClock
) -> None:
    """Race R25: a lease ends by itself, and a backup that comes late is told that it has."""
    begin_backup_now(registry, "killed")
    size = bury_image(registry, b"layer")
    clock.advance(LEASE.total_seconds() - registry.limits.read_grace.total_seconds() - 0.001)
    assert reclaim_due(registry) == 0
    clock.advance(0.001)
    assert not registry.write(lambda tx: renew_backup(tx, "killed", clock()))
    assert reclaim_due(registry) == 2
    assert pending_and_reclaimed(registry) == (0, size)


def test_a_backup_that_gives_signs_of_life_keeps_bytes_for_as_long_as_it_runs(
    registry: Registry, clock: FakeClock
) -> None:
    begin_backup_now(registry, "slow")
    bury_image(registry, b"layer")
    for _ in range(30):
        clock.advance(60)
        assert registry.write(lambda tx: renew_backup(tx, "slow", clock()))
        assert reclaim_due(registry) == 0
    # Another one that ends does not end this one.
    begin_backup_now(registry, "quick")
    registry.write(lambda tx: end_backup(tx, "quick"))
    assert reclaim_due(registry) == 0
    registry.write(lambda tx: end_backup(tx, "slow"))
    assert reclaim_due(registry) == 2


def begin_backup_now(registry: Registry, lease: str) -> None:
    registry.write(lambda tx: begin_backup(tx, lease, registry.now()))


def test_bytes_that_cannot_be_erased_are_tried_again_ever_more_slowly(
    registry: Registry, faulty: FaultyStore, clock: FakeClock
) -> None:
    """reliability.md F28: the tombstone stays, the accounting says "pending", not "freed"."""
    size = bury_image(registry, b"layer")
    waits = []
    with faulty.failing("delete"):
        for _ in range(15):
            assert reclaim_due(registry) == 0
            assert pending_and_reclaimed(registry) == (size, 0)
            waits.append(_seconds_until_tried(registry, clock))
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == MAX_BACKOFF.total_seconds()
    assert reclaim_due(registry) == 2
    assert pending_and_reclaimed(registry) == (0, size)


def _seconds_until_tried(registry: Registry, clock: FakeClock) -> float:
    """Advance the clock to the next attempt."""
    until = registry.read(
        lambda tx: tx.execute_directly(sa.select(space.tombstones.c.claimed_until))
    )
    [free_at] = set(until.scalars())
    seconds = (free_at - to_micros(clock())) / 1_000_000
    clock.advance(seconds - 0.001)
    assert not registry.read(lambda tx: tombstone_due(tx, clock()))
    clock.advance(0.001)
    return float(seconds)


def test_one_key_that_cannot_be_erased_does_not_keep_the_others(
    registry: Registry, faulty: FaultyStore, clock: FakeClock
) -> None:
    """The bill adds up: what is off the disk is not called pending."""
    size = bury_image(registry, *(b"layer %02d" % number for number in range(20)))
    stuck = min(keys_in_store(registry))
    stuck_bytes = faulty.size(stuck)
    assert stuck_bytes is not None
    faulty.stuck.add(stuck)
    before = faulty.deletions
    settle(registry)
    # Which ones failed is told: nothing is asked twice to find that out.
    assert faulty.deletions == before + 1
    assert keys_in_store(registry) == {stuck}
    assert pending_and_reclaimed(registry) == (stuck_bytes, size - stuck_bytes)
    faulty.stuck.clear()
    clock.advance(MAX_BACKOFF.total_seconds())
    settle(registry)
    assert pending_and_reclaimed(registry) == (0, size)


def test_a_worker_that_dies_is_relieved(registry: Registry, clock: FakeClock) -> None:
    """F4, R24: no worker keeps a tombstone for longer than its claim."""
    size = bury_image(registry, b"layer")
    until = clock() + RECLAIM_CLAIM
    claimed = registry.write(lambda tx: claim_tombstones(tx, "dead", None, clock(), until, 500))
    assert len(claimed) == 2
    assert reclaim_due(registry) == 0
    clock.advance(RECLAIM_CLAIM.total_seconds())
    assert reclaim_due(registry) == 2
    assert pending_and_reclaimed(registry) == (0, size)


def test_a_start_takes_over_at_once_where_one_process_owns_everything(
    registry: Registry, clock: FakeClock
) -> None:
    """F4: bytes that a killed server had in hand need not wait for its claims to end."""
    size = bury_image(registry, b"layer")
    until = clock() + RECLAIM_CLAIM
    registry.write(lambda tx: claim_tombstones(tx, "dead", None, clock(), until, 500))
    recover(registry)
    alone = registry.db.dialect == "sqlite"
    assert reclaim_due(registry) == (2 if alone else 0)
    assert pending_and_reclaimed(registry) == ((0, size) if alone else (size, 0))


def test_bytes_erased_by_a_worker_that_died_are_counted_once(
    registry: Registry, faulty: FaultyStore, clock: FakeClock
) -> None:
    """F4, R6: killed after the unlinking, before the row: done again, a missing file is fine."""
    size = bury_image(registry, b"layer")
    until = clock() + RECLAIM_CLAIM
    claimed = registry.write(lambda tx: claim_tombstones(tx, "dead", None, clock(), until, 500))
    faulty.delete(tombstone.storage_key for tombstone in claimed)
    clock.advance(RECLAIM_CLAIM.total_seconds())
    settle(registry)
    assert pending_and_reclaimed(registry) == (0, size)
    # The dead one was only slow, and comes to its end: nothing happens twice (R24).
    registry.write(lambda tx: drop_tombstones(tx, "dead", claimed))
    assert pending_and_reclaimed(registry) == (0, size)


class LateDeletions(FaultyStore):
    """Gives no answer to a deletion, and carries it out when it is told to."""

    def __init__(self, inner: BlobStore) -> None:
        super().__init__(inner)
        self.timing_out = False
        self._late: list[tuple[list[str], list[str]]] = []

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        wanted = list(keys), list(states)
        if self.timing_out:
            self._late.append(wanted)
            raise TimeoutError
        super().delete(*wanted)

    def carry_out(self) -> set[str]:
        """What was asked for since; the keys."""
        for keys, states in self._late:
            super().delete(keys, states)
        return {key for keys, _ in self._late for key in keys}


STORES: dict[str, Callable[[Path], BlobStore]] = {
    "files": FileBlobStore,
    "memory": lambda path: MemoryBlobStore(),
    "parts": lambda path: PartsStore(),
}


@pytest.mark.parametrize("kind", STORES)
def test_a_deletion_that_is_carried_out_late_meets_no_other_bytes(
    db: Database, clock: FakeClock, tmp_path: Path, kind: str
) -> None:
    """R8: it timed out, and the same content has been uploaded since, or is half way there."""
    store = LateDeletions(STORES[kind](tmp_path / "store"))
    registry = registry_on(db, store, clock)
    layer, half = b"a layer of some length", b"and half of another one"
    deleted = push_image(registry, "app", "v1", [layer])
    delete_manifest(registry, APP, deleted, ALICE)
    cancelled = start_upload(registry, APP, ALICE)
    add_to_upload(registry, APP, cancelled.id, ALICE, 0, [half])
    cancel_upload(registry, APP, cancelled.id, ALICE)
    clock.advance(registry.limits.read_grace.total_seconds())
    store.timing_out = True
    assert reclaim_due(registry) == 0
    push_image(registry, "app", "v1", [layer])
    upload = start_upload(registry, APP, ALICE)
    add_to_upload(registry, APP, upload.id, ALICE, 0, [half])
    store.timing_out = False
    assert len(store.carry_out()) == 3
    assert registry.blobs.size(find_key(registry, layer)) == len(layer)
    finish_upload(registry, APP, upload.id, ALICE, digest_of(half))
    assert registry.blobs.size(find_key(registry, half)) == len(half)
    clock.advance(MAX_BACKOFF.total_seconds())
    settle(registry)
    assert check(registry, Mode.DEEP).findings == ()
    assert_sound(registry)


def find_key(registry: Registry, data: bytes) -> str:
    blob = registry.read(lambda tx: find_blob(tx, APP, digest_of(data)))
    assert blob is not None
    return blob.key


@pytest.mark.postgresql
def test_two_workers_never_erase_or_count_anything_twice(
    postgres_db: Database,
    emptied_postgres_url: str,
    faulty: FaultyStore,
    clock: FakeClock,
) -> None:
    """R24: whichever step the one is at while the other works."""
    one, two = (registry_on(postgres_db, faulty, clock) for _ in range(2))
    total = 0
    with observing(emptied_postgres_url) as observer:
        for step in range(50):
            total += bury_image(one, b"layer %d" % step, b"another %d" % step)
            failures = interleave(
                observer, lambda: reclaim_due(one), lambda: reclaim_due(two), at=step
            )
            if failures is None:
                break
            assert failures == (None, None)
            assert pending_and_reclaimed(one) == (0, total)
        else:
            pytest.fail("no end of steps")
    assert len(faulty.erased_keys) == len(set(faulty.erased_keys))
    assert faulty.erased_bytes == total
    assert_sound(one)


@pytest.mark.parametrize("owner", ["blob", "upload"])
def test_a_tombstone_for_bytes_that_are_alive_is_never_carried_out(
    registry: Registry, clock: FakeClock, owner: str
) -> None:
    """I12, the last guard, whatever wrote such a row; the others are carried out all the same."""
    if owner == "blob":
        plant_image(registry, "other", "v1", [b"alive"])
        key = stat_blob(registry, OTHER, digest_of(b"alive")).key
    else:
        upload = start_upload(registry, OTHER, ALICE)
        key = upload.key
    size = bury_image(registry, b"layer")
    planted = space.tombstones.insert().values(storage_key=key, size=5, due_at=0)
    registry.write(lambda tx: tx.execute_directly(planted))
    for _ in range(3):
        reclaim_due(registry)
        clock.advance(24 * 3600)
    assert key in keys_in_store(registry)
    assert registry.read(totals)["reclaimed_bytes"] == size
    registry.write(lambda tx: tx.execute_directly(space.tombstones.delete()))


# --- reviews --------------------------------------------------------------------------------------


def test_a_link_that_nothing_needs_goes_when_its_promise_ends(
    registry: Registry, clock: FakeClock
) -> None:
    """An upload without a manifest: I9, I10."""
    digest = push_blob(registry, "app", b"loose")
    assert next_due(registry) == clock() + registry.limits.lease
    assert review_due(registry) == 0
    clock.advance(registry.limits.lease.total_seconds())
    assert review_due(registry) == 1
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest)
    assert review_due(registry) == 0


def test_a_review_leaves_what_is_needed_meanwhile(registry: Registry, clock: FakeClock) -> None:
    """R11, R12: it looks again, under the locks, at what is now."""
    used = push_image(registry, "app", "v1", [b"layer"])
    promised = push_blob(registry, "app", b"promised")
    # As a review that was written before all this.
    registry.write(lambda tx: _schedule(tx, "app", [digest_of(b"layer"), promised], clock))
    assert review_due(registry) == 2
    assert stat_blob(registry, APP, promised).size == 8
    assert get_manifest(registry, APP, used).digest == used
    clock.advance(registry.limits.lease.total_seconds())
    assert review_due(registry) == 1
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, promised)
    assert stat_blob(registry, APP, digest_of(b"layer")).size == 5


def _schedule(tx: Transaction, name: str, digests: list[str], clock: FakeClock) -> None:
    named = sa.select(content.repositories.c.id).where(content.repositories.c.name == name)
    repository_id = tx.execute_directly(named).scalar_one()
    tx.execute_directly(space.reviews.delete())
    due = [
        {"repository_id": repository_id, "digest": d, "due_at": to_micros(clock())} for d in digests
    ]
    tx.execute_directly(space.reviews.insert(), due)


def test_reviews_of_many_repositories_are_all_done(registry: Registry) -> None:
    for number in range(5):
        plant_blobs(registry, f"app{number}", [b"shared", b"%d" % number])
    settle(registry)
    query = sa.select(sa.func.count()).select_from(content.blobs)
    assert registry.read(lambda tx: tx.execute_directly(query).scalar()) == 0
    assert (
        registry.read(lambda tx: tx.execute_directly(sa.select(content.repositories)).all()) == []
    )


def test_reviews_of_a_deleted_repository_are_dropped(registry: Registry) -> None:
    """What they were about is erased with the repository."""
    plant_image(registry, "app", "v1", [b"layer"])
    plant_blobs(registry, "app", [b"loose"])
    delete_repository(registry, APP, ALICE)
    assert review_due(registry) == 1
    assert review_due(registry) == 0
    settle(registry)


@pytest.mark.postgresql
def test_a_session_that_ends_while_its_repository_is_erased_is_counted_once(
    postgres_db: Database, emptied_postgres_url: str, faulty: FaultyStore, clock: FakeClock
) -> None:
    """Two processes may end a session: only the one that did answers for its bytes."""
    registry = registry_on(postgres_db, faulty, clock, Limits(upload_idle=timedelta(0)))
    with observing(emptied_postgres_url) as observer:
        # The look at the sessions comes late: the steps before it are like any other race's.
        for step in range(0, 60, 3):
            session = append_upload(
                registry, APP, start_upload(registry, APP, ALICE).id, ALICE, start=0
            )
            session.write(b"%d bytes" % step)
            session.close()
            # Nothing of it is freed: the bytes of the session are all there is to count.
            for name in ("app", "other"):
                plant_image(registry, name, None, [b"layer %d" % step])
            delete_repository(registry, APP, ALICE)
            failures = interleave(
                observer,
                lambda: erase_deleted(registry),
                lambda: settle(registry),
                at=step,
            )
            settle(registry)
            clock.advance(registry.limits.read_grace.total_seconds())
            settle(registry)
            assert pending_and_reclaimed(registry) == (0, faulty.erased_bytes)
            if failures is None:
                break
            assert failures == (None, None)
        else:
            pytest.fail("no end of steps")


@pytest.mark.postgresql
@pytest.mark.parametrize("step", range(3))
def test_a_key_is_not_missed_while_it_moves(
    postgres_db: Database, emptied_postgres_url: str, clock: FakeClock, step: int
) -> None:
    """From a session to a blob to a tombstone, before any statement of a look."""
    registry = registry_on(postgres_db, MemoryBlobStore(), clock)
    session = append_upload(registry, APP, start_upload(registry, APP, ALICE).id, ALICE)
    session.write(b"layer")
    [key] = keys_in_store(registry)
    seen: list[set[str]] = []

    def look() -> None:
        seen.append(registry.read(lambda tx: known_keys(tx, {key})))

    def expire() -> None:
        clock.advance(registry.limits.lease.total_seconds())
        assert review_due(registry) == 1

    with observing(emptied_postgres_url) as observer:
        for move in (lambda: session.commit(digest_of(b"layer")), expire):
            assert interleave(observer, look, move, at=step) == (None, None)
    assert seen == [{key}, {key}]


# --- a full disk, from one end to the other -------------------------------------------------------


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (64 * 1024, 4096):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def test_a_full_disk_is_emptied_by_deleting(tmp_path: Path, clock: FakeClock) -> None:
    """deletion.md section 3: bytes and database on one disk, which is filled to the last block."""
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        db = open_database(f"sqlite:///{disk / 'ullage.db'}", ballast_bytes=1024 * 1024)
        try:
            registry = registry_on(db, FileBlobStore(disk), clock, Limits(min_free_bytes=0))
            digests = _push_until_full(registry)
            _fill(disk / "filler")
            for digest in digests:
                delete_manifest(registry, APP, digest, ALICE)
                clock.advance(registry.limits.read_grace.total_seconds())
                settle(registry)
            assert list_repositories(registry, 10, None, WITHOUT_ACCOUNTS).items == ()
            clock.advance(registry.limits.upload_idle.total_seconds())
            settle(registry)
            # What was committed just when the disk was full may be a blob that the database lost.
            clock.advance(DOUBT.total_seconds())
            settle(registry)
            assert keys_in_store(registry) == set()
            assert db.integrity_problems() == []
            assert_sound(registry)
        finally:
            db.close()


def _push_until_full(registry: Registry) -> list[Digest]:
    pushed: list[Digest] = []
    for number in range(100):
        try:
            pushed.append(push_image(registry, "app", None, [b"%02d" % number * 200_000]))
        except StorageFull:
            assert len(pushed) > 5
            return pushed
    pytest.fail("the disk does not fill up")
