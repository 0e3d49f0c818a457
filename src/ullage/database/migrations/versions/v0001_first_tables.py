"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", NAME, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("manifest_refs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("damaged_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_blobs_storage_key")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "slot", name=op.f("pk_counters")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "finished_uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("forget_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finished_uploads")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_finished_uploads_forget_at", "finished_uploads", ["forget_at"], unique=False
    )
    op.create_table(
        "lease_memory",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("complete_from", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease_memory")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("grants", sa.Integer(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("confirm_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("repository_id", "digest", "holder", name=op.f("pk_leases")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_leases_until", "leases", ["until"], unique=False)
    op.create_table(
        "repositories",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("name", NAME, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("manifest_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tag_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("manifest_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("blob_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repositories")),
        sa.UniqueConstraint("name", name=op.f("uq_repositories_name")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_repositories_deleted_at", "repositories", ["deleted_at"], unique=False)
    op.create_table(
        "reviews",
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_reviews")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_reviews_due_at", "reviews", ["due_at"], unique=False)
    op.create_table(
        "tombstones",
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("digest", NAME, nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claimed_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("storage_key", name=op.f("pk_tombstones")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tombstones_due_at", "tombstones", ["due_at"], unique=False)
    op.create_table(
        "manifests",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("artifact_type", sa.Text(), nullable=True),
        sa.Column("annotations", sa.Text(), nullable=True),
        sa.Column("subject", NAME, nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("pushed_at", sa.BigInteger(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_manifests_repository_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_manifests")),
        sa.UniqueConstraint(
            "repository_id", "digest", name=op.f("uq_manifests_repository_id_digest")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_manifests_repository_id_subject",
        "manifests",
        ["repository_id", "subject", "digest"],
        unique=False,
    )
    op.create_table(
        "repo_blobs",
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("linked_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name=op.f("fk_repo_blobs_digest")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_repo_blobs_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_repo_blobs")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_repo_blobs_digest", "repo_blobs", ["digest"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("single", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("claim", sa.Text(), nullable=True),
        sa.Column("claimed_until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_uploads_repository_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_uploads_storage_key")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"], unique=False)
    op.create_index("ix_uploads_repository_id", "uploads", ["repository_id"], unique=False)
    op.create_table(
        "manifest_blobs",
        sa.Column("manifest_id", ID, nullable=False),
        sa.Column("digest", NAME, nullable=False),
        sa.Column("repository_id", ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifests.id"], name=op.f("fk_manifest_blobs_manifest_id")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id", "digest"],
            ["repo_blobs.repository_id", "repo_blobs.digest"],
            name=op.f("fk_manifest_blobs_repository_id_digest"),
        ),
        sa.PrimaryKeyConstraint("manifest_id", "digest", name=op.f("pk_manifest_blobs")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_manifest_blobs_repository_id_digest",
        "manifest_blobs",
        ["repository_id", "digest"],
        unique=False,
    )
    op.create_table(
        "manifest_children",
        sa.Column("parent_id", ID, nullable=False),
        sa.Column("child_id", ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["child_id"], ["manifests.id"], name=op.f("fk_manifest_children_child_id")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["manifests.id"], name=op.f("fk_manifest_children_parent_id")
        ),
        sa.PrimaryKeyConstraint("parent_id", "child_id", name=op.f("pk_manifest_children")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_manifest_children_child_id", "manifest_children", ["child_id"], unique=False
    )
    op.create_table(
        "tags",
        sa.Column("repository_id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("manifest_id", ID, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifests.id"], name=op.f("fk_tags_manifest_id")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_tags_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", "name", name=op.f("pk_tags")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tags_manifest_id", "tags", ["manifest_id"], unique=False)

    if op.get_bind().dialect.name == "postgresql":
        # Promises need not survive a crash, so writing them need not wait for a disk.
        op.execute("ALTER TABLE leases SET UNLOGGED")
        op.execute("ALTER TABLE lease_memory SET UNLOGGED")
