"""Attributes that lock and hide, times of update, and what a manifest's config and size are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ullage.oci.errors import ManifestInvalid
from ullage.oci.manifest.limits import ManifestLimits
from ullage.oci.manifest.parsing import parse_manifest

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ATTRIBUTES = ("delete_enabled", "write_enabled", "read_enabled", "list_enabled")
LOCKED = {
    "sqlite": "delete_enabled IS 0 OR write_enabled IS 0",
    "postgresql": "delete_enabled IS false OR write_enabled IS false",
}
# Stored manifests were accepted under the limits of their day.
NO_LIMITS = ManifestLimits(2**53, 1000, 2**53, 2**53)
BATCH = 200


def upgrade() -> None:
    for table in ("repositories", "manifests", "tags"):
        for attribute in ATTRIBUTES:
            op.add_column(
                table,
                sa.Column(attribute, sa.Boolean(), server_default=sa.true(), nullable=False),
            )
    moment = sa.BigInteger()
    op.add_column(
        "repositories", sa.Column("updated_at", moment, server_default="0", nullable=False)
    )
    for column in (
        sa.Column("updated_at", moment, server_default="0", nullable=False),
        sa.Column("image_size", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("config_media_type", sa.Text(), nullable=True),
        sa.Column("architecture", sa.Text(), nullable=True),
        sa.Column("os", sa.Text(), nullable=True),
    ):
        op.add_column("manifests", column)
    _derive_times()
    _derive_sizes()
    op.create_index(
        "ix_manifests_updated_at", "manifests", ["repository_id", "updated_at", "digest"]
    )
    op.create_index("ix_tags_updated_at", "tags", ["repository_id", "updated_at", "name"])
    for table in ("manifests", "tags"):
        op.create_index(
            f"ix_{table}_locked",
            table,
            ["repository_id"],
            sqlite_where=sa.text(LOCKED["sqlite"]),
            postgresql_where=sa.text(LOCKED["postgresql"]),
        )


def _derive_times() -> None:
    """A manifest changed last when it was pushed or tagged, a repository when one in it did."""
    op.execute(
        "UPDATE manifests SET updated_at = (SELECT coalesce(max(moment), manifests.pushed_at) FROM"
        " (SELECT manifests.pushed_at AS moment UNION ALL"
        " SELECT updated_at FROM tags WHERE tags.manifest_id = manifests.id) AS moments)"
    )
    op.execute(
        "UPDATE repositories SET updated_at = coalesce((SELECT max(manifests.updated_at)"
        " FROM manifests WHERE manifests.repository_id = repositories.id), created_at)"
    )


def _derive_sizes() -> None:
    connection = op.get_bind()
    manifests = sa.table(
        "manifests",
        sa.column("id", sa.BigInteger),
        sa.column("media_type", sa.Text),
        sa.column("raw", sa.LargeBinary),
        sa.column("image_size", sa.BigInteger),
        sa.column("config_media_type", sa.Text),
    )
    after = 0
    while True:
        rows = connection.execute(
            sa.select(manifests.c.id, manifests.c.media_type, manifests.c.raw)
            .where(manifests.c.id > after)
            .order_by(manifests.c.id)
            .limit(BATCH)
        ).all()
        for row in rows:
            try:
                manifest = parse_manifest(row.raw, row.media_type, NO_LIMITS)
            except ManifestInvalid:
                continue
            connection.execute(
                manifests.update()
                .where(manifests.c.id == row.id)
                .values(
                    image_size=manifest.image_size,
                    config_media_type=manifest.config.media_type if manifest.config else None,
                )
            )
        if len(rows) < BATCH:
            return
        after = rows[-1].id
