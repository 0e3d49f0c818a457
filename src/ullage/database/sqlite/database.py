"""SQLite: one process owns the file, and one thread of it writes (`writer.py`).

Readers are query-only connections, one per thread. Because only the writer commits, what was read
stays true until its next commit, and need not be read again before.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from ullage.database.dialects import Dialect
from ullage.database.errors import DatabaseBusy, DatabaseInUse, DatabaseUnusable
from ullage.database.sqlite.ballast import Ballast
from ullage.database.sqlite.connection import (
    SqliteTransaction,
    sqlite_engine,
    sqlite_errors,
    sqlite_trouble,
)
from ullage.database.sqlite.writer import Job, Writer
from ullage.database.transaction import Transaction, Work

T = TypeVar("T")

# How much of what is read between two commits is remembered, and what each piece of it costs beside
# its own bytes.
MAX_RECALLED_BYTES = 8 * 1024 * 1024
RECALLED_BYTES = 1024
# Pages given back to the disk in one quiet moment.
FREE_PAGES_AT_ONCE = 256


class SqliteDatabase:
    dialect: Dialect = "sqlite"
    inline_reads = True

    def __init__(self, path: Path, *, ballast_bytes: int = 0) -> None:
        self.path = path
        self._owner = _own(path)
        try:
            self._ballast = Ballast(path.with_name("ballast"), ballast_bytes)
            self._engine = sqlite_engine(path, query_only=False)
            self._readers = sqlite_engine(path, query_only=True)
            self._local = threading.local()
            self._open_readers: list[sa.Connection] = []
            self._open_readers_lock = threading.Lock()
            self._writer = Writer(self._engine, self._ballast)
            self._recalled = _Recalled(0)
        except BaseException:
            os.close(self._owner)
            raise
        self._ballast.ensure()

    def read(self, work: Work[T]) -> T:
        try:
            return work(self._reader())
        except sa.exc.DatabaseError as error:
            raise sqlite_trouble(error) or error from error.orig

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

    def snapshot(self, work: Work[T]) -> T:
        transaction = self._reader()
        with sqlite_errors():
            transaction.control("BEGIN")
            try:
                return work(transaction)
            finally:
                transaction.control("COMMIT")

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        (job,) = self._writer.submit([Job(work, freeing)])
        return cast(T, job.future.result())

    def write_each(self, works: Sequence[Work[Any]]) -> list[Any]:
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

        return self.snapshot(ask) + self.write(configured)

    def close(self) -> None:
        with self._open_readers_lock:
            for connection in self._open_readers:
                connection.close()
            self._open_readers.clear()
        # Last, because the last connection to close folds the log into the database.
        self._writer.close()
        owner, self._owner = self._owner, -1
        if owner >= 0:
            os.close(owner)

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


def _own(path: Path) -> int:
    """Take the lock that makes this process the only one to use the database at `path`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            path.with_name("owner.lock"),
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
        )
    except OSError as error:
        raise DatabaseUnusable(
            f"database: cannot write in {path.parent} ({error.strerror}) - choose another folder "
            "with --data, or mend its permissions"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise DatabaseInUse(
            f"{path} is in use by process {owner} - one process owns a SQLite database; stop that "
            "one, choose another folder with --data, or use PostgreSQL to run several"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
