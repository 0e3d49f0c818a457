"""Transactions, and the only file that knows dialects and drivers.

SQLite: one process owns the file. One connection on one thread does all the writing and all the
checkpoints (so the write-ahead log is never reset by two connections at once, which corrupted
databases up to SQLite 3.51.2); several pieces of work may share one commit. Readers are query-only
connections, one per thread.

PostgreSQL: a pool; every piece of work is a transaction of its own, tried again when the server
asks for that. Row locks keep concurrent work apart: see docs/design/deletion.md.

A piece of work is a plain function of a `Transaction`. It may run more than once, so it must not do
anything that a rollback does not undo, except through `after_commit` and `at_end`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.pool import NullPool

from ullage.metadata import migrations
from ullage.metadata.ballast import Ballast
from ullage.metadata.errors import (
    DatabaseBroken,
    DatabaseBusy,
    DatabaseFull,
    DatabaseInUse,
    DatabaseUnusable,
)
from ullage.metadata.moments import from_moment
from ullage.metadata.statements import Built, Spelling, Statement

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[["Transaction"], T]
Row = tuple[Any, ...]
Dialect = Literal["sqlite", "postgresql"]

# How many statements' worth of waiting work may share one commit, and for how long it may gather.
MAX_GROUP = 64
MAX_GROUP_SECONDS = 0.005
# How much of what is read between two commits is remembered, and what each piece of it costs beside
# its own bytes.
MAX_RECALLED_BYTES = 8 * 1024 * 1024
RECALLED_BYTES = 1024
# Pages given back to the disk in one quiet moment.
FREE_PAGES_AT_ONCE = 256
# PostgreSQL: how often a transaction that lost a race is tried again before the client is told 503.
MAX_ATTEMPTS = 6
LOCK_TIMEOUT_MS = 5_000
# SQLite accepts 32,766 parameters; staying far below keeps statements and their cache small.
CHUNK = 500
# Statements that the driver keeps prepared for each connection: more than there are.
PREPARED = 512

SPELLINGS: dict[Dialect, Spelling] = {
    "sqlite": Spelling("sqlite", sqlite.dialect(paramstyle="named"), sqlite.insert),
    "postgresql": Spelling(
        "postgresql",
        PGDialect_psycopg(),  # type: ignore[no-untyped-call]
        postgresql.insert,
    ),
}


class Transaction:
    """One connection inside one transaction, as storage functions see it.

    What runs often is a `Statement`, with its parameters by name; a parameter made by `among` takes
    any collection. What runs seldom may be SQLAlchemy's, by `execute`. SQLite's rows of a
    `Statement` are as SQLite has them: a truth is 0 or 1.
    """

    __slots__ = ("_after_commit", "_at_end", "_connection", "_spelling", "dialect")

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._spelling = SPELLINGS[dialect]
        self._after_commit: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self.dialect: Dialect = dialect

    def rows(self, statement: Statement, /, **parameters: Any) -> list[Row]:
        """All rows that a SELECT finds or that RETURNING gives."""
        built = statement.built(self._spelling)
        return self._fetch(built.sql, self._bound(built, parameters))

    def row(self, statement: Statement, /, **parameters: Any) -> Row | None:
        """The first of its rows, if any."""
        rows = self.rows(statement, **parameters)
        return rows[0] if rows else None

    def value(self, statement: Statement, /, **parameters: Any) -> Any:
        """What the first row has in its first column; None if there is no row."""
        rows = self.rows(statement, **parameters)
        return rows[0][0] if rows else None

    def values(self, statement: Statement, /, **parameters: Any) -> list[Any]:
        """What the rows have in their first column."""
        return [row[0] for row in self.rows(statement, **parameters)]

    def change(self, statement: Statement, /, **parameters: Any) -> int:
        """How many rows an INSERT, UPDATE or DELETE changed."""
        built = statement.built(self._spelling)
        return self._change(built.sql, self._bound(built, parameters))

    def many(self, statement: Statement, several: Sequence[Mapping[str, Any]]) -> None:
        """Run a statement once for each of `several` sets of parameters; for none, not at all."""
        if several:
            built = statement.built(self._spelling)
            self._change_many(built.sql, [self._bound(built, each) for each in several])

    def _bound(self, built: Built, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if built.constants:
            parameters = {**built.constants, **parameters}
        if built.lists:
            parameters = {**parameters, **{name: [*parameters[name]] for name in built.lists}}
        return parameters

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        return [tuple(row) for row in self._connection.exec_driver_sql(sql, parameters)]

    def _change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        return self._connection.exec_driver_sql(sql, parameters).rowcount

    def _change_many(self, sql: str, several: Sequence[Mapping[str, Any]]) -> None:
        self._connection.exec_driver_sql(sql, several)

    def execute(
        self, statement: sa.Executable, parameters: Any = None
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        return self._connection.execute(statement, parameters)

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT; both dialects spell it alike, SQLAlchemy does not."""
        insert = postgresql.insert(table) if self.dialect == "postgresql" else sqlite.insert(table)
        # Otherwise SQLAlchemy says -1 on PostgreSQL, and nobody can tell a conflict from a new row.
        return insert.execution_options(preserve_rowcount=True)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once this piece of work is committed; never if it is rolled back."""
        self._after_commit.append(callback)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` once this piece of work is committed or rolled back, whichever it is."""
        self._at_end.append(callback)

    def _ended(self, *, committed: bool) -> None:
        callbacks = (self._after_commit if committed else []) + self._at_end
        self._after_commit, self._at_end = [], []
        for callback in callbacks:
            callback()


class _SqliteTransaction(Transaction):
    """Statements go straight to the driver: SQLAlchemy's share would be most of their time."""

    __slots__ = ("_driver",)

    def __init__(self, connection: sa.Connection) -> None:
        super().__init__(connection, "sqlite")
        self._driver = _driver_of(connection)

    def control(self, sql: str) -> None:
        """Begin or end the transaction, or a part of it."""
        self._change(sql, {})

    def _bound(self, built: Built, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if built.lists:
            lists = {name: json.dumps([*parameters[name]]) for name in built.lists}
            return {**built.constants, **parameters, **lists}
        return {**built.constants, **parameters} if built.constants else parameters

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        try:
            # All of them at once: a cursor left open would hold its view of the database.
            return self._driver.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise _as_by_sqlalchemy(sql, parameters, error) from error

    def _change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        try:
            return self._driver.execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            raise _as_by_sqlalchemy(sql, parameters, error) from error

    def _change_many(self, sql: str, several: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._driver.executemany(sql, several)
        except sqlite3.Error as error:
            raise _as_by_sqlalchemy(sql, several, error) from error


def _driver_of(connection: sa.Connection) -> sqlite3.Connection:
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def _as_by_sqlalchemy(sql: str, parameters: Any, error: sqlite3.Error) -> BaseException:
    """The error that SQLAlchemy makes of the driver's: one kind of error for everybody."""
    return sa.exc.DBAPIError.instance(sql, parameters, error, sqlite3.Error)


class Database(Protocol):
    dialect: Dialect
    # Reads are so cheap that they may run on the event loop.
    inline_reads: bool

    def read(self, work: Work[T]) -> T:
        """Run `work` reading; every statement sees what was committed last."""

    def recall(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        """As `read`; but what was read for `key` since the last commit need not be read again.

        `weigh` says how many bytes it takes to remember what `work` gave, which nobody may change.
        """

    def snapshot(self, work: Work[T]) -> T:
        """Run `work` reading; all its statements see one moment."""

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        """Run `work` in one transaction and return what it returned once it is committed.

        `freeing` work gives room back: on a full disk the ballast is given up for it.
        Raises DatabaseFull, DatabaseBusy or DatabaseBroken, or what `work` raised (rolled back).
        """

    def write_each(self, works: Sequence[Work[Any]]) -> list[Any]:
        """As `write`, of several that may share a commit; one that fails undoes only itself.

        What each returned or, in its place, the exception that it or its commit met.
        """

    def between(self, work: Callable[[], None]) -> None:
        """Run `work`, which raises nothing, soon: where one thread writes, on that thread.

        What it writes is then committed without another thread to wait for. Raises DatabaseBusy.
        """

    def housekeep(self) -> None:
        """What a quiet moment is good for: put the ballast back, return free pages to the disk."""

    def integrity_problems(self) -> list[str]:
        """What the engine itself finds wrong with the database (invariant I29)."""

    def close(self) -> None:
        """Let go of the database; a second time does nothing."""


def open_database(url: str, *, ballast_bytes: int = 0) -> Database:
    """Open `sqlite:///path` or `postgresql://…`, bringing its tables up to date.

    Raises DatabaseUnusable with what to change, DatabaseInUse if another process owns the file.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise DatabaseUnusable(
            f"database: {url!r} - expected sqlite:///path or postgresql://user@host/name"
        ) from error
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return SqliteDatabase(Path(parsed.database), ballast_bytes=ballast_bytes)
    if parsed.get_backend_name() == "postgresql":
        return PostgresDatabase(parsed)
    raise DatabaseUnusable(
        f"database: {parsed.render_as_string()!r} - expected sqlite:///path or "
        "postgresql://user@host/name"
    )


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Cut a long list into pieces that one statement's parameters can hold."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def database_time(db: Database) -> datetime:
    """What time it is for the database server, and so for every process that uses it."""
    query = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")
    return from_moment(int(db.read(lambda tx: tx.execute(query).scalar_one())))


class SqliteDatabase:
    dialect: Dialect = "sqlite"
    inline_reads = True

    def __init__(self, path: Path, *, ballast_bytes: int = 0) -> None:
        self.path = path
        self._owner = _own(path)
        try:
            self._ballast = Ballast(path.with_name("ballast"), ballast_bytes)
            self._engine = _sqlite_engine(path, query_only=False)
            self._readers = _sqlite_engine(path, query_only=True)
            self._local = threading.local()
            self._open_readers: list[sa.Connection] = []
            self._open_readers_lock = threading.Lock()
            self._writer = _Writer(self._engine, self._ballast)
            self._recalled = _Recalled(0)
        except BaseException:
            os.close(self._owner)
            raise
        self._ballast.ensure()

    def read(self, work: Work[T]) -> T:
        try:
            return work(self._reader())
        except sa.exc.DatabaseError as error:
            raise _sqlite_trouble(error) or error from error.orig

    def recall(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        # Looked at before anything is read: what is read is at least as new as this.
        commits = self._writer.commits
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
        with _sqlite_errors():
            transaction.control("BEGIN")
            try:
                return work(transaction)
            finally:
                transaction.control("COMMIT")

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        (job,) = self._writer.submit([_Job(work, freeing)])
        return cast(T, job.future.result())

    def write_each(self, works: Sequence[Work[Any]]) -> list[Any]:
        try:
            jobs = self._writer.submit([_Job(work, freeing=False) for work in works])
        except DatabaseBusy as error:
            return [error] * len(works)
        return [job.future.exception() or job.outcome for job in jobs]

    def between(self, work: Callable[[], None]) -> None:
        self._writer.put(work)

    def housekeep(self) -> None:
        self._ballast.ensure()
        self.write(_return_free_pages)

    def integrity_problems(self) -> list[str]:
        def ask(tx: Transaction) -> list[str]:
            found = [str(row[0]) for row in tx.execute(sa.text("PRAGMA integrity_check"))]
            problems = [] if found == ["ok"] else found
            for row in tx.execute(sa.text("PRAGMA foreign_key_check")):
                problems.append(f"foreign key: a row of {row[0]} refers to a missing {row[2]}")
            return problems

        settings = {"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"}

        def configured(tx: Transaction) -> list[str]:
            found = {name: str(tx.execute(sa.text(f"PRAGMA {name}")).scalar()) for name in settings}
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

    def _reader(self) -> _SqliteTransaction:
        transaction: _SqliteTransaction | None = getattr(self._local, "transaction", None)
        if transaction is None:
            connection = self._readers.connect()
            with self._open_readers_lock:
                self._open_readers.append(connection)
            transaction = self._local.transaction = _SqliteTransaction(connection)
        return transaction


def _return_free_pages(tx: Transaction) -> None:
    free = int(tx.execute(sa.text("PRAGMA freelist_count")).scalar_one())
    for _ in range(min(free, FREE_PAGES_AT_ONCE)):
        # One page each time: the driver takes only the first step of the pragma's many.
        tx.execute(sa.text("PRAGMA incremental_vacuum(1)"))


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


class _Job:
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
            self.transaction._ended(committed=committed)

    def settle(self) -> None:
        if self.failure is not None:
            self.future.set_exception(self.failure)
        else:
            self.future.set_result(self.outcome)


class _Writer:
    """The one thread with the one writing connection.

    Its queue holds jobs, which are committed, and calls, which are made between two commits. Jobs
    that wait while a commit reaches the disk share the next one: each runs in a savepoint, so that
    one failing undoes only itself.
    """

    def __init__(self, engine: sa.Engine, ballast: Ballast) -> None:
        self._engine = engine
        self._ballast = ballast
        # Jobs that were handed over together are committed together.
        self._queue: queue.SimpleQueue[Sequence[_Job] | Callable[[], None] | None]
        self._queue = queue.SimpleQueue()
        self._broken: str | None = None
        # How many transactions have ended. It moves on once a change can be seen, and before
        # anybody is told of it: what was read at this number holds while it stays.
        self.commits = 0
        self._closing = threading.Lock()
        self._closed = False
        opened: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="ullage-writer", daemon=True
        )
        self._thread.start()
        opened.result()

    def submit(self, jobs: Sequence[_Job]) -> Sequence[_Job]:
        if threading.current_thread() is self._thread:
            # Between two transactions: nobody else is to be waited for.
            self._commit(jobs)
        else:
            self.put(jobs)
        return jobs

    def put(self, item: Sequence[_Job] | Callable[[], None]) -> None:
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
        try:
            with _sqlite_errors():
                connection = self._engine.connect()
                # All or nothing. SQLite can undo changes of tables; Alembic does not count on it.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                migrations.upgrade(connection)
                connection.exec_driver_sql("COMMIT")
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            opened.set_exception(error)
            return
        opened.set_result(None)
        self._connection = connection
        with connection:
            while (item := self._queue.get()) is not None:
                if callable(item):
                    self._call(item)
                elif not self._commit_group(item):
                    return

    def _commit_group(self, first: Sequence[_Job]) -> bool:
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

    def _commit(self, jobs: Sequence[_Job]) -> None:
        connection = self._connection
        if self._broken is not None:
            for job in jobs:
                job.failure = DatabaseBroken(self._broken)
        elif not self._attempt(connection, jobs):
            self._attempt_each(connection, jobs)
        for job in jobs:
            job.settle()

    def _attempt_each(self, connection: sa.Connection, jobs: Sequence[_Job]) -> None:
        """Something concerned the whole commit (a full disk, mostly): find out whom it hits."""
        if isinstance(jobs[0].failure, DatabaseBusy):
            # Somebody else's lock hits all of them alike, and each would wait for it once more.
            return
        for job in jobs:
            if self._broken is not None:
                job.failure = DatabaseBroken(self._broken)
            elif not self._attempt(connection, [job]) and job.freeing:
                self._attempt_on_ballast(connection, job)

    def _gather(
        self, first: Sequence[_Job]
    ) -> tuple[list[_Job], Sequence[_Job] | Callable[[], None] | None]:
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

    def _attempt_on_ballast(self, connection: sa.Connection, job: _Job) -> None:
        if isinstance(job.failure, DatabaseFull) and self._ballast.release():
            self._attempt(connection, [job])

    def _attempt(self, connection: sa.Connection, jobs: Sequence[_Job]) -> bool:
        """Run all jobs and commit. False if the commit as a whole failed; each job knows why."""
        writing = _SqliteTransaction(connection)
        try:
            with _sqlite_errors():
                writing.control("BEGIN IMMEDIATE")
                if len(jobs) > 1:
                    for job in jobs:
                        self._run_in_savepoint(connection, job)
                else:
                    self._do(connection, jobs[0])
                undone = len(jobs) == 1 and jobs[0].failure is not None
                writing.control("ROLLBACK" if undone else "COMMIT")
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._roll_back(connection)
            self.commits += 1
            if isinstance(error, DatabaseBroken):
                self._broken = str(error)
                log.critical("database failed, no more writing until a restart: %s", error)
            for job in jobs:
                job.outcome, job.failure = None, error
                job.end(committed=False)
            return False
        self.commits += 1
        for job in jobs:
            job.end(committed=job.failure is None)
        return True

    @staticmethod
    def _do(connection: sa.Connection, job: _Job) -> None:
        transaction = job.transaction = _SqliteTransaction(connection)
        job.outcome = job.failure = None
        try:
            job.outcome = job.work(transaction)
        except sa.exc.OperationalError:
            # The disk or the engine, not this work: the whole transaction may be gone already.
            raise
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            job.failure = error

    def _run_in_savepoint(self, connection: sa.Connection, job: _Job) -> None:
        saving = _SqliteTransaction(connection)
        saving.control("SAVEPOINT job")
        self._do(connection, job)
        if job.failure is not None:
            saving.control("ROLLBACK TO job")
        saving.control("RELEASE job")

    @staticmethod
    def _roll_back(connection: sa.Connection) -> None:
        # SQLite may already have rolled back by itself, after an I/O error for example.
        with suppress(sa.exc.DBAPIError):
            connection.exec_driver_sql("ROLLBACK")


def _sqlite_engine(path: Path, *, query_only: bool) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{path}",
        poolclass=NullPool,
        # SQLAlchemy leaves transactions to us: BEGIN IMMEDIATE is not in the driver's repertoire.
        isolation_level="AUTOCOMMIT",
        connect_args={
            "check_same_thread": False,
            "timeout": LOCK_TIMEOUT_MS / 1000,
            "cached_statements": PREPARED,
        },
    )

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        if not query_only:
            # Only has an effect on a database without tables, so it comes first.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA journal_size_limit = 16777216")
        # FULL: with NORMAL a power cut may take back commits that were acknowledged.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA query_only = {int(query_only)}")

    return engine


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


# Growing the shared-memory index of the log on a full disk fails as an I/O error, not as FULL.
_FULL_BY_ANOTHER_NAME = {sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP}


@contextmanager
def _sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.DatabaseError as error:
        trouble = _sqlite_trouble(error)
        if trouble is None:
            raise
        raise trouble from error


def _sqlite_trouble(error: sa.exc.DatabaseError) -> Exception | None:
    """What is wrong with the database; None if it is what was asked of it."""
    text = str(error.orig)
    if not isinstance(error, sa.exc.OperationalError):
        broken = isinstance(error.orig, sqlite3.DatabaseError)
        mine = isinstance(error.orig, sqlite3.IntegrityError)
        return DatabaseUnusable(f"database: {text}") if broken and not mine else None
    extended = getattr(error.orig, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL or extended in _FULL_BY_ANOTHER_NAME:
        return DatabaseFull(text)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseBusy(text)
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return DatabaseBroken(text)
    return None


class PostgresDatabase:
    dialect: Dialect = "postgresql"
    inline_reads = False

    def __init__(self, url: sa.URL, *, pool_size: int = 16) -> None:
        options = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout=60000"
        self._engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=False,
            connect_args={
                "options": f"{options} -c idle_in_transaction_session_timeout=60000",
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._snapshots = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        try:
            with self._engine.begin() as connection:
                # Several processes may start at once; one of them makes the tables.
                connection.execute(sa.text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7813298311)"))
                migrations.upgrade(connection)
        except sa.exc.OperationalError as error:
            raise DatabaseUnusable(
                f"database: cannot use {url.render_as_string()}: {_first_line(error)}"
            ) from error

    def read(self, work: Work[T]) -> T:
        return self._patiently(self._reading, work)

    def recall(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        """Other processes commit, too, and nobody is told: everything is read."""
        return self.read(work)

    def snapshot(self, work: Work[T]) -> T:
        return self._patiently(self._snapshots, work)

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        return self._patiently(self._engine, work)

    def write_each(self, works: Sequence[Work[Any]]) -> list[Any]:
        return [self._outcome(work) for work in works]

    def between(self, work: Callable[[], None]) -> None:
        work()

    def _outcome(self, work: Work[Any]) -> Any:
        try:
            return self.write(work)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            return error

    def housekeep(self) -> None:
        """PostgreSQL's autovacuum needs no help."""

    def integrity_problems(self) -> list[str]:
        def ask(tx: Transaction) -> list[str]:
            invalid = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"
            return [f"constraint {row[0]} is not validated" for row in tx.execute(sa.text(invalid))]

        return self.snapshot(ask)

    def close(self) -> None:
        self._engine.dispose()

    def _patiently(self, engine: sa.Engine, work: Work[T]) -> T:
        """Run `work` in a transaction, again if it lost a race that a second try can win."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return self._once(engine, work)
            except (sa.exc.OperationalError, sa.exc.IntegrityError) as error:
                if not _worth_another_try(error):
                    raise _postgres_error(error) from error
                if attempt == MAX_ATTEMPTS:
                    raise DatabaseBusy(_first_line(error)) from error
                time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter
            except sa.exc.TimeoutError as error:
                raise DatabaseBusy("all database connections are in use") from error
        raise AssertionError("unreachable")

    @staticmethod
    def _once(engine: sa.Engine, work: Work[T]) -> T:
        with engine.connect() as connection:
            transaction = Transaction(connection, "postgresql")
            try:
                outcome = work(transaction)
                connection.commit()
            except BaseException:
                transaction._ended(committed=False)
                raise
            transaction._ended(committed=True)
            return outcome


# Serialization failure and deadlock; and a unique or foreign key that a concurrent transaction
# changed under this one (a repository that was just made or just removed): the second try sees it.
_TRY_AGAIN = {"40001", "40P01", "23503", "23505"}


def _worth_another_try(error: sa.exc.DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _TRY_AGAIN


def _postgres_error(error: sa.exc.DBAPIError) -> Exception:
    state = getattr(error.orig, "sqlstate", None) or ""
    if state.startswith("53") and state != "53300":
        return DatabaseFull(_first_line(error))
    if isinstance(error, sa.exc.OperationalError):
        # Lost connections, lock and statement timeouts, a server that is starting or stopping.
        return DatabaseBusy(_first_line(error))
    return error


def _first_line(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig else str(error)
