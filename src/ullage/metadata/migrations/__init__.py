"""Bringing a database's tables up to date, with Alembic. `versions/` holds one file per change."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

# The newest of `versions/`: tests/metadata/test_migrations.py proves that it is.
NEWEST = "0010"


def upgrade(connection: sa.Connection) -> None:
    """Apply what is missing, inside the connection's transaction if it has one."""
    if _version(connection) == NEWEST:
        return
    # A fifth of the time it takes to start, and seldom needed.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _version(connection: sa.Connection) -> str | None:
    """What the database is at, as Alembic notes it; None for a new one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
