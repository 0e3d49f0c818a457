"""One moment of a SQLite database, in a copy of its file that SQLite makes.

Any process may: what is committed meanwhile goes into the log, and waits for nothing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from ullage.database.errors import DatabaseDamaged, DatabaseFull, DatabaseUnusable
from ullage.database.sqlite.connection import SqliteTransaction
from ullage.database.sqlite.soundness import read_only_connection
from ullage.database.transaction import Work

T = TypeVar("T")


class FrozenSqlite:
    """A file that nothing writes to any more."""

    def __init__(self, file: Path, engine: sa.Engine) -> None:
        self.file = file
        self._engine = engine

    def read(self, work: Work[T]) -> T:
        with self._engine.connect() as connection:
            return work(SqliteTransaction(connection))


@contextmanager
def freeze_sqlite(path: Path, file: Path, leaving_out: Collection[str]) -> Iterator[FrozenSqlite]:
    """Copy the database at `path` into `file`, which is there and empty."""
    with _errors(path):
        with closing(read_only_connection(path)) as source, closing(sqlite3.connect(file)) as copy:
            # In one step, and so of one moment; others write meanwhile.
            source.backup(copy)
        if leaving_out:
            with closing(sqlite3.connect(file, isolation_level=None)) as copy:
                _leave_out(copy, leaving_out)
    _sync(file)
    # Immutable: no log and no index appear beside it.
    url = f"sqlite:///file:{quote(str(file.absolute()))}?mode=ro&immutable=1&uri=true"
    engine = sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    yield FrozenSqlite(file, engine)


def _leave_out(copy: sqlite3.Connection, tables: Collection[str]) -> None:
    """Empty some tables, and write the file anew: rows of before may lie in its free pages."""
    copy.execute("PRAGMA journal_mode = DELETE")
    for table in tables:
        copy.execute(f"DELETE FROM {table}")  # noqa: S608 - our own tables' names
    copy.execute("VACUUM")


def thaw_sqlite(file: Path, path: Path) -> None:
    """Put a copy of `file` at `path`."""
    with file.open("rb") as source, path.open("xb") as target:
        path.chmod(0o600)
        shutil.copyfileobj(source, target, 1024 * 1024)
    _sync(path)


def _sync(file: Path) -> None:
    for path, flags in ((file, os.O_RDWR), (file.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DatabaseFull(str(error)) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise DatabaseDamaged(f"database: {path} is damaged ({error})") from error
        raise DatabaseUnusable(f"database: {path} cannot be copied: {error}") from error
