"""Two actors on one PostgreSQL database, one step of each at a time, and never a matter of luck.

An actor is a thread. It can be stopped before any of its SQL statements, where the driver gets
them. Whether the other one waits for a lock is not guessed from the time it takes: PostgreSQL says
so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Generic, TypeVar

import psycopg

from tests.support.statements import watching_psycopg

T = TypeVar("T")

# Far longer than anything here takes; only a bug makes an actor wait this long.
PATIENCE_SECONDS = 30


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` is true. AssertionError naming `what` if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.001)


class Observer:
    """A third connection that sees which sessions of a database wait for a lock."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def blocked(self) -> int:
        """How many sessions of this database wait for a lock that another one has."""
        row = self._connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        ).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def observing(url: str) -> Iterator[Observer]:
    observer = Observer(url)
    try:
        yield observer
    finally:
        observer.close()


class Actor(Generic[T]):
    """Runs `act` on a thread of its own; stops before statement number `stop_at`, if any.

    Commits count as statements: between the last statement and the commit there is a step too.
    """

    def __init__(self, act: Callable[[], T], *, stop_at: int | None = None) -> None:
        self._act = act
        self._stop_at = stop_at
        self._steps = 0
        self._arrived = threading.Event()
        self._go_on = threading.Event()
        self._outcome: Future[T] = Future()
        self._thread = threading.Thread(target=self._run)
        _watch()
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._outcome.done()

    def wait_until_stopped(self) -> bool:
        """Wait until it stands at its `stop_at`; False if it ended before it came there."""
        assert self._arrived.wait(PATIENCE_SECONDS), "waited in vain for the actor to stop"
        return not self.ended

    def wait_until_blocked(self, observer: Observer) -> bool:
        """Wait until it waits for a lock, the only one that does; False if it ended instead."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        # Most often it ends soon, and asking PostgreSQL costs more than what it does.
        while wait([self._outcome], timeout=0.003).not_done:
            if observer.blocked():
                return True
            assert time.monotonic() < deadline, "waited in vain for the actor to end or block"
        return False

    def go_on(self) -> None:
        self._go_on.set()

    def result(self) -> T:
        """What it returned or raised, once it has ended."""
        outcome = self._outcome.result(PATIENCE_SECONDS)
        self._thread.join(PATIENCE_SECONDS)
        return outcome

    def failure(self) -> BaseException | None:
        """What it raised, once it has ended."""
        failure = self._outcome.exception(PATIENCE_SECONDS)
        self._thread.join(PATIENCE_SECONDS)
        return failure

    def step(self) -> None:
        """Called on its own thread before each statement."""
        if self._steps == self._stop_at:
            self._arrived.set()
            assert self._go_on.wait(PATIENCE_SECONDS), "the actor was not told to go on"
        self._steps += 1

    def _run(self) -> None:
        _actors[threading.get_ident()] = self
        try:
            self._outcome.set_result(self._act())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._outcome.set_exception(error)
        finally:
            del _actors[threading.get_ident()]
            self._arrived.set()


_actors: dict[int, Actor[Any]] = {}


@cache
def _watch() -> AbstractContextManager[None]:
    """From the first actor on, for as long as the tests run, as the cache keeps it."""
    watching = watching_psycopg(_step)
    watching.__enter__()
    return watching


def _step(_: str) -> None:
    actor = _actors.get(threading.get_ident())
    if actor is not None:
        actor.step()


def interleave(
    observer: Observer, first: Callable[[], object], second: Callable[[], object], at: int
) -> tuple[BaseException | None, BaseException | None] | None:
    """Run `first` up to its statement `at`, then `second` as far as it gets, then both to the end.

    `second` gets to its end, or to a lock that `first` has. Returns what each raised, or None if
    `first` ended before it came to that statement; `second` does not act at all then.
    """
    one = Actor(first, stop_at=at)
    if not one.wait_until_stopped():
        one.failure()
        return None
    two = Actor(second)
    two.wait_until_blocked(observer)
    one.go_on()
    return one.failure(), two.failure()
