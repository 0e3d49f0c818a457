"""Opening a database: its URL says which engine it is."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa

from ullage.database.errors import DatabaseOutdated, DatabaseUnusable
from ullage.database.migrations.upgrade import NEWEST, Tables
from ullage.database.transaction import Database

# Not a URL, or one whose port is no number.
_NO_URL = (sa.exc.ArgumentError, ValueError)
_PASSWORD = re.compile(r"(//[^/@:]*):[^/@]*@")


def _without_password(url: str) -> str:
    return _PASSWORD.sub(r"\1:***@", url)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for any other."""
    try:
        parsed = sa.make_url(url)
    except _NO_URL:
        return None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def name_for_people(url: str) -> str:
    """What a message calls a database: its file, or its URL without the password."""
    path = sqlite_file(url)
    if path is not None:
        return str(path)
    try:
        return sa.make_url(url).render_as_string()
    except _NO_URL:
        # What is wrong with it is said where it is opened.
        return _without_password(url)


def open_database(
    url: str,
    *,
    ballast_bytes: int = 0,
    read_only_on_damage: bool = False,
    tables_may: Tables = Tables.UPDATE,
) -> Database:
    """Open `sqlite:///path` or `postgresql://…`, bringing its tables up to date if that may be.

    A SQLite file that was not closed is looked at first: a damaged one is refused or, if
    `read_only_on_damage`, read only.
    Raises DatabaseUnusable with what to change, DatabaseInUse if another process owns the file,
    DatabaseOutdated if the tables may not be brought up to date.
    """
    try:
        parsed = sa.make_url(url)
    except _NO_URL as error:
        raise DatabaseUnusable(
            f"database: {_without_password(url)!r} - expected sqlite:///path or postgresql://user@host/name"
        ) from error
    # A driver is imported when it is asked for.
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        from ullage.database.sqlite.database import SqliteDatabase
        from ullage.database.sqlite.soundness import require_own_file

        require_own_file(Path(parsed.database))
        if tables_may is Tables.LEAVE:
            _require_file(Path(parsed.database))
        return SqliteDatabase(
            Path(parsed.database),
            ballast_bytes=ballast_bytes,
            read_only_on_damage=read_only_on_damage,
            tables_may=tables_may,
        )
    if parsed.get_backend_name() == "postgresql":
        return _open_postgresql(parsed, tables_may)
    raise DatabaseUnusable(
        f"database: {parsed.render_as_string()!r} - expected sqlite:///path or "
        "postgresql://user@host/name"
    )


def migrate(url: str) -> tuple[str, str]:
    """Bring an older database up to date: the schema that it had, and the one it has.

    Where there is no registry nothing is made. Raises as open_database.
    """
    try:
        open_database(url, tables_may=Tables.LEAVE).close()
    except DatabaseOutdated as older:
        open_database(url).close()
        return older.version, NEWEST
    return NEWEST, NEWEST


def _require_file(path: Path) -> None:
    try:
        if path.stat().st_size:
            return
    except FileNotFoundError:
        raise DatabaseUnusable(
            f"database: there is no {path} - name the right one with --data or --database"
        ) from None
    except OSError as error:
        raise DatabaseUnusable(
            f"database: {path}: {error.strerror} - name the right one with --data or --database"
        ) from error
    raise DatabaseUnusable(
        f"database: {path} is empty - put it back from a backup, or name the right one with "
        "--data or --database"
    )


def _open_postgresql(url: sa.URL, tables_may: Tables) -> Database:
    try:
        from ullage.database.postgresql import PostgresDatabase
    except ImportError as error:
        raise DatabaseUnusable(
            f"database: {url.render_as_string()!r} - PostgreSQL takes a driver that is not"
            f" installed ({error}): install ullage[postgres]"
        ) from error
    return PostgresDatabase(url, tables_may=tables_may)
