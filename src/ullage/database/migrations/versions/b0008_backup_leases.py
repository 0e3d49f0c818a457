"""Backups that run, while which no bytes are erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0008"
down_revision = "b0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "backup_leases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_backup_leases"),
        sqlite_with_rowid=False,
    )
