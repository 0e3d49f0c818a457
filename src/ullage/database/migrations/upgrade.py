"""Bringing a database's tables up to date, with Alembic. `versions/` has one file per change.

A new database gets today's tables at once. Alembic would make the same, and keep ten megabytes of
memory for as long as the process lives.
"""

from __future__ import annotations

import logging
from pathlib import Path

import sqlalchemy as sa

from ullage.database.errors import DatabaseUnusable
from ullage.database.schema import accounts, cleaning, content, space, undo  # noqa: F401
from ullage.database.schema.base import metadata

log = logging.getLogger(__name__)

# The newest of `versions/`: tests/database/test_migrations.py proves that it is.
NEWEST = "b0003"
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


def upgrade(connection: sa.Connection) -> None:
    """Apply what is missing, inside the connection's transaction if it has one.

    Raises DatabaseUnusable, having changed nothing, if no migration leads from there to here.
    """
    tables = set(sa.inspect(connection).get_table_names())
    version = _version(connection, tables)
    if version is None:
        _create(connection, tables)
    elif version in BEFORE_THE_FIRST_RELEASE:
        raise DatabaseUnusable(
            f"database: it is of a version before the first release ({version}), and there is no "
            "way from there - start with an empty data folder or database; images can be copied "
            "over with skopeo sync or crane while the old version still serves"
        )
    elif version != NEWEST:
        _migrate(connection, version)


def _create(connection: sa.Connection, tables: set[str]) -> None:
    if foreign := sorted(tables & metadata.tables.keys()):
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


def _migrate(connection: sa.Connection, version: str) -> None:
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
    log.warning("the database is migrated from schema %s to %s", version, NEWEST)
    command.upgrade(config, "head")
