"""The bill as it was taken last, so that knowing it costs no pass over everything."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0011"
down_revision = "b0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "overview",
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("part", "page", name="pk_overview"),
        sqlite_with_rowid=False,
    )
