"""Signed URLs that were given out, for blobs that are not served by the registry itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0007"
down_revision = "b0006"
branch_labels = None
depends_on = None

Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "signed_reads",
        sa.Column("digest", Name, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_signed_reads"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_signed_reads_until", "signed_reads", ["until"])
    op.create_table(
        "signed_memory",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("complete_from", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_signed_memory"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in ("signed_reads", "signed_memory"):
            op.execute(f"ALTER TABLE {table} SET UNLOGGED")
    # No URL has been given out before this.
    op.execute("INSERT INTO signed_memory (id, complete_from) VALUES (1, 0)")
