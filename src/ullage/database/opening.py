"""Which engine keeps the facts, by its URL."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from ullage.database.errors import DatabaseUnusable
from ullage.database.transaction import Database


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
    # A driver is imported when it is asked for.
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        from ullage.database.sqlite.database import SqliteDatabase

        return SqliteDatabase(Path(parsed.database), ballast_bytes=ballast_bytes)
    if parsed.get_backend_name() == "postgresql":
        from ullage.database.postgresql import PostgresDatabase

        return PostgresDatabase(parsed)
    raise DatabaseUnusable(
        f"database: {parsed.render_as_string()!r} - expected sqlite:///path or "
        "postgresql://user@host/name"
    )
