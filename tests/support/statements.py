"""What a database is asked, listened to where it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from ullage.metadata.database import Database, Transaction


@contextmanager
def listened(db: Database) -> Iterator[list[str]]:
    """Every statement meanwhile, in order; of SQLite's readers only this thread's.

    SQLite's have their values in them, PostgreSQL's do not.
    """
    heard: list[str] = []
    if db.dialect == "sqlite":

        def trace(tx: Transaction, callback: Any) -> None:
            driver: Any = tx._connection.connection.dbapi_connection
            driver.set_trace_callback(callback)

        for ask in (db.write, db.read):
            ask(lambda tx: trace(tx, heard.append))
        heard.clear()
        try:
            yield heard
        finally:
            for ask in (db.write, db.read):
                ask(lambda tx: trace(tx, None))
        return

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield heard
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
