"""PostgreSQL: a pool; every piece of work is a transaction of its own.

It is tried again when the server asks for that. Row locks keep concurrent work apart: see
docs/design/deletion.md section 5.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa

from ullage.database.dialects import Dialect, sql_dialect_of
from ullage.database.errors import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFull,
    DatabaseUnreachable,
    DatabaseUnusable,
    Stopped,
)
from ullage.database.migrations.upgrade import Tables, upgrade
from ullage.database.transaction import (
    Ask,
    LoopConnection,
    Question,
    Row,
    Transaction,
    Work,
    as_by_sqlalchemy,
    bound,
)

T = TypeVar("T")

# How often a transaction that lost a race is tried again before the client is told 503.
MAX_ATTEMPTS = 6
# How long a statement waits for another's lock on a row or a table.
LOCK_TIMEOUT_MS = 5_000
# The same for work of many requests, which would all wait.
HURRIED_LOCK_TIMEOUT_MS = 500
# How often it is asked whether long work is to end early, and how long a server has to hear of it.
ASK_SECONDS = 0.2
CANCEL_SECONDS = 5.0
# A connection to a server that has gone is noticed.
_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class PostgresTransaction(Transaction):
    """Statements go straight to the driver: SQLAlchemy's share would be half of their time."""

    __slots__ = ("_driver",)

    def __init__(self, connection: sa.Connection) -> None:
        super().__init__(connection, "postgresql")
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, psycopg.Connection)
        self._driver: psycopg.Connection[Row] = driver

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        try:
            return self._driver.execute(sql.encode(), parameters).fetchall()
        except psycopg.Error as error:
            raise self._failure(sql, parameters, error) from error

    def _change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        try:
            return self._driver.execute(sql.encode(), parameters).rowcount
        except psycopg.Error as error:
            raise self._failure(sql, parameters, error) from error

    def _change_many(self, sql: str, several: Sequence[Mapping[str, Any]]) -> int:
        if len(several) == 1:
            # It would begin and end a pipeline for it.
            return self._change(sql, several[0])
        try:
            with self._driver.cursor() as cursor:
                cursor.executemany(sql.encode(), several)
                return cursor.rowcount
        except psycopg.Error as error:
            raise self._failure(sql, several, error) from error

    @contextmanager
    def ending_early(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Statements run until `stopped`, which is asked now and then, says so: raises Stopped."""
        ended = threading.Event()

        def watch() -> None:
            # More than once: the first may come between two statements.
            while not ended.wait(ASK_SECONDS):
                if stopped():
                    with suppress(psycopg.Error):
                        self._driver.cancel_safe(timeout=CANCEL_SECONDS)

        watching = threading.Thread(target=watch, name="ullage-canceller", daemon=True)
        watching.start()
        try:
            yield
        except sa.exc.OperationalError as error:
            # A statement that takes too long ends with the same words.
            if getattr(error.orig, "sqlstate", None) == _CANCELLED and stopped():
                raise Stopped from error
            raise
        finally:
            ended.set()
            # No later work on this connection is to be cancelled.
            watching.join()

    def _failure(self, sql: str, parameters: Any, error: psycopg.Error) -> BaseException:
        if self._driver.closed:
            # No other work is to get this connection, nor those that were lost together with it.
            self._connection.invalidate(error)
            self._connection.engine.dispose()
        return as_by_sqlalchemy(sql, parameters, error, psycopg.Error)


# A question about many finds few rows of large tables, each by an index. The planner would take its
# guess of a list's length for a reason to scan; nor need it plan again for each list.
_FOR_QUESTIONS = (
    " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    " -c plan_cache_mode=force_generic_plan"
)
_NOT_DURABLE = " -c synchronous_commit=off"


class PostgresLoopConnection:
    """One after the other, from one event loop; after a failure a new connection is made."""

    def __init__(
        self, parameters: Mapping[str, Any], known: Callable[[psycopg.Error], Exception]
    ) -> None:
        """`parameters` are the driver's, as for any connection; `known` says what an error is."""
        self._parameters = parameters
        self._known = known
        self._dialect = sql_dialect_of("postgresql")
        self._connection: psycopg.AsyncConnection[Row] | None = None

    async def answer(self, ask: Callable[[], Question[T]]) -> T:
        if self._connection is not None:
            try:
                return await self._answer(self._connection, ask())
            except psycopg.Error as error:
                if not self._connection.closed:
                    raise self._known(error) from error
                # The server may have been started again since the last question.
                self._connection = None
        try:
            self._connection = await psycopg.AsyncConnection.connect(
                autocommit=True, **self._parameters
            )
            return await self._answer(self._connection, ask())
        except psycopg.Error as error:
            if self._connection is not None and self._connection.closed:
                self._connection = None
            raise self._known(error) from error

    async def _answer(self, connection: psycopg.AsyncConnection[Row], question: Question[T]) -> T:
        cursor = connection.cursor()
        try:
            ask = next(question)
            while True:
                ask = question.send(await self._rows(cursor, ask))
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    async def _rows(self, cursor: psycopg.AsyncCursor[Row], ask: Ask) -> list[Row]:
        built = ask.statement.built(self._dialect)
        await cursor.execute(built.sql.encode(), bound(built, ask.parameters))
        return await cursor.fetchall()

    def close(self) -> None:
        """From any thread, when the event loop has ended."""
        if self._connection is not None:
            self._connection.pgconn.finish()


class PostgresDatabase:
    dialect: Dialect = "postgresql"
    inline_reads = False
    damage: str | None = None
    log_missing = False

    def __init__(
        self, url: sa.URL, *, pool_size: int = 16, tables_may: Tables = Tables.UPDATE
    ) -> None:
        # Compiling statements pays for none of ours. Where tables have no statistics yet it takes
        # seconds for what runs in milliseconds.
        options = f"-c jit=off -c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout=60000"
        connect_args = {
            "options": f"{options} -c idle_in_transaction_session_timeout=60000",
            **_CONNECT,
        }
        connect = partial(
            sa.create_engine,
            url.set(drivername="postgresql+psycopg"),
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=False,
            connect_args=connect_args,
        )
        # Most of what is asked is one statement, which is a transaction of its own: that is how
        # connections wait in the pool.
        self._reading = connect(pool_size=pool_size, isolation_level="AUTOCOMMIT")
        self._engine = self._reading.execution_options(isolation_level="READ COMMITTED")
        # Connected when it is first used.
        self._apart = connect(pool_size=1)
        hurried = f"{options} -c lock_timeout={HURRIED_LOCK_TIMEOUT_MS}{_FOR_QUESTIONS}"
        self._hurried = connect(pool_size=1, connect_args={**connect_args, "options": hurried})
        _, named = self._engine.dialect.create_connect_args(url)
        self._loop_parameters = {**named, **connect_args, "options": options + _FOR_QUESTIONS}
        self._loop_connections: list[PostgresLoopConnection] = []
        # Its thread begins with its first work.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ullage-writer")
        self._snapshots = self._reading.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        try:
            with self._engine.begin() as connection:
                # Several processes may start at once; one of them makes the tables.
                connection.execute(sa.text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7813298311)"))
                upgrade(connection, tables_may)
        except BaseException as error:
            self._engine.dispose()
            if not isinstance(error, sa.exc.DBAPIError):
                raise
            raise DatabaseUnusable(
                f"database: cannot use {url.render_as_string()}: {_first_line(error)} - start its "
                "server, or correct user, password, address or name in --database"
            ) from error

    def go_on(self) -> None:
        """Its log is its server's affair."""

    def read(self, work: Work[T]) -> T:
        return self._patiently(self._reading, work)

    def cached_read(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        """Other processes commit, too, and this one is not told: everything is read."""
        return self.read(work)

    def loop_connection(self, *, durable: bool = True) -> LoopConnection:
        options = self._loop_parameters["options"] + ("" if durable else _NOT_DURABLE)
        parameters = {**self._loop_parameters, "options": options}
        connection = PostgresLoopConnection(parameters, self._known)
        self._loop_connections.append(connection)
        return connection

    def snapshot(self, work: Work[T], *, stopped: Callable[[], bool] | None = None) -> T:
        def ending_early(tx: Transaction) -> T:
            assert isinstance(tx, PostgresTransaction)
            assert stopped is not None
            with tx.ending_early(stopped):
                return work(tx)

        return self._patiently(self._snapshots, work if stopped is None else ending_early)

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        return self._patiently(self._engine, work)

    def write_apart(self, work: Work[T]) -> T:
        return self._patiently(self._apart, work)

    def write_one(self, work: Work[T]) -> T:
        return self._patiently(self._reading, work)

    def write_each(self, works: Sequence[Work[Any]], *, hurried: bool = False) -> list[Any]:
        engine = self._hurried if hurried else self._engine
        return [self._outcome(engine, work) for work in works]

    def on_writer(self, work: Callable[[], None]) -> None:
        try:
            self._writer.submit(work)
        except RuntimeError as error:
            raise DatabaseBusy("the database is closed") from error

    def _outcome(self, engine: sa.Engine, work: Work[Any]) -> Any:
        try:
            return self._patiently(engine, work)
        except Exception as error:  # noqa: BLE001 - handed to the caller
            return error

    def housekeep(self) -> None:
        """PostgreSQL's autovacuum needs no help."""

    def integrity_problems(self) -> list[str]:
        def ask(tx: Transaction) -> list[str]:
            invalid = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"
            return [
                f"constraint {row[0]} is not validated"
                for row in tx.execute_directly(sa.text(invalid))
            ]

        return self.snapshot(ask)

    def close(self) -> None:
        self._writer.shutdown()
        for connection in self._loop_connections:
            connection.close()
        self._engine.dispose()
        self._apart.dispose()
        self._hurried.dispose()

    def _patiently(self, engine: sa.Engine, work: Work[T]) -> T:
        """Run `work` in a transaction, again if it lost a race that a second try can win."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return self._once(engine, work)
            except sa.exc.InternalError as error:
                raise self._damaged(error) or error from error.orig
            except (sa.exc.OperationalError, sa.exc.IntegrityError) as error:
                if not _worth_another_try(error):
                    raise _postgres_error(error) from error
                if attempt == MAX_ATTEMPTS:
                    raise DatabaseBusy(_first_line(error)) from error
                time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter
            except sa.exc.TimeoutError as error:
                raise DatabaseBusy("all database connections are in use") from error
        raise AssertionError("unreachable")

    def _damaged(self, error: sa.exc.DBAPIError) -> DatabaseDamaged | None:
        """What to raise if the server found its own data malformed."""
        if getattr(error.orig, "sqlstate", None) not in _CORRUPTED:
            return None
        self.damage = _first_line(error)
        return DatabaseDamaged(f"database: {self.damage}")

    def _known(self, error: psycopg.Error) -> Exception:
        """What an error is that came without SQLAlchemy."""
        known = as_by_sqlalchemy("", None, error, psycopg.Error)
        assert isinstance(known, sa.exc.DBAPIError)
        return self._damaged(known) or _postgres_error(known)

    def _once(self, engine: sa.Engine, work: Work[T]) -> T:
        with engine.connect() as connection:
            transaction = PostgresTransaction(connection)
            try:
                if engine is not self._reading:
                    # SQLAlchemy does not see what the driver is given, and would not commit it.
                    connection.begin()
                outcome = work(transaction)
                connection.commit()
            except BaseException:
                transaction.ended(committed=False)
                raise
            transaction.ended(committed=True)
            return outcome


class Listener:
    """A connection of its own that hears what other connections notify on a channel.

    It can be told from others by its application_name, `ullage-listen`. All of it raises
    SQLAlchemy's and psycopg's errors; after one there is nothing to do but to close it.
    """

    def __init__(self, url: sa.URL, channel: str) -> None:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"application_name": "ullage-listen", **_CONNECT},
        )
        self._channel = channel
        self._connection = engine.connect()
        driver = self._connection.connection.dbapi_connection
        assert isinstance(driver, psycopg.Connection)
        self._driver: psycopg.Connection[Row] = driver
        try:
            self._driver.execute(f"LISTEN {channel}".encode())
        except psycopg.Error:
            self.close()
            raise

    def notes(self, seconds: float) -> Iterator[str]:
        """What others notify; ends after the first ones, or once none came for so long."""
        own = self._driver.info.backend_pid
        for note in self._driver.notifies(timeout=seconds, stop_after=1):
            if note.pid != own:
                yield note.payload

    def tell(self, note: str) -> None:
        self._driver.execute(b"SELECT pg_notify(%s, %s)", (self._channel, note))

    def close(self) -> None:
        self._driver.close()
        self._connection.invalidate()


# Serialization failure and deadlock; and a unique or foreign key that a concurrent transaction
# changed under this one (a repository that was just made or just removed): the second try sees it.
_TRY_AGAIN = {"40001", "40P01", "23503", "23505"}
# A server that is stopping, has crashed, or is not up yet (PostgreSQL, appendix A, class 57).
_NO_SERVER = {"57P01", "57P02", "57P03"}
# A statement that was cancelled, by its timeout or by a request.
_CANCELLED = "57014"
# A page or an index that makes no sense.
_CORRUPTED = {"XX001", "XX002"}


def _worth_another_try(error: sa.exc.DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _TRY_AGAIN


def _postgres_error(error: sa.exc.DBAPIError) -> Exception:
    state = getattr(error.orig, "sqlstate", None) or ""
    if state.startswith("53") and state != "53300":
        return DatabaseFull(_first_line(error))
    if isinstance(error, sa.exc.OperationalError):
        if not state or state.startswith("08") or state in _NO_SERVER:
            # Without a state it is the driver's own: no server answers, or the connection broke.
            return DatabaseUnreachable(_first_line(error))
        # Lock and statement timeouts, a server that has too many clients.
        return DatabaseBusy(_first_line(error))
    return error


def _first_line(error: sa.exc.DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig else str(error)
