"""A worker whose claim ran out comes back: it stops, and what others did since stays as it is.

Every write to a claimed row carries the claim (deletion.md race R24). The store here keeps nobody
out, as an object store does; files have a lock besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.support.cleaning import ask
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import plant_image
from tests.support.registry import ALICE, settle
from tests.support.soundness import assert_sound
from tests.support.undoing import stands
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryAppend, MemoryBlobStore
from ullage.cleanup.job.claims import CLAIM
from ullage.cleanup.job.execution import MAX_FAILURES, note_failure, work
from ullage.cleanup.job.jobs import get_job
from ullage.cleanup.queries import jobs
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest
from ullage.deletion.reclaim import RECLAIM_CLAIM, reclaim_due
from ullage.oci.digest import digest_of
from ullage.oci.errors import BlobUploadUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.pull.read import open_blob
from ullage.registry.push import upload_claim
from ullage.registry.push.append_session import AppendSession
from ullage.registry.push.sessions import get_upload, start_upload
from ullage.registry.push.uploads import append_upload, finish_upload
from ullage.registry.queries.reclaim.tombstones import claim_tombstones
from ullage.registry.queries.upload_claims import CLAIM_PERIOD
from ullage.worker import CHOOSERS

APP = parse_repository_name("app")
FIRST, SECOND = b"what the late one wrote", b"second"
ALLOW = ("empty-repository", "most-of-repository", "only-tag", "newest-image")


class OpenStore(MemoryBlobStore):
    """Keeps no request from what another one has open."""

    def resume(self, key: str, offset: int, state: str) -> MemoryAppend:
        with self._lock:
            if key in self._objects:
                self._objects[key].writer = None
        return super().resume(key, offset, state)


# --- uploads --------------------------------------------------------------------------------------


def _another_goes_on(registry: Registry, clock: FakeClock, upload_id: str) -> None:
    clock.advance(CLAIM_PERIOD.total_seconds())
    session = append_upload(registry, APP, upload_id, ALICE, start=0)
    session.write(SECOND)
    session.close()


LATE: dict[str, Callable[[AppendSession], object]] = {
    "chunk": lambda session: session.close(),
    "last": lambda session: session.commit(digest_of(FIRST)),
    "more": lambda session: session.write(b"more"),
    "gone": lambda session: session.abandon(),
}


@pytest.mark.postgresql
@pytest.mark.parametrize("end", LATE)
def test_a_request_whose_claim_ran_out_changes_nothing_of_what_another_wrote(
    postgres_db: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It is told that its upload is unknown; the bytes that were acknowledged since are kept."""
    # Each piece renews the claim; the rule is some in a minute.
    monkeypatch.setattr(upload_claim, "RENEWALS", float("inf"))
    store = OpenStore()
    late, other = (registry_on(postgres_db, store, clock) for _ in range(2))
    upload = start_upload(late, APP, ALICE)
    session = append_upload(late, APP, upload.id, ALICE, start=0)
    session.write(FIRST)
    _another_goes_on(other, clock, upload.id)
    if end == "gone":
        LATE[end](session)
    else:
        with pytest.raises(BlobUploadUnknown):
            LATE[end](session)
    assert get_upload(other, APP, upload.id, ALICE).offset == len(SECOND)
    finish_upload(other, APP, upload.id, ALICE, digest_of(SECOND))
    reader = open_blob(other, APP, digest_of(SECOND))
    assert reader.read_at(0, reader.size) == SECOND
    reader.close()
    assert_sound(other)


@pytest.mark.postgresql
def test_a_request_that_was_away_for_long_goes_on_if_no_other_came(
    postgres_db: Database, clock: FakeClock
) -> None:
    registry = registry_on(postgres_db, OpenStore(), clock)
    upload = start_upload(registry, APP, ALICE)
    session = append_upload(registry, APP, upload.id, ALICE, start=0)
    session.write(FIRST)
    clock.advance(2 * CLAIM_PERIOD.total_seconds())
    assert session.close().offset == len(FIRST)


# --- jobs -----------------------------------------------------------------------------------------


class Interrupted:
    """A database on which something happens right after one of the commits."""

    def __init__(self, db: Database, at: int, meanwhile: Callable[[], object]) -> None:
        self._db, self._left, self._meanwhile = db, at, meanwhile
        self.over = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def write(self, work: Any, *, freeing: bool = False) -> Any:
        outcome = self._db.write(work, freeing=freeing)
        self._count()
        return outcome

    def write_each(self, works: Sequence[Any], *, hurried: bool = False) -> list[Any]:
        outcome = self._db.write_each(works, hurried=hurried)
        self._count()
        return outcome

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.over = True
            self._meanwhile()


def test_a_worker_on_a_job_that_another_finished_meanwhile_undoes_nothing_of_it(
    db: Database, clock: FakeClock
) -> None:
    """Whichever of its commits it stood still after: planning, deleting, or at the end."""
    registry = registry_on(db, OpenStore(), clock)
    at = 0
    while True:
        at += 1
        for n in range(3):
            plant_image(registry, APP, f"v{n}", [b"layer %d" % n])
        job_id = ask(registry, "app:.*", untagged=True, allow=ALLOW)

        def meanwhile(job_id: str = job_id) -> None:
            clock.advance(CLAIM.total_seconds())
            while work(registry, CHOOSERS, "other", 2) is not None:
                pass
            assert get_job(registry, job_id, WITHOUT_ACCOUNTS).state == "done"

        interrupted = Interrupted(db, at, meanwhile)
        late = replace(registry, db=interrupted)
        while work(late, CHOOSERS, "late", 2) is not None:
            pass
        job = get_job(registry, job_id, WITHOUT_ACCOUNTS)
        counts = (job.state, job.manifests_deleted, job.tags_deleted)
        assert counts == ("done", 3, 3), at
        assert stands(registry) == {}
        settle(registry)
        assert_sound(registry)
        if not interrupted.over:
            return


def test_a_failure_of_a_worker_that_has_the_job_no_more_is_not_counted(
    db: Database, clock: FakeClock
) -> None:
    registry = registry_on(db, OpenStore(), clock)
    plant_image(registry, APP, "v1", [b"layer"])
    job_id = ask(registry, "app:.*", untagged=True, allow=ALLOW)
    work(registry, CHOOSERS, "late", 2)
    clock.advance(CLAIM.total_seconds())
    work(registry, CHOOSERS, "other", 1)
    for _ in range(MAX_FAILURES):
        note_failure(registry, "late", "OSError: it was away")
    row = registry.read(lambda tx: jobs.find(tx, job_id))
    assert row is not None
    assert (row.failures, row.finished_at) == (0, None)


# --- tombstones -----------------------------------------------------------------------------------


class Slow(OpenStore):
    """While it erases, something else happens; then it has failed, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] | None = None
        self.fails = False

    def delete(self, keys: Any, states: Any = ()) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
            if self.fails:
                raise OSError(5, "Input/output error")
        super().delete(keys, states)


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_that_erased_for_too_long_leaves_tombstones_to_the_one_that_has_them_now(
    db: Database, clock: FakeClock, fails: bool
) -> None:
    """Neither dropped nor put off under the hands of the other, and counted once."""
    store = Slow()
    registry = registry_on(db, store, clock)
    image = plant_image(registry, APP, "v1", [b"layer"])
    delete_manifest(registry, APP, image, ALICE)
    clock.advance(10)
    other: list[Any] = []

    def take_over() -> None:
        clock.advance(RECLAIM_CLAIM.total_seconds())
        until = clock() + RECLAIM_CLAIM
        other.extend(
            registry.write(lambda tx: claim_tombstones(tx, "other", None, clock(), until, 500))
        )

    store.meanwhile, store.fails = take_over, fails
    assert reclaim_due(registry) == 0
    assert len(other) == 2
    # They are the other's for as long as its claim lasts, and after it anyone's.
    assert reclaim_due(registry) == 0
    clock.advance(RECLAIM_CLAIM.total_seconds())
    assert reclaim_due(registry) == 2
    assert list(store.list()) == []
    assert_sound(registry)
