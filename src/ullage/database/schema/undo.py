"""What was deleted softly, and by which operation it can be restored."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema.base import Id, Moment, Name, attributes, metadata

operations = sa.Table(
    "operations",
    metadata,
    # Deletions that can be taken back: all that one of them took is kept under its id.
    sa.Column("id", sa.Text, primary_key=True),
    # What it was: "manifest.delete", "purge.delete" …, as the audit log calls it.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    # What was deleted: a digest, a tag; NULL for a whole repository, a plan or a job.
    sa.Column("target", sa.Text),
    sa.Column("deleted_at", Moment, nullable=False),
    # From when its days are counted: as `deleted_at`, unless the clock was set since.
    sa.Column("counts_from", Moment, nullable=False),
    sa.Index("ix_operations_counts_from", "counts_from"),
    sa.Index("ix_operations_deleted_at", "deleted_at", "id"),
    sqlite_with_rowid=False,
)

kept_repositories = sa.Table(
    "kept_repositories",
    metadata,
    # Repositories in which is what was deleted softly: one for each that an operation was about.
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), primary_key=True),
    sa.Column("operation_id", sa.Text, sa.ForeignKey("operations.id"), nullable=False),
    # Where it was deleted from.
    sa.Column("name", Name, nullable=False),
    sa.UniqueConstraint("operation_id", "name"),
    sa.Index("ix_kept_repositories_name", "name"),
    sqlite_with_rowid=False,
)

deleted_tags = sa.Table(
    "deleted_tags",
    metadata,
    # Tags that were taken away, softly, from manifests that stayed: all there is to remember.
    sa.Column("operation_id", sa.Text, sa.ForeignKey("operations.id"), primary_key=True),
    sa.Column("repository", Name, primary_key=True),
    sa.Column("name", Name, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    *attributes(),
    sa.Index("ix_deleted_tags_repository_name", "repository", "name"),
    sqlite_with_rowid=False,
)
