"""One moment of a database as a file, and a database made of such a file.

On SQLite the file is a database (SQLite's backup API), on PostgreSQL what pg_dump writes of an
exported snapshot. Others read and write meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import sqlalchemy as sa

from ullage.database.dialects import Dialect
from ullage.database.errors import DatabaseUnusable
from ullage.database.migrations.upgrade import SCRIPTS
from ullage.database.transaction import Work

T = TypeVar("T")

# What the file is called, by engine.
FILES: dict[Dialect, str] = {"sqlite": "ullage.db", "postgresql": "ullage.pgdump"}
# The tables that make accounts: without them a copy of the database lets nobody in.
SECRETS = ("signing_keys", "token_passwords", "users")


class Frozen(Protocol):
    """One moment of a database, which is in `file`, too."""

    @property
    def file(self) -> Path: ...

    def read(self, work: Work[T]) -> T:
        """Run `work` reading; all of it sees that moment."""


def dialect_of(url: str) -> Dialect:
    """Which engine a database's URL names."""
    return "sqlite" if sa.make_url(url).get_backend_name() == "sqlite" else "postgresql"


@contextmanager
def freeze(url: str, folder: Path, leaving_out: Collection[str] = ()) -> Iterator[Frozen]:
    """Write one moment of a database into `folder`, durably, without the rows of some tables.

    Raises DatabaseUnusable, DatabaseFull if there is no room in the folder.
    """
    dialect = dialect_of(url)
    file = folder / FILES[dialect]
    # Nobody else is to read what is in it, not for a moment.
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    if dialect == "sqlite":
        from ullage.database.sqlite.frozen import freeze_sqlite

        with freeze_sqlite(Path(str(sa.make_url(url).database)), file, leaving_out) as frozen:
            yield frozen
    else:
        from ullage.database.postgresql_dump import dump

        with dump(sa.make_url(url), file, leaving_out) as frozen:
            yield frozen


def require_free(url: str) -> None:
    """Raise DatabaseUnusable unless a database could be made there."""
    if dialect_of(url) == "sqlite":
        path = Path(str(sa.make_url(url).database))
        if path.exists():
            raise DatabaseUnusable(f"database: there is one at {path} already - name a free place")
        return
    from ullage.database.postgresql_dump import require_empty

    require_empty(sa.make_url(url))


def thaw(file: Path, url: str) -> None:
    """Make a database of a file that `freeze` wrote, of the same engine. Raises as it does."""
    if dialect_of(url) == "sqlite":
        from ullage.database.sqlite.frozen import thaw_sqlite

        thaw_sqlite(file, Path(str(sa.make_url(url).database)))
        return
    from ullage.database.postgresql_dump import load

    load(file, sa.make_url(url))


def is_known(version: str) -> bool:
    """Whether this program can bring a database with that schema up to date."""
    return version.isalnum() and any((SCRIPTS / "versions").glob(f"{version}_*.py"))
