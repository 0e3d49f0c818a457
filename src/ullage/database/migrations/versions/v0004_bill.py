"""How many repositories hold a blob, and plans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "blobs",
        sa.Column("repository_count", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.execute(
        "UPDATE blobs SET repository_count ="
        " (SELECT count(*) FROM repo_blobs WHERE repo_blobs.digest = blobs.digest)"
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("applied_at", sa.BigInteger(), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("receipt", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_plans_expires_at", "plans", ["expires_at"], unique=False)
