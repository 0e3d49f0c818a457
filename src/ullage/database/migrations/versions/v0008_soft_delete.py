"""Soft delete: operations, and what they keep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=False),
        sa.Column("counts_from", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_operations_counts_from", "operations", ["counts_from"])
    op.create_index("ix_operations_deleted_at", "operations", ["deleted_at", "id"])
    op.create_table(
        "kept_repositories",
        sa.Column("repository_id", _ID, nullable=False),
        sa.Column("operation_id", sa.Text(), nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.PrimaryKeyConstraint("repository_id", name="pk_kept_repositories"),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name="fk_kept_repositories_repository_id"
        ),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name="fk_kept_repositories_operation_id"
        ),
        sa.UniqueConstraint("operation_id", "name", name="uq_kept_repositories_operation_id_name"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_kept_repositories_name", "kept_repositories", ["name"])
    op.create_table(
        "deleted_tags",
        sa.Column("operation_id", sa.Text(), nullable=False),
        sa.Column("repository", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("digest", _NAME, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        *(
            sa.Column(f"{what}_enabled", sa.Boolean(), nullable=False, server_default=sa.true())
            for what in ("delete", "write", "read", "list")
        ),
        sa.PrimaryKeyConstraint(
            "operation_id", "repository", "name", "digest", name="pk_deleted_tags"
        ),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operations.id"], name="fk_deleted_tags_operation_id"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_deleted_tags_repository_name", "deleted_tags", ["repository", "name"])
