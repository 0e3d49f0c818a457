"""What clusters say that they run, which no deletion takes away."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0013"
down_revision = "b0012"
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "deployment_sources",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=False),
        sa.Column("ttl", sa.BigInteger(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_deployment_sources"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deployed",
        sa.Column("source", _NAME, nullable=False),
        sa.Column("image", _NAME, nullable=False),
        sa.Column("digest", _NAME, nullable=False),
        sa.Column("repository", _NAME, nullable=False),
        sa.Column("tag", _NAME, nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["source"],
            ["deployment_sources.name"],
            name="fk_deployed_source",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source", "image", name="pk_deployed"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_deployed_digest", "deployed", ["digest"])
    op.create_index("ix_deployed_repository", "deployed", ["repository", "tag"])
