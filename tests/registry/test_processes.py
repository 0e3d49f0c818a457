"""Processes on one database: what one that has died was working on goes on in another at once.

deletion.md section 3.4. Where one process owns the database its start does the same (test_reclaim,
test_purge).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from tests.support.actors import wait_until
from tests.support.cleaning import ask
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import plant_image
from tests.support.registry import ALICE
from ullage import heartbeat
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.cleanup.job.execution import work
from ullage.cleanup.job.jobs import get_job
from ullage.database.postgresql import PostgresDatabase
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest
from ullage.deletion.reclaim import RECLAIM_CLAIM, reclaim_due
from ullage.heartbeat import BEAT_SECONDS, FORGOTTEN_AFTER, Heartbeat
from ullage.oci.digest import digest_of
from ullage.oci.errors import Unavailable
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import append_upload, finish_upload
from ullage.registry.queries import processes
from ullage.registry.queries.processes import DEAD_AFTER
from ullage.registry.queries.reclaim.tombstones import claim_tombstones
from ullage.registry.queries.upload_claims import open_claims
from ullage.worker import CHOOSERS

pytestmark = pytest.mark.postgresql

APP = parse_repository_name("app")
ALLOW = ("empty-repository", "most-of-repository", "only-tag", "newest-image")
SHORTLY_BEFORE = DEAD_AFTER.total_seconds() - 0.001


class Process:
    """One of several on a database, whose heart the test lets beat."""

    def __init__(self, registry: Registry, name: str) -> None:
        claims = open_claims(registry.db, name)
        self.registry = replace(registry, process=name, claims=claims)
        self.heart = Heartbeat(self.registry)
        self.heart.beat()


@pytest.fixture
def registry(postgres_db: Database, clock: FakeClock) -> Registry:
    return registry_on(postgres_db, MemoryBlobStore(), clock)


@pytest.fixture
def two(registry: Registry) -> tuple[Process, Process]:
    return Process(registry, "one"), Process(registry, "two")


def _upload(one: Registry, other: Registry) -> Callable[[], bool]:
    upload = start_upload(one, APP, ALICE)
    session = append_upload(one, APP, upload.id, ALICE)
    session.write(b"half")
    # Its file is closed when a process dies.
    session._append.close()

    def goes_on() -> bool:
        try:
            finish_upload(other, APP, upload.id, ALICE, digest_of(b"whole"), [b"whole"], 0)
        except Unavailable:
            return False
        return True

    return goes_on


def _job(one: Registry, other: Registry) -> Callable[[], bool]:
    plant_image(one, APP, "v1", [b"layer"])
    job_id = ask(one, "app:.*", untagged=True, allow=ALLOW)
    work(one, CHOOSERS, "one's worker", 1)

    def goes_on() -> bool:
        while work(other, CHOOSERS, "the other's worker", 10) is not None:
            pass
        return bool(get_job(other, job_id, WITHOUT_ACCOUNTS).state == "done")

    return goes_on


def _erasing(one: Registry, other: Registry) -> Callable[[], bool]:
    digest = plant_image(one, APP, "v1", [b"layer"])
    delete_manifest(one, APP, digest, ALICE)
    due = one.now() + one.limits.read_grace
    until = due + RECLAIM_CLAIM
    taken = one.write(lambda tx: claim_tombstones(tx, "token", one.process, due, until, 9))
    assert len(taken) == 2
    return lambda: reclaim_due(other) == 2


@pytest.mark.parametrize("claim", [_upload, _job, _erasing])
def test_what_a_process_has_claimed_is_free_when_it_has_died(
    two: tuple[Process, Process],
    clock: FakeClock,
    claim: Callable[[Registry, Registry], Callable[[], bool]],
) -> None:
    """After 5 s without a sign of life, and not before; claims would last for a minute."""
    one, other = two
    goes_on = claim(one.registry, other.registry)
    clock.advance(SHORTLY_BEFORE)
    one.heart.beat()
    clock.advance(SHORTLY_BEFORE)
    assert not goes_on()
    clock.advance(0.002)
    assert goes_on()


def test_a_process_that_stops_in_order_leaves_nothing_claimed(registry: Registry) -> None:
    one = replace(registry, process="one", claims=open_claims(registry.db, "one"))
    with Heartbeat(one):
        goes_on = _upload(one, registry)
        assert not goes_on()
    assert goes_on()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hearts that beat as fast as they can."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.001)


def test_the_others_look_for_what_a_dead_process_left(
    registry: Registry, clock: FakeClock, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and not for one that had died before they started, nor for one that signed off."""
    woken = threading.Semaphore(0)
    Process(registry, "long dead")
    clock.advance(60)
    with Heartbeat(replace(registry, process="alive", wake=woken.release)):
        with Heartbeat(replace(registry, process="in order")):
            pass
        Process(registry, "dies")
        clock.advance(DEAD_AFTER.total_seconds())
        assert woken.acquire(timeout=30)
    assert not woken.acquire(blocking=False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("process dies on ")
    assert line.endswith(" has died; what it worked on goes on here")


def test_the_dead_are_forgotten_in_the_end(registry: Registry, clock: FakeClock) -> None:
    Process(registry, "dead")
    clock.advance(FORGOTTEN_AFTER.total_seconds())
    alive = Process(registry, "alive")
    assert alive.heart.beat() == []
    assert registry.read(lambda tx: processes.dead(tx, clock() + DEAD_AFTER))[0].id == "alive"


def test_a_sign_of_life_waits_for_no_other_work(
    emptied_postgres_url: str, registry: Registry, clock: FakeClock
) -> None:
    """All connections are in use for as long as they like: the process is not dead for that."""
    db = PostgresDatabase(sa.make_url(emptied_postgres_url), pool_size=1)
    try:
        busy = Heartbeat(replace(registry, db=db, process="busy"))
        db.write(lambda tx: busy.beat())
    finally:
        db.close()


def test_a_heart_goes_on_beating_when_the_database_was_away(
    registry: Registry, quick: None, caplog: pytest.LogCaptureFixture, clock: FakeClock
) -> None:
    """It says so once."""
    assert DEAD_AFTER.total_seconds() > BEAT_SECONDS * 3
    away = threading.Event()
    tries = threading.Semaphore(0)

    class Sometimes:
        def __getattr__(self, name: str) -> object:
            return getattr(registry.db, name)

        def write_apart(self, work: object) -> object:
            tries.release()
            if away.is_set():
                raise Unavailable(message="away")
            return registry.db.write_apart(work)  # type: ignore[arg-type]

    one = replace(registry, db=Sometimes(), process="one")  # type: ignore[arg-type]
    with Heartbeat(one):
        away.set()
        for _ in range(5):
            assert tries.acquire(timeout=30)
        clock.advance(60)
        away.clear()
        wait_until(
            lambda: not registry.read(lambda tx: processes.dead(tx, clock())), "a sign of life"
        )
    assert [record.levelname for record in caplog.records] == ["ERROR"]
