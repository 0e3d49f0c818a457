"""What a database is asked, listened to where it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from ullage.database.transaction import Database, Transaction


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

    with watching_psycopg(heard.append):
        yield heard


@contextmanager
def watching_psycopg(told: Callable[[str], object]) -> Iterator[None]:
    """Tell of every statement, and every commit ("COMMIT"), before the driver carries it out.

    On the thread that asks for it; whether it came by way of SQLAlchemy or not.
    """
    methods: list[tuple[Any, str]] = [
        (psycopg.Cursor, "execute"),
        (psycopg.Cursor, "executemany"),
        (psycopg.Connection, "commit"),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name in methods]
    for owner, name, original in originals:
        setattr(owner, name, _telling(original, told))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _telling(original: Callable[..., Any], told: Callable[[str], object]) -> Callable[..., Any]:
    def telling(self: Any, *arguments: Any, **options: Any) -> Any:
        sql = arguments[0] if arguments else "COMMIT"
        told(sql.decode() if isinstance(sql, bytes) else str(sql))
        return original(self, *arguments, **options)

    return telling
