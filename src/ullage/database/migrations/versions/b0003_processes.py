"""The processes at work; claims name theirs, and tombstones are claimed by a token."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0003"
down_revision = "b0002"
branch_labels = None
depends_on = None

Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "processes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_processes"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE processes SET UNLOGGED")
    for table in ("uploads", "jobs", "tombstones"):
        op.add_column(table, sa.Column("claimed_by", sa.Text()))
    op.add_column("tombstones", sa.Column("claim", sa.Text()))
    # What it has is of the last ten minutes, and saves a client no more than a second upload.
    op.drop_table("finished_uploads")
    op.create_table(
        "finished_uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("repository", Name, nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("digest", Name, nullable=False),
        sa.Column("forget_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_finished_uploads"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_finished_uploads_forget_at", "finished_uploads", ["forget_at"])
