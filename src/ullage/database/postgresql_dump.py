"""One moment of a PostgreSQL database: an exported snapshot, which pg_dump writes down.

pg_dump and pg_restore are PostgreSQL's own, of the server's version or a later one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from ullage.database.errors import DatabaseFull, DatabaseUnusable
from ullage.database.migrations.upgrade import tables_of_ours
from ullage.database.postgresql import PostgresTransaction
from ullage.database.transaction import Work

T = TypeVar("T")

# The snapshot is kept open for as long as pg_dump takes, and waits for no other's lock for long.
_OPTIONS = (
    "-c jit=off -c lock_timeout=60000 -c statement_timeout=0"
    " -c idle_in_transaction_session_timeout=0"
)
_NO_ROOM = "No space left on device"


class FrozenPostgres:
    """A transaction that sees its first moment."""

    def __init__(self, file: Path, tx: PostgresTransaction) -> None:
        self.file = file
        self._tx = tx

    def read(self, work: Work[T]) -> T:
        return work(self._tx)


@contextmanager
def dump(url: sa.URL, file: Path, leaving_out: Collection[str]) -> Iterator[FrozenPostgres]:
    """Write the registry's tables into `file`, which is there and empty."""
    with _connected(url, "REPEATABLE READ") as connection, connection.begin():
        snapshot = connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
        schema = connection.execute(sa.text("SELECT current_schema()")).scalar_one()
        command = ["pg_dump", "--format=custom", f"--snapshot={snapshot}", f"--file={file}"]
        command += ["--no-owner", "--no-privileges", "--no-unlogged-table-data"]
        command += [f"--table={_quoted(schema, table)}" for table in tables_of_ours()]
        command += [f"--exclude-table-data={_quoted(schema, table)}" for table in leaving_out]
        _run(command, url)
        with file.open("r+b") as written:
            os.fsync(written.fileno())
        yield FrozenPostgres(file, PostgresTransaction(connection))


def require_empty(url: sa.URL) -> None:
    """Raise DatabaseUnusable unless the database is there and has no table of a registry."""
    with _connected(url, "AUTOCOMMIT") as connection:
        there = set(sa.inspect(connection).get_table_names()) & set(tables_of_ours())
    if there:
        raise DatabaseUnusable(
            f"database: {url.render_as_string()} has tables of a registry - name an empty one"
        )


def load(file: Path, url: sa.URL) -> None:
    """Put what `dump` wrote into an empty database: all of it, or nothing."""
    command = ["pg_restore", "--no-owner", "--no-privileges", "--exit-on-error"]
    _run([*command, "--single-transaction", str(file)], url)
    with _connected(url, "AUTOCOMMIT") as connection:
        # Without statistics the planner reads whole tables.
        connection.execute(sa.text("ANALYZE"))


@contextmanager
def _connected(url: sa.URL, isolation: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        isolation_level=isolation,
        connect_args={"options": _OPTIONS, "connect_timeout": 5},
    )
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:
        why = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnusable(
            f"database: cannot use {url.render_as_string()}: {why} - start its server, or correct "
            "user, password, address or name in --database"
        ) from error
    with connection:
        yield connection


def _quoted(*names: str) -> str:
    """A pattern that means exactly this name."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _run(command: Sequence[str], url: sa.URL) -> None:
    # A password in the arguments could be read by every user of the machine.
    where = url.set(drivername="postgresql", password=None)
    environment = dict(os.environ)
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            [*command, f"--dbname={where.render_as_string(hide_password=False)}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise DatabaseUnusable(
            f"{command[0]} is missing - install the client programs of PostgreSQL, of the server's "
            "version or a later one (Debian: postgresql-client)"
        ) from None
    if done.returncode:
        if _NO_ROOM in done.stderr:
            raise DatabaseFull(_NO_ROOM)
        said = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
        more = f" ({said[1].strip()})" if len(said) > 1 else ""
        raise DatabaseUnusable(f"{said[0]}{more}")
