"""SQLite: one process owns the file, and one thread of it writes (`writer.py`).

Readers are query-only connections, one per thread. Because only the writer commits, what was read
stays true until its next commit, and need not be read again before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from ullage.database.dialects import Dialect
from ullage.database.errors import DatabaseBusy, DatabaseDamaged, Stopped
from ullage.database.migrations.upgrade import Tables
from ullage.database.sqlite.ballast import Ballast
from ullage.database.sqlite.connection import (
    SqliteTransaction,
    sqlite_engine,
    sqlite_trouble,
)
from ullage.database.sqlite.owner import Owner
from ullage.database.sqlite.soundness import (
    LARGE_BYTES,
    damaged,
    find_problem,
    has_log,
    unreadable,
)
from ullage.database.sqlite.writer import Job, Writer
from ullage.database.transaction import Transaction, Work

log = logging.getLogger(__name__)
T = TypeVar("T")

# How much of what is read between two commits is remembered, and what each piece of it costs beside
# its own bytes.
MAX_RECALLED_BYTES = 8 * 1024 * 1024
RECALLED_BYTES = 1024
# Pages given back to the disk in one quiet moment.
FREE_PAGES_AT_ONCE = 256


def _read_schema(tx: Transaction) -> None:
    """Raises DatabaseDamaged if not even the tables' names can be read: then nothing can."""
    tx.execute_directly(sa.text("SELECT count(*) FROM sqlite_schema"))


class SqliteDatabase:
    dialect: Dialect = "sqlite"
    inline_reads = True

    def __init__(
        self,
        path: Path,
        *,
        ballast_bytes: int = 0,
        read_only_on_damage: bool = False,
        large_bytes: int = LARGE_BYTES,
        tables_may: Tables = Tables.UPDATE,
    ) -> None:
        """Open it. Raises DatabaseUnusable, DatabaseDamaged, DatabaseInUse; DatabaseFull."""
        self.path = path
        self.damage: str | None = None
        self._owner = Owner(path)
        self.log_missing = self._owner.was_open and not has_log(path)
        self._ballast = Ballast(path.with_name("ballast"), ballast_bytes)
        # Of a check beside serving: whether it came to its end.
        self._checked = True
        self._checker: threading.Thread | None = None
        self._closing = threading.Event()
        try:
            # Opening takes room, too.
            self._ballast.release_if_scarce()
            check_beside = self._owner.unclean and not self._look(
                large_bytes, read_only_on_damage=read_only_on_damage
            )
            self._readers = sqlite_engine(path, query_only=True, untouched=self.damage is not None)
            self._local = threading.local()
            self._open_readers: list[sa.Connection] = []
            self._open_readers_lock = threading.Lock()
            self._engine = sqlite_engine(path, query_only=False)
            self._writer = Writer(
                self._engine, self._ballast, self._damaged, self.damage, tables_may
            )
            self._recalled = _Recalled(0)
            if self.damage is not None:
                self.read(_read_schema)
        except DatabaseDamaged as error:
            self._owner.close()
            problem = str(error).removeprefix("database: ")
            told = damaged if not read_only_on_damage else unreadable
            raise DatabaseDamaged(told(path, problem)) from error
        except BaseException:
            self._owner.close()
            raise
        self._opened = False
        if self.damage is None:
            self._ballast.ensure()
            if not self.log_missing:
                self.go_on()
        if check_beside:
            self._checked = False
            self._checker = threading.Thread(
                target=self._check_beside, name="ullage-quick-check", daemon=True
            )
            self._checker.start()

    def go_on(self) -> None:
        """The owner takes it as it is; until then it stands as it was found, log or no log."""
        self.log_missing = False
        self._opened = True
        self._owner.opened()

    def _look(self, large_bytes: int, *, read_only_on_damage: bool) -> bool:
        """After a crash: is it sound? False if that takes too long to wait for.

        Raises DatabaseDamaged.
        """
        if self.path.stat().st_size > large_bytes:
            return False
        problem = find_problem(self.path)
        if problem is not None:
            if not read_only_on_damage:
                raise DatabaseDamaged(problem)
            self._damaged(problem)
        return True

    def _check_beside(self) -> None:
        try:
            problem = find_problem(self.path, self._closing.is_set)
        except Stopped:
            return
        self._checked = True
        if problem is not None:
            self._damaged(problem)

    def _damaged(self, problem: str) -> None:
        """Take no change any more, and say so once."""
        if self.damage is None:
            self.damage = problem
            log.critical("%s", damaged(self.path, problem))
            if hasattr(self, "_writer"):
                self._writer.refuse(DatabaseDamaged(f"database: {problem}"))

    def read(self, work: Work[T]) -> T:
        try:
            return work(self._reader())
        except sa.exc.DatabaseError as error:
            raise self._trouble(error) or error from error.orig

    def _trouble(self, error: sa.exc.DatabaseError) -> Exception | None:
        trouble = sqlite_trouble(error)
        if isinstance(trouble, DatabaseDamaged):
            self._damaged(str(error.orig))
        return trouble

    def cached_read(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        # Looked at before anything is read: what is read is at least as new as this.
        commits = self._writer.commits
        if commits % 2:
            # A change is about to be seen, or is seen by some already. What was read before it
            # must not be told after it.
            return self.read(work)
        recalled = self._recalled
        if recalled.commits != commits:
            recalled = self._recalled = _Recalled(commits)
        try:
            found: T = recalled.outcomes[key]
        except KeyError:
            found = self.read(work)
            recalled.keep(key, found, weigh(found))
        return found

    def loop_connection(self, *, durable: bool = True) -> None:
        """Reading on the event loop takes less time than any other way."""

    def snapshot(self, work: Work[T], *, stopped: Callable[[], bool] | None = None) -> T:
        try:
            transaction = self._reader()
            transaction.control("BEGIN")
            try:
                if stopped is None:
                    return work(transaction)
                with transaction.ending_early(stopped):
                    return work(transaction)
            finally:
                transaction.control("COMMIT")
        except sa.exc.DatabaseError as error:
            raise self._trouble(error) or error from error.orig

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        (job,) = self._writer.submit([Job(work, freeing)])
        return cast(T, job.future.result())

    def write_apart(self, work: Work[T]) -> T:
        return self.write(work)

    def write_one(self, work: Work[T]) -> T:
        return self.write(work)

    def write_each(self, works: Sequence[Work[Any]], *, hurried: bool = False) -> list[Any]:
        try:
            jobs = self._writer.submit([Job(work, freeing=False) for work in works])
        except DatabaseBusy as error:
            return [error] * len(works)
        return [job.future.exception() or job.outcome for job in jobs]

    def on_writer(self, work: Callable[[], None]) -> None:
        self._writer.put(work)

    def housekeep(self) -> None:
        self._ballast.ensure()
        self.write(_return_free_pages)

    def integrity_problems(self) -> list[str]:
        def ask(tx: Transaction) -> list[str]:
            found = [str(row[0]) for row in tx.execute_directly(sa.text("PRAGMA integrity_check"))]
            problems = [] if found == ["ok"] else found
            for row in tx.execute_directly(sa.text("PRAGMA foreign_key_check")):
                problems.append(f"foreign key: a row of {row[0]} refers to a missing {row[2]}")
            return problems

        settings = {"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"}

        def configured(tx: Transaction) -> list[str]:
            found = {
                name: str(tx.execute_directly(sa.text(f"PRAGMA {name}")).scalar())
                for name in settings
            }
            return [
                f"PRAGMA {name} is {found[name]}, expected {expected}"
                for name, expected in settings.items()
                if found[name] != expected
            ]

        problems = self.snapshot(ask)
        return problems if self.damage else problems + self.write(configured)

    def close(self) -> None:
        with self._open_readers_lock:
            for connection in self._open_readers:
                connection.close()
            self._open_readers.clear()
        # Last, because the last connection to close folds the log into the database.
        self._writer.close()
        self._closing.set()
        if self._checker is not None:
            self._checker.join()
        sound = self._checked and self.damage is None and not self._writer.failed
        self._owner.close(sound=sound if self._opened else None)

    def _reader(self) -> SqliteTransaction:
        transaction: SqliteTransaction | None = getattr(self._local, "transaction", None)
        if transaction is None:
            connection = self._readers.connect()
            with self._open_readers_lock:
                self._open_readers.append(connection)
            transaction = self._local.transaction = SqliteTransaction(connection)
        return transaction


def _return_free_pages(tx: Transaction) -> None:
    free = int(tx.execute_directly(sa.text("PRAGMA freelist_count")).scalar_one())
    for _ in range(min(free, FREE_PAGES_AT_ONCE)):
        # One page each time: the driver takes only the first step of the pragma's many.
        tx.execute_directly(sa.text("PRAGMA incremental_vacuum(1)"))


class _Recalled:
    """What was read between two commits."""

    __slots__ = ("_room", "commits", "outcomes")

    def __init__(self, commits: int) -> None:
        self.commits = commits
        self.outcomes: dict[Hashable, Any] = {}
        self._room = MAX_RECALLED_BYTES

    def keep(self, key: Hashable, outcome: object, size: int) -> None:
        size += RECALLED_BYTES
        if size <= self._room:
            self._room -= size
            self.outcomes[key] = outcome
