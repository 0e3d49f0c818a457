"""Bringing a database's tables up to date, with Alembic. `versions/` holds one file per change.

A new database gets today's tables at once. Alembic would make the same, and keep ten megabytes of
memory for as long as the process lives.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from ullage.database.schema import accounts, cleaning, content, space, undo  # noqa: F401
from ullage.database.schema.base import metadata

# The newest of `versions/`: tests/database/test_migrations.py proves that it is.
NEWEST = "0010"
# Where Alembic notes what a database is at, as Alembic makes it.
_VERSION = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def upgrade(connection: sa.Connection) -> None:
    """Apply what is missing, inside the connection's transaction if it has one."""
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        _create(connection)
    elif _version(connection, tables) != NEWEST:
        _migrate(connection)


def _create(connection: sa.Connection) -> None:
    metadata.create_all(connection, checkfirst=False)
    _VERSION.create(connection)
    connection.execute(_VERSION.insert().values(version_num=NEWEST))


def _version(connection: sa.Connection, tables: list[str]) -> str | None:
    if _VERSION.name not in tables:
        return None
    found = connection.execute(sa.select(_VERSION.c.version_num)).scalar()
    return None if found is None else str(found)


def _migrate(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
