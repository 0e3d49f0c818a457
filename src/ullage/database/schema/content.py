"""What there is in the registry: repositories, manifests, tags, blobs, and their references."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema.base import Id, Moment, Name, attributes, locked, metadata, only_where

repositories = sa.Table(
    "repositories",
    metadata,
    # The id is the repository's generation: a repository deleted and pushed again is a new row.
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    # NULL once deleted: invisible at once. Then it is either erased in batches by the worker, from
    # `deleted_at` on, or kept for a restore: kept_repositories.
    sa.Column("name", Name, unique=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("deleted_at", Moment),
    # Counters, changed in the transaction that changes the facts; `ullage check` recounts them.
    sa.Column("manifest_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tag_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("manifest_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("blob_bytes", sa.BigInteger, nullable=False, server_default="0"),
    # When a manifest, tag or attribute in it was changed last.
    sa.Column("updated_at", Moment, nullable=False, server_default="0"),
    *attributes(),
    sqlite_autoincrement=True,
)
sa.Index("ix_repositories_deleted_at", repositories.c.deleted_at)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("digest", Name, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("storage_key", sa.Text, nullable=False, unique=True),
    # How many manifests reference it, over all repositories.
    sa.Column("manifest_refs", sa.BigInteger, nullable=False, server_default="0"),
    # How many repositories link it: what one of them has alone is what deleting it would free.
    sa.Column("repository_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", Moment, nullable=False),
    # Set when the stored bytes were found wrong: not served, and the next upload replaces them.
    sa.Column("damaged_at", Moment),
    sqlite_with_rowid=False,
)

repo_blobs = sa.Table(
    "repo_blobs",
    metadata,
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), primary_key=True),
    sa.Column("digest", Name, sa.ForeignKey("blobs.digest"), primary_key=True),
    sa.Column("linked_at", Moment, nullable=False),
    sa.Index("ix_repo_blobs_digest", "digest"),
    sqlite_with_rowid=False,
)

manifests = sa.Table(
    "manifests",
    metadata,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), nullable=False),
    sa.Column("digest", Name, nullable=False),
    sa.Column("media_type", sa.Text, nullable=False),
    sa.Column("artifact_type", sa.Text),
    # Annotations as JSON, for the referrers API; NULL when there are none.
    sa.Column("annotations", sa.Text),
    # A soft reference: the subject may not exist yet, or not any more.
    sa.Column("subject", Name),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("pushed_at", Moment, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    # When it was pushed, got or lost a tag, or had an attribute changed last.
    sa.Column("updated_at", Moment, nullable=False, server_default="0"),
    # Bytes that a pull of it fetches, or for an index the manifests that it lists.
    sa.Column("image_size", sa.BigInteger, nullable=False, server_default="0"),
    # What an image's config says, as far as it could be read when the manifest was pushed.
    sa.Column("config_media_type", sa.Text),
    sa.Column("architecture", sa.Text),
    sa.Column("os", sa.Text),
    *attributes(),
    sa.UniqueConstraint("repository_id", "digest"),
    sa.Index("ix_manifests_repository_id_subject", "repository_id", "subject", "digest"),
    sa.Index("ix_manifests_updated_at", "repository_id", "updated_at", "digest"),
    sqlite_autoincrement=True,
)

manifest_blobs = sa.Table(
    "manifest_blobs",
    metadata,
    sa.Column("manifest_id", Id, sa.ForeignKey("manifests.id"), primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("repository_id", Id, nullable=False),
    sa.ForeignKeyConstraint(
        ["repository_id", "digest"], ["repo_blobs.repository_id", "repo_blobs.digest"]
    ),
    sa.Index("ix_manifest_blobs_repository_id_digest", "repository_id", "digest"),
    sqlite_with_rowid=False,
)

manifest_children = sa.Table(
    "manifest_children",
    metadata,
    sa.Column("parent_id", Id, sa.ForeignKey("manifests.id"), primary_key=True),
    sa.Column("child_id", Id, sa.ForeignKey("manifests.id"), primary_key=True),
    sa.Index("ix_manifest_children_child_id", "child_id"),
    sqlite_with_rowid=False,
)


def _absent(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column(
            "manifest_id", Id, sa.ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("digest", Name, primary_key=True),
        # As the manifest says. Bytes of another length are not what it means.
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Index(f"ix_{name}_digest", "digest"),
        sqlite_with_rowid=False,
    )


# What a sparse index or image names and its repository did not have when it came. A push of it
# makes it a child or a reference.
absent_children = _absent("absent_children")
absent_blobs = _absent("absent_blobs")

tags = sa.Table(
    "tags",
    metadata,
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), primary_key=True),
    sa.Column("name", Name, primary_key=True),
    sa.Column("manifest_id", Id, sa.ForeignKey("manifests.id"), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    *attributes(),
    sa.Index("ix_tags_manifest_id", "manifest_id"),
    sa.Index("ix_tags_updated_at", "repository_id", "updated_at", "name"),
    sqlite_with_rowid=False,
)

# Locks are few and are looked for before a whole repository goes, however much is in it.
for _table in (manifests, tags):
    only_where(sa.Index(f"ix_{_table.name}_locked", _table.c.repository_id), locked(_table))
