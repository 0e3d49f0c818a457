"""Holds: locks with a reason."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "holds",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column(
            "repository_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=False,
        ),
        sa.Column("tag", sa.Text().with_variant(sa.Text(collation="C"), "postgresql")),
        sa.Column("digest", sa.Text().with_variant(sa.Text(collation="C"), "postgresql")),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_holds_repository_id", "holds", ["repository_id"])
    op.create_index("ix_holds_until", "holds", ["until"])
    # By manifest alone: with the job's id in front, SQLite reads all items of a job instead.
    op.drop_index("ix_job_items_manifest_id", "job_items")
    op.create_index("ix_job_items_manifest_id", "job_items", ["manifest_id"])
