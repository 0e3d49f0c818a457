"""Failed logins are counted for all processes, and plans by account."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0005"
down_revision = "b0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "login_failures",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("number", sa.Double(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_login_failures"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_login_failures_last_at", "login_failures", ["last_at"])
    op.create_index("ix_plans_subject_expires_at", "plans", ["subject", "expires_at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE login_failures SET UNLOGGED")
