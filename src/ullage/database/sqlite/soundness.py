"""Whether a database file is sound: asked after a crash, and of a file that was copied here.

SQLite itself finds out only when it meets a damaged page: a torn copy starts, serves, and fails in
the middle of things. What looks here changes nothing, so that a damaged file and its log stay as
they were found.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ullage.database.errors import DatabaseUnusable, Stopped
from ullage.database.sqlite.connection import ASK_EVERY, was_interrupted

# A larger file is looked at beside serving: quick_check reads all of it.
LARGE_BYTES = 1024**3
_ADVICE = (
    "stop here, copy it and its -wal file somewhere safe, and put a backup of the database in its "
    "place"
)


def damaged(path: Path, problem: str) -> str:
    """What to tell an operator, in one line."""
    return (
        f"the database {path} is damaged ({problem}) - {_ADVICE}; --read-only-on-damage serves "
        "pulls meanwhile"
    )


def unreadable(path: Path, problem: str) -> str:
    """The same of one from which no pull can be served."""
    return f"the database {path} is too damaged to be read ({problem}) - {_ADVICE}"


def has_log(path: Path) -> bool:
    """Whether the log is there that a database has from its first commit until it is closed."""
    return path.with_name(path.name + "-wal").exists()


# SQLite file format 1.3.
_HEADER = b"SQLite format 3\0"
_NAME_ANOTHER = "name another file with --data or --database"
# Where the schema's version is noted; a database that has tables and not this one is another's.
_OURS = "alembic_version"


def require_own_file(path: Path) -> None:
    """Before anything is written: the file is a SQLite database of a registry, or free.

    Raises DatabaseUnusable. Looks without locks, log or index, so that nothing is changed, and only
    where there is no log: a file that has one may have its tables in there.
    """
    if path.is_dir():
        raise DatabaseUnusable(f"database: {path} is a folder - {_NAME_ANOTHER}")
    if has_log(path):
        return
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
    except OSError:
        # It is new, or is refused where it is opened.
        return
    if not header:
        return
    if header != _HEADER:
        raise DatabaseUnusable(
            f"database: {path} is no SQLite database - put it back from a backup if it was one, or "
            f"{_NAME_ANOTHER}"
        )
    if foreign := _foreign_tables(path):
        raise DatabaseUnusable(
            f"database: {path} has tables of another program ({', '.join(foreign[:3])}) - "
            f"{_NAME_ANOTHER}"
        )


def _foreign_tables(path: Path) -> list[str]:
    """The tables of a database that is not a registry's; none if its schema cannot be read."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            found = connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite~_%'"
                " ESCAPE '~' ORDER BY name"
            ).fetchall()
    except sqlite3.DatabaseError:
        return []
    names = [str(name) for (name,) in found]
    return [] if _OURS in names else names


def find_problem(path: Path, stopped: Callable[[], bool] = lambda: False) -> str | None:
    """The first thing that SQLite's quick_check finds; None if the file is sound.

    Raises Stopped when `stopped`, which is asked now and then, says so.
    """
    try:
        with closing(read_only_connection(path)) as connection:
            connection.set_progress_handler(stopped, ASK_EVERY)
            first = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if was_interrupted(error):
            raise Stopped from error
        return str(error)
    # In one line, and without the heading of its list.
    found = " ".join(str(first[0]).replace("*** in database main ***", "").split())
    return None if found == "ok" else found


def read_only_connection(path: Path) -> sqlite3.Connection:
    """One that changes neither the file nor its log, also when it is the last to close."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
