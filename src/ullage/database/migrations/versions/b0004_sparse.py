"""What sparse indexes and images name and their repositories do not have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0004"
down_revision = "b0003"
branch_labels = None
depends_on = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for table in ("absent_children", "absent_blobs"):
        op.create_table(
            table,
            sa.Column("manifest_id", Id, nullable=False),
            sa.Column("digest", Name, nullable=False),
            sa.Column("size", sa.BigInteger(), nullable=False),
            sa.ForeignKeyConstraint(
                ["manifest_id"],
                ["manifests.id"],
                name=f"fk_{table}_manifest_id",
                ondelete="CASCADE",
            ),
            sa.PrimaryKeyConstraint("manifest_id", "digest", name=f"pk_{table}"),
            sqlite_with_rowid=False,
        )
        op.create_index(f"ix_{table}_digest", table, ["digest"])
