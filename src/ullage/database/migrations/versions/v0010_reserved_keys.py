"""Reserved storage keys, in place of rows for upload sessions without bytes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reserved_keys",
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("storage_key", name="pk_reserved_keys"),
        sqlite_with_rowid=False,
    )
    # Nobody can go on with an upload of one request that was cut off: let it expire at once.
    op.execute("UPDATE uploads SET expires_at = created_at WHERE single")
    op.execute("ALTER TABLE uploads DROP COLUMN single")
