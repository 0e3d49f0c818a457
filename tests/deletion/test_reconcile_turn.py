"""The daily comparison: of several processes one does it (damage.md section 2)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support.actors import wait_until
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import push_blob
from tests.support.server import SOURCE, UllageServer
from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.protocol import StoredObject
from ullage.database.transaction import Database
from ullage.deletion.queries.reconcile_state import ReconcileState
from ullage.deletion.reconcile_turn import LOOK_AGAIN, RECONCILE_PERIOD, TURN, reconcile_if_due
from ullage.heartbeat import Heartbeat
from ullage.registry.context import Registry
from ullage.registry.queries.processes import DEAD_AFTER

A_SECOND = timedelta(seconds=1)


class Process:
    """One that may compare. It does `meanwhile` before it is shown an object of the store."""

    def __init__(self, registry: Registry, name: str | None) -> None:
        self.registry = replace(registry, process=name)
        self.beat()
        self.shown = 0
        self.meanwhile: Callable[[], object] = lambda: None
        self.stops = False

    def beat(self) -> None:
        if self.registry.process is not None:
            Heartbeat(self.registry).beat()

    def ask(self) -> timedelta:
        return reconcile_if_due(self.registry, self._listing(), lambda: self.stops)

    def _listing(self) -> Iterator[StoredObject]:
        for found in self.registry.blobs.list():
            if self.stops:
                return
            self.meanwhile()
            self.shown += 1
            yield found


def stored(db: Database, store: MemoryBlobStore, clock: FakeClock) -> Registry:
    """A registry with three objects."""
    registry = registry_on(db, store, clock)
    for number in range(3):
        push_blob(registry, "app", b"blob %d" % number)
    return registry


@pytest.fixture
def registry(db: Database, store: MemoryBlobStore, clock: FakeClock) -> Registry:
    return stored(db, store, clock)


@pytest.fixture
def two(postgres_db: Database, store: MemoryBlobStore, clock: FakeClock) -> tuple[Process, Process]:
    registry = stored(postgres_db, store, clock)
    return Process(registry, "one"), Process(registry, "other")


def name_on(registry: Registry) -> str | None:
    return "one" if registry.db.dialect == "postgresql" else None


def test_it_is_done_once_a_day_whatever_starts_meanwhile(
    registry: Registry, clock: FakeClock
) -> None:
    assert Process(registry, name_on(registry)).ask() == RECONCILE_PERIOD
    clock.advance((RECONCILE_PERIOD - A_SECOND).total_seconds())
    again = Process(registry, name_on(registry) and "after a restart")
    assert again.ask() == A_SECOND
    assert again.shown == 0
    clock.advance(1)
    assert again.ask() == RECONCILE_PERIOD
    assert again.shown == 3


def test_a_clock_that_was_put_back_does_not_put_it_off(registry: Registry) -> None:
    one = Process(registry, name_on(registry))
    one.ask()
    before = registry.now() - timedelta(days=400)
    one.registry = replace(one.registry, now=lambda: before)
    one.ask()
    assert one.shown == 6


def test_what_a_start_finds_begun_it_begins_anew(registry: Registry) -> None:
    """A stop in the middle, or a store that fails: nothing is done until all was seen."""
    one = Process(registry, name_on(registry))
    one.meanwhile = lambda: setattr(one, "stops", True)
    assert one.ask() == LOOK_AGAIN
    assert one.shown == 1
    again = Process(registry, name_on(registry) and "after a restart")

    def fail() -> None:
        raise OSError("the disk is away")

    again.meanwhile = fail
    with pytest.raises(OSError, match="away"):
        again.ask()
    again.meanwhile = lambda: None
    assert again.ask() == RECONCILE_PERIOD


@pytest.mark.postgresql
def test_one_process_compares_and_no_other(two: tuple[Process, Process]) -> None:
    one, other = two
    waits: list[timedelta] = []
    one.meanwhile = lambda: waits.append(other.ask())
    assert one.ask() == RECONCILE_PERIOD
    assert waits == [LOOK_AGAIN] * 3
    assert (one.shown, other.shown) == (3, 0)
    assert other.ask() == RECONCILE_PERIOD
    assert other.shown == 0


@pytest.mark.postgresql
def test_a_slow_comparison_keeps_its_turn(two: tuple[Process, Process], clock: FakeClock) -> None:
    """It says so again in time, and its process gives signs of life."""
    one, other = two

    def go_slowly() -> None:
        clock.advance(TURN.total_seconds() * 0.9)
        one.beat()
        assert other.ask() == LOOK_AGAIN

    one.meanwhile = go_slowly
    one.ask()
    assert (one.shown, other.shown) == (3, 0)


@pytest.mark.postgresql
def test_a_dead_process_s_turn_is_free_when_it_gives_no_sign_of_life(
    two: tuple[Process, Process], clock: FakeClock
) -> None:
    """As all it had claimed (deletion.md section 3.4). One that was only held up finds it taken."""
    one, other = two

    def be_away() -> None:
        clock.advance((DEAD_AFTER - A_SECOND).total_seconds())
        assert other.ask() == LOOK_AGAIN
        clock.advance(2)
        assert other.ask() > LOOK_AGAIN
        # What it has from the listing by now is nothing to act upon.
        one.beat()
        clock.advance(TURN.total_seconds())

    one.meanwhile = be_away
    assert one.ask() == LOOK_AGAIN
    assert (one.shown, other.shown) == (1, 3)


@pytest.mark.postgresql
def test_a_turn_that_nothing_was_heard_of_is_free_in_the_end(
    two: tuple[Process, Process], clock: FakeClock
) -> None:
    """A process that lives, and hangs."""
    one, other = two

    def hang() -> None:
        clock.advance(TURN.total_seconds())
        one.beat()
        assert other.ask() > LOOK_AGAIN

    one.meanwhile = hang
    one.ask()
    assert other.shown == 3


# --- real processes -------------------------------------------------------------------------------

# There is always a comparison to do, and one of the processes never comes to its end.
_HURRIED = """
import os
import time
from datetime import timedelta
from ullage import worker
from ullage.deletion import reconcile_turn

def hang(registry, objects):
    next(iter(objects), None)
    time.sleep(3600)

worker.FIRST_RECONCILE_SECONDS = 0.1
reconcile_turn.RECONCILE_PERIOD = reconcile_turn.LOOK_AGAIN = timedelta(seconds=0.1)
if os.environ["HANGS"]:
    reconcile_turn.reconcile = hang
"""


class Hurried:
    """Servers on one database and one store that compare all the time."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        (folder / "code").mkdir()
        (folder / "code" / "sitecustomize.py").write_text(_HURRIED)

    def server(self, name: str, *, hangs: bool = False) -> UllageServer:
        search_path = os.pathsep.join(map(str, (self._folder / "code", SOURCE)))
        place = ("--database", self._url, "--storage", f"file:{self._folder / 'store'}")
        env = {"PYTHONPATH": search_path, "HANGS": "yes" if hangs else ""}
        return UllageServer(self._folder / name, *place, env=env)

    def state(self) -> ReconcileState:
        query = b"SELECT value FROM registry_facts WHERE name = 'reconcile'"
        with psycopg.connect(self._url) as connection:
            found = connection.execute(query).fetchone()
        return ReconcileState(**json.loads(found[0])) if found else ReconcileState(0)


@pytest.mark.postgresql
def test_a_killed_server_s_turn_is_another_s(tmp_path: Path, postgres_url: str) -> None:
    hurried = Hurried(tmp_path, postgres_url)
    with hurried.server("one", hangs=True) as one:
        wait_until(lambda: hurried.state().holder, "a turn")
        begun = hurried.state()
        with hurried.server("other") as other:
            assert hurried.state() == begun, "while that one is at it, none other is"
            one.kill9()
            wait_until(lambda: hurried.state().holder != begun.holder, "the other's turn")
            wait_until(lambda: hurried.state().done, "its comparison is over")
            other.assert_no_500()
