"""Pulls: when each manifest and each tag was pulled last, by what, and how often on each day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "manifest_pulls",
        sa.Column("manifest_id", Id, nullable=False),
        sa.Column("puller", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("by_digest_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["manifest_id"],
            ["manifests.id"],
            name=op.f("fk_manifest_pulls_manifest_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("manifest_id", "puller", name=op.f("pk_manifest_pulls")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tag_pulls",
        sa.Column("repository_id", Id, nullable=False),
        sa.Column("tag", Name, nullable=False),
        sa.Column("puller", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id", "tag"],
            ["tags.repository_id", "tags.name"],
            name=op.f("fk_tag_pulls_repository_id_tag"),
            onupdate="CASCADE",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("repository_id", "tag", "puller", name=op.f("pk_tag_pulls")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pull_history",
        sa.Column("repository", Name, nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("digest", Name, nullable=False),
        sa.Column("tag", Name, nullable=False),
        sa.Column("puller", sa.Text(), nullable=False),
        sa.Column("pulls", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "repository", "day", "digest", "tag", "puller", name=op.f("pk_pull_history")
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_pull_history_day", "pull_history", ["day"], unique=False)
