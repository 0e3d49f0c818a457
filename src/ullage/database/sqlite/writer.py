"""One connection on one thread does all the writing and all the checkpoints.

So the write-ahead log is never reset by two connections at once, which corrupted databases up to
SQLite 3.51.2; and several pieces of work may share one commit.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any

import sqlalchemy as sa

from ullage.database.errors import DatabaseBroken, DatabaseBusy, DatabaseDamaged, DatabaseFull
from ullage.database.migrations.upgrade import Tables, upgrade
from ullage.database.sqlite.ballast import Ballast
from ullage.database.sqlite.connection import SqliteTransaction, is_damage, sqlite_errors
from ullage.database.transaction import Transaction, Work

log = logging.getLogger(__name__)

# How many statements' worth of waiting work may share one commit, and for how long it may gather.
MAX_GROUP = 64
MAX_GROUP_SECONDS = 0.005


class Job:
    """A piece of work on its way through the writer thread."""

    __slots__ = ("failure", "freeing", "future", "outcome", "transaction", "work")

    def __init__(self, work: Work[Any], freeing: bool) -> None:
        self.work = work
        self.freeing = freeing
        self.future: Future[Any] = Future()
        self.outcome: Any = None
        self.failure: BaseException | None = None
        self.transaction: Transaction | None = None

    def end(self, *, committed: bool) -> None:
        if self.transaction is not None:
            self.transaction.ended(committed=committed)

    def settle(self) -> None:
        if self.failure is not None:
            self.future.set_exception(self.failure)
        else:
            self.future.set_result(self.outcome)


class Writer:
    """The one thread with the one writing connection.

    In its queue are jobs, which are committed, and calls, which are made between two commits. Jobs
    that wait while a commit reaches the disk share the next one. If one of them fails, all of them
    run again, each in a savepoint, so that it undoes only itself.
    """

    def __init__(
        self,
        engine: sa.Engine,
        ballast: Ballast,
        damaged: Callable[[str], None] = lambda _: None,
        damage: str | None = None,
        tables_may: Tables = Tables.UPDATE,
    ) -> None:
        """`damaged` is told of malformed data; with `damage` there is no writing from the start."""
        self._engine = engine
        self._ballast = ballast
        self._damaged = damaged
        self._tables_may = tables_may
        # Jobs that were handed over together are committed together.
        self._queue: queue.SimpleQueue[Sequence[Job] | Callable[[], None] | None]
        self._queue = queue.SimpleQueue()
        # Why nothing is written any more.
        self._broken: DatabaseBroken | DatabaseDamaged | None = None
        if damage is not None:
            self._broken = DatabaseDamaged(f"database: {damage}")
        # Moves on with every transaction. It is odd from before a change can be seen until it can,
        # and even before anybody is told of the change: what was read at an even number holds
        # while that stays.
        self.commits = 0
        self._closing = threading.Lock()
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="ullage-writer", daemon=True
        )
        self._thread.start()
        opened.result()

    @property
    def failed(self) -> bool:
        """Whether something was not written, and nothing is any more."""
        return self._broken is not None

    def refuse(self, reason: DatabaseDamaged) -> None:
        """Write nothing any more."""
        if self._broken is None:
            self._broken = reason

    def submit(self, jobs: Sequence[Job]) -> Sequence[Job]:
        if threading.current_thread() is self._thread:
            # Between two transactions: there is nothing to wait for.
            self._commit(jobs)
        else:
            self.put(jobs)
        return jobs

    def put(self, item: Sequence[Job] | Callable[[], None]) -> None:
        with self._closing:
            if self._closed:
                raise DatabaseBusy("the database is closing")
            self._queue.put(item)

    def close(self) -> None:
        with self._closing:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self, opened: Future[None]) -> None:
        with ExitStack() as closing:
            try:
                if self._broken is None:
                    self._connection = closing.enter_context(self._open())
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                opened.set_exception(error)
                return
            opened.set_result(None)
            while (item := self._queue.get()) is not None:
                if callable(item):
                    self._call(item)
                elif not self._commit_group(item):
                    return

    def _open(self) -> sa.Connection:
        with sqlite_errors():
            connection = self._engine.connect()
            try:
                # All or nothing. SQLite can undo changes of tables; Alembic does not count on it.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                upgrade(connection, self._tables_may)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                # Closing takes back what was not committed.
                connection.close()
                raise
        return connection

    def _commit_group(self, first: Sequence[Job]) -> bool:
        """Run `first` and whatever waits behind it in one commit; False when asked to stop."""
        jobs, then = self._gather(first)
        self._commit(jobs)
        if callable(then):
            self._call(then)
        return then is not None

    @staticmethod
    def _call(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            # A defect of theirs, which must not be the end of all writing.
            log.exception("what was to be done between two commits failed")

    def _commit(self, jobs: Sequence[Job]) -> None:
        if self._broken is not None:
            for job in jobs:
                job.failure = type(self._broken)(str(self._broken))
        elif not self._attempt(self._connection, jobs):
            self._attempt_each(self._connection, jobs)
        for job in jobs:
            job.settle()

    def _attempt_each(self, connection: sa.Connection, jobs: Sequence[Job]) -> None:
        """The whole commit failed (mostly from a full disk): find out which jobs do."""
        if isinstance(jobs[0].failure, DatabaseBusy):
            # Another process's lock hits all of them alike, and each would wait for it once more.
            return
        for job in jobs:
            if self._broken is not None:
                job.failure = type(self._broken)(str(self._broken))
            elif not self._attempt(connection, [job]) and job.freeing:
                self._attempt_on_ballast(connection, job)

    def _gather(
        self, first: Sequence[Job]
    ) -> tuple[list[Job], Sequence[Job] | Callable[[], None] | None]:
        """Jobs for one commit; what comes next if that is no job, None if it is the end."""
        jobs = [*first]
        deadline = time.monotonic() + MAX_GROUP_SECONDS
        while len(jobs) < MAX_GROUP and time.monotonic() < deadline:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None or callable(item):
                return jobs, item
            jobs += item
        return jobs, ()

    def _attempt_on_ballast(self, connection: sa.Connection, job: Job) -> None:
        if isinstance(job.failure, DatabaseFull) and self._ballast.release():
            self._attempt(connection, [job])

    def _attempt(self, connection: sa.Connection, jobs: Sequence[Job]) -> bool:
        """Run all jobs and commit. False if the commit as a whole failed; each job knows why."""
        writing = SqliteTransaction(connection)
        try:
            with sqlite_errors():
                writing.control("BEGIN IMMEDIATE")
                if not self._do_all(connection, jobs) and len(jobs) > 1:
                    self._do_all_again(connection, jobs)
                undone = len(jobs) == 1 and jobs[0].failure is not None
                self.commits += 1
                writing.control("ROLLBACK" if undone else "COMMIT")
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            self._roll_back(connection)
            self.commits += 2 - self.commits % 2
            if isinstance(error, DatabaseBroken):
                self._broken = error
                log.critical("database failed, no more writing until a restart: %s", error)
            elif isinstance(error, DatabaseDamaged):
                self._broken = error
                self._damaged(str(error))
            for job in jobs:
                job.outcome, job.failure = None, error
                job.end(committed=False)
            return False
        self.commits += 1
        for job in jobs:
            job.end(committed=job.failure is None)
        return True

    def _do_all(self, connection: sa.Connection, jobs: Sequence[Job]) -> bool:
        """Run jobs one after the other; False after the first that fails.

        Few do, and to set a savepoint for each would cost as much as two statements of its own.
        """
        for job in jobs:
            self._do(connection, job)
            if job.failure is not None:
                return False
        return True

    def _do_all_again(self, connection: sa.Connection, jobs: Sequence[Job]) -> None:
        """From the beginning, so that what fails undoes only itself."""
        writing = SqliteTransaction(connection)
        writing.control("ROLLBACK")
        for job in jobs:
            job.end(committed=False)
        writing.control("BEGIN IMMEDIATE")
        for job in jobs:
            self._run_in_savepoint(connection, job)

    @staticmethod
    def _do(connection: sa.Connection, job: Job) -> None:
        transaction = job.transaction = SqliteTransaction(connection)
        job.outcome = job.failure = None
        try:
            job.outcome = job.work(transaction)
        except sa.exc.OperationalError:
            # The disk or the engine, not this work: the whole transaction may be gone already.
            raise
        except sa.exc.DatabaseError as error:
            if is_damage(error):
                raise
            job.failure = error
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            job.failure = error

    def _run_in_savepoint(self, connection: sa.Connection, job: Job) -> None:
        saving = SqliteTransaction(connection)
        saving.control("SAVEPOINT job")
        self._do(connection, job)
        if job.failure is not None:
            saving.control("ROLLBACK TO job")
            # Before the next one runs, which may ask for what this one has put back.
            job.end(committed=False)
        saving.control("RELEASE job")

    @staticmethod
    def _roll_back(connection: sa.Connection) -> None:
        # SQLite may already have rolled back by itself, after an I/O error for example.
        with suppress(sa.exc.DBAPIError):
            connection.exec_driver_sql("ROLLBACK")
