"""Run by Alembic, with the connection that `ullage.database.migrations.upgrade` was given."""

from __future__ import annotations

from alembic import context

from ullage.database.schema.base import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
