"""Bringing a database's tables up to date, with Alembic. `versions/` has one file per change.

A new database gets today's tables at once. Alembic would make the same, and keep ten megabytes of
memory for as long as the process lives.
"""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path

import sqlalchemy as sa

from ullage.database.errors import DatabaseOutdated, DatabaseUnusable
from ullage.database.schema import accounts, cleaning, content, space, undo  # noqa: F401
from ullage.database.schema.base import metadata

log = logging.getLogger(__name__)

# SQLite's code for a statement that makes no sense, such as a table that is there already.
_SQLITE_ERROR = 1
# The newest of `versions/`: tests/database/test_migrations.py proves that it is.
NEWEST = "b0013"
# Alembic's environment, with `versions/` in it.
SCRIPTS = Path(__file__).parent
# Versions before the first release. Nothing leads from them to the baseline.
BEFORE_THE_FIRST_RELEASE = frozenset(f"{number:04}" for number in range(1, 11))
# Where Alembic notes what a database is at, as Alembic makes it.
_VERSION = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def tables_of_ours() -> list[str]:
    """The names of all tables that a registry has in its database."""
    return [*metadata.tables, _VERSION.name]


class Tables(Enum):
    """What opening a database may do to its tables."""

    # Make them, or bring those of an older version up to date.
    UPDATE = "update"
    # Make them where there are none; `ullage serve --no-migrate`.
    MAKE = "make"
    # Nothing: a command that looks changes nothing, and leaves changing to the server.
    LEAVE = "leave"


_OTHERWISE = {
    Tables.MAKE: "start without --no-migrate",
    Tables.LEAVE: "start the server",
}


def upgrade(connection: sa.Connection, tables_may: Tables = Tables.UPDATE) -> None:
    """Apply what is missing, inside the connection's transaction if it has one.

    Raises DatabaseUnusable, having changed nothing, if no migration leads from there to here;
    DatabaseOutdated if one does, and it is not to be applied.
    """
    tables = set(sa.inspect(connection).get_table_names())
    version = _version(connection, tables)
    if version is None and tables_may is Tables.LEAVE:
        raise DatabaseUnusable(
            "database: there is no registry in it - name the right one, or start the server once, "
            "which makes one"
        )
    if version is None:
        _create(connection, tables)
    elif version in BEFORE_THE_FIRST_RELEASE:
        raise DatabaseUnusable(
            f"database: it is of a version before the first release ({version}), and there is no "
            "way from there - start with an empty data folder or database; images can be copied "
            "over with skopeo sync or crane while the old version still serves"
        )
    elif version != NEWEST:
        _migrate(connection, version, tables_may)


def _create(connection: sa.Connection, tables: set[str]) -> None:
    # A schema of a database server has room for neighbours; a file has one owner.
    alone = connection.dialect.name == "sqlite"
    if foreign := sorted(tables if alone else tables & metadata.tables.keys()):
        raise DatabaseUnusable(
            f"database: it has tables of another program ({', '.join(foreign)}) - choose an "
            "empty one"
        )
    metadata.create_all(connection, checkfirst=False)
    _VERSION.create(connection, checkfirst=True)
    connection.execute(_VERSION.insert().values(version_num=NEWEST))


def _version(connection: sa.Connection, tables: set[str]) -> str | None:
    if _VERSION.name not in tables:
        return None
    found = connection.execute(sa.select(_VERSION.c.version_num)).scalar()
    return None if found is None else str(found)


def _migrate(connection: sa.Connection, version: str, tables_may: Tables) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version not in known:
        raise DatabaseUnusable(
            f"database: it is of a newer version ({version}), this is {NEWEST} - start the version "
            "of Ullage that used it last, or a later one"
        )
    if tables_may is not Tables.UPDATE:
        raise DatabaseOutdated(
            f"database: schema {version}, this is {NEWEST}: {_OTHERWISE[tables_may]}, or run "
            "`ullage migrate`",
            version,
        )
    log.warning("the database is migrated from schema %s to %s", version, NEWEST)
    try:
        command.upgrade(config, "head")
    except sa.exc.DatabaseError as error:
        if not _is_in_the_way(error):
            raise
        (reason, *_) = str(error.orig).splitlines()
        raise DatabaseUnusable(
            f"database: it could not be migrated from schema {version} to {NEWEST}: {reason} - "
            "nothing was changed; the version of Ullage that used it last still starts with it"
        ) from error


def _is_in_the_way(error: sa.exc.DatabaseError) -> bool:
    """Whether the database has what a migration did not expect; not full, busy or damaged."""
    if isinstance(error, sa.exc.OperationalError):
        return getattr(error.orig, "sqlite_errorcode", None) == _SQLITE_ERROR
    return isinstance(error, sa.exc.ProgrammingError | sa.exc.IntegrityError | sa.exc.DataError)
