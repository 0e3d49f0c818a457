"""One connection to SQLite: how it is set up, how statements reach it, what its errors mean."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from ullage.database.errors import (
    DatabaseBroken,
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFull,
    DatabaseUnusable,
    Stopped,
)
from ullage.database.statements import Built
from ullage.database.transaction import Row, Transaction, as_by_sqlalchemy

# How long a statement waits for another's lock on the file.
LOCK_TIMEOUT_MS = 5_000
# Statements that the driver keeps prepared for each connection: more than there are.
PREPARED = 512
# Whether a long statement is to end early is asked after so many steps of SQLite's machine: within
# milliseconds.
ASK_EVERY = 100_000


def sqlite_engine(path: Path, *, query_only: bool, untouched: bool = False) -> sa.Engine:
    """Connections to a database, `query_only` or not; `untouched` ones leave its files alone."""
    engine = sa.create_engine(
        f"sqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true"
        if untouched
        else f"sqlite:///{path}",
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
            # Only has an effect on a database without tables, so it comes first. It writes to the
            # file also where it is so already.
            if connection.execute("PRAGMA auto_vacuum").fetchone() != (2,):
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA journal_size_limit = 16777216")
        # FULL: with NORMAL a power cut may take back commits that were acknowledged.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA query_only = {int(query_only)}")

    return engine


class SqliteTransaction(Transaction):
    """Statements go straight to the driver: SQLAlchemy's share would be most of their time."""

    __slots__ = ("_driver",)

    def __init__(self, connection: sa.Connection) -> None:
        super().__init__(connection, "sqlite")
        self._driver = _driver_of(connection)

    def control(self, sql: str) -> None:
        """Begin or end the transaction, or a part of it."""
        self._change(sql, {})

    @contextmanager
    def ending_early(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Statements run until `stopped`, which is asked now and then, says so: raises Stopped."""
        self._driver.set_progress_handler(stopped, ASK_EVERY)
        try:
            yield
        except sa.exc.OperationalError as error:
            if was_interrupted(error.orig):
                raise Stopped from error
            raise
        finally:
            self._driver.set_progress_handler(None, 0)

    def _bound(self, built: Built, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if built.lists:
            lists = {name: json.dumps([*parameters[name]]) for name in built.lists}
            return {**built.constants, **parameters, **lists}
        return {**built.constants, **parameters} if built.constants else parameters

    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        try:
            # All of them at once: a cursor left open would keep its view of the database.
            return self._driver.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise as_by_sqlalchemy(sql, parameters, error, sqlite3.Error) from error

    def _change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        try:
            return self._driver.execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            raise as_by_sqlalchemy(sql, parameters, error, sqlite3.Error) from error

    def _change_many(self, sql: str, several: Sequence[Mapping[str, Any]]) -> int:
        try:
            return self._driver.executemany(sql, several).rowcount
        except sqlite3.Error as error:
            raise as_by_sqlalchemy(sql, several, error, sqlite3.Error) from error


def _driver_of(connection: sa.Connection) -> sqlite3.Connection:
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


# Growing the shared-memory index of the log on a full disk fails as an I/O error, not as FULL.
_FULL_BY_ANOTHER_NAME = {sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP}


@contextmanager
def sqlite_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.DatabaseError as error:
        trouble = sqlite_trouble(error)
        if trouble is None:
            raise
        raise trouble from error


def is_damage(error: sa.exc.DatabaseError) -> bool:
    """Whether SQLite met something malformed in its file."""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    # The driver's own words, without a code, for a text that is none.
    return str(error.orig).startswith("Could not decode to UTF-8")


def was_interrupted(error: BaseException | None) -> bool:
    """Whether a statement ended because it was told to."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT


def _no_descriptor_is_left() -> bool:
    """Whether the process cannot open any file now: that passes, and nothing is broken."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def sqlite_trouble(error: sa.exc.DatabaseError) -> Exception | None:
    """What is wrong with the database; None if it is what was asked of it."""
    text = str(error.orig)
    if is_damage(error):
        return DatabaseDamaged(f"database: {text}")
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
    if code == sqlite3.SQLITE_CANTOPEN and _no_descriptor_is_left():
        return DatabaseBusy("too many files are open")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return DatabaseBroken(text)
    return None
