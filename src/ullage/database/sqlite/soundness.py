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

# A larger file is looked at beside serving: quick_check reads all of it.
LARGE_BYTES = 1024**3
# Steps of SQLite's machine.
_ASK_EVERY = 100_000
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


class Stopped(Exception):
    """Told to stop before it was known."""


def find_problem(path: Path, stopped: Callable[[], bool] = lambda: False) -> str | None:
    """The first thing that SQLite's quick_check finds; None if the file is sound.

    Raises Stopped when `stopped`, which is asked now and then, says so.
    """
    try:
        with closing(read_only_connection(path)) as connection:
            connection.set_progress_handler(stopped, _ASK_EVERY)
            first = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT:
            raise Stopped from error
        return str(error)
    # In one line, and without the heading of its list.
    found = " ".join(str(first[0]).replace("*** in database main ***", "").split())
    return None if found == "ok" else found


def read_only_connection(path: Path) -> sqlite3.Connection:
    """One that changes neither the file nor its log, also when it is the last to close."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
