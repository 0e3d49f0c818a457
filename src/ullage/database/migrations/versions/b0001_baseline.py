"""The tables of the first release, where every migration starts.

They are written down once more and for good, whatever becomes of `ullage.database.schema`: only so
can a test put a database where the first release left it, and bring it up to date.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "b0001"
down_revision = None
branch_labels = None
depends_on = None

baseline = sa.MetaData(
    naming_convention={
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.BigInteger


def upgrade() -> None:
    baseline.create_all(op.get_bind(), checkfirst=False)
    for table in ("manifests", "tags"):
        op.create_index(
            f"ix_{table}_locked",
            table,
            ["repository_id"],
            sqlite_where=sa.text("delete_enabled IS 0 OR write_enabled IS 0"),
            postgresql_where=sa.text("delete_enabled IS false OR write_enabled IS false"),
        )
    if op.get_bind().dialect.name == "postgresql":
        # Promises need not survive a crash, so writing them need not wait for a disk.
        for table in ("leases", "lease_memory"):
            op.execute(f"ALTER TABLE {table} SET UNLOGGED")


def _attributes() -> tuple[sa.Column[bool], ...]:
    return tuple(
        sa.Column(f"{what}_enabled", sa.Boolean, nullable=False, server_default=sa.true())
        for what in ("delete", "write", "read", "list")
    )


sa.Table(
    "repositories",
    baseline,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("name", Name, unique=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("deleted_at", Moment),
    sa.Column("manifest_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tag_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("manifest_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("blob_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("updated_at", Moment, nullable=False, server_default="0"),
    *_attributes(),
    sa.Index("ix_repositories_deleted_at", "deleted_at"),
    sqlite_autoincrement=True,
)
sa.Table(
    "blobs",
    baseline,
    sa.Column("digest", Name, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("storage_key", sa.Text, nullable=False, unique=True),
    sa.Column("manifest_refs", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("repository_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("damaged_at", Moment),
    sqlite_with_rowid=False,
)
sa.Table(
    "repo_blobs",
    baseline,
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), primary_key=True),
    sa.Column("digest", Name, sa.ForeignKey("blobs.digest"), primary_key=True),
    sa.Column("linked_at", Moment, nullable=False),
    sa.Index("ix_repo_blobs_digest", "digest"),
    sqlite_with_rowid=False,
)
sa.Table(
    "manifests",
    baseline,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), nullable=False),
    sa.Column("digest", Name, nullable=False),
    sa.Column("media_type", sa.Text, nullable=False),
    sa.Column("artifact_type", sa.Text),
    sa.Column("annotations", sa.Text),
    sa.Column("subject", Name),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("pushed_at", Moment, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("updated_at", Moment, nullable=False, server_default="0"),
    sa.Column("image_size", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("config_media_type", sa.Text),
    sa.Column("architecture", sa.Text),
    sa.Column("os", sa.Text),
    *_attributes(),
    sa.UniqueConstraint("repository_id", "digest"),
    sa.Index("ix_manifests_repository_id_subject", "repository_id", "subject", "digest"),
    sa.Index("ix_manifests_updated_at", "repository_id", "updated_at", "digest"),
    sqlite_autoincrement=True,
)
sa.Table(
    "manifest_blobs",
    baseline,
    sa.Column("manifest_id", Id, sa.ForeignKey("manifests.id"), primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("repository_id", Id, nullable=False),
    sa.ForeignKeyConstraint(
        ["repository_id", "digest"], ["repo_blobs.repository_id", "repo_blobs.digest"]
    ),
    sa.Index("ix_manifest_blobs_repository_id_digest", "repository_id", "digest"),
    sqlite_with_rowid=False,
)
sa.Table(
    "manifest_children",
    baseline,
    sa.Column("parent_id", Id, sa.ForeignKey("manifests.id"), primary_key=True),
    sa.Column("child_id", Id, sa.ForeignKey("manifests.id"), primary_key=True),
    sa.Index("ix_manifest_children_child_id", "child_id"),
    sqlite_with_rowid=False,
)
sa.Table(
    "tags",
    baseline,
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), primary_key=True),
    sa.Column("name", Name, primary_key=True),
    sa.Column("manifest_id", Id, sa.ForeignKey("manifests.id"), nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    *_attributes(),
    sa.Index("ix_tags_manifest_id", "manifest_id"),
    sa.Index("ix_tags_updated_at", "repository_id", "updated_at", "name"),
    sqlite_with_rowid=False,
)
sa.Table(
    "uploads",
    baseline,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("storage_key", sa.Text, nullable=False, unique=True),
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("claim", sa.Text),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_uploads_repository_id", "repository_id"),
    sa.Index("ix_uploads_expires_at", "expires_at"),
    sqlite_with_rowid=False,
)
sa.Table(
    "reserved_keys",
    baseline,
    sa.Column("storage_key", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)
sa.Table(
    "finished_uploads",
    baseline,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("repository_id", Id, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("digest", Name, nullable=False),
    sa.Column("forget_at", Moment, nullable=False),
    sa.Index("ix_finished_uploads_forget_at", "forget_at"),
    sqlite_with_rowid=False,
)
sa.Table(
    "reviews",
    baseline,
    sa.Column("repository_id", Id, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("due_at", Moment, nullable=False),
    sa.Index("ix_reviews_due_at", "due_at"),
    sqlite_with_rowid=False,
)
sa.Table(
    "tombstones",
    baseline,
    sa.Column("storage_key", sa.Text, primary_key=True),
    sa.Column("digest", Name),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("due_at", Moment, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_tombstones_due_at", "due_at"),
    sqlite_with_rowid=False,
)
sa.Table(
    "counters",
    baseline,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "leases",
    baseline,
    sa.Column("repository_id", Id, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("holder", sa.Text, primary_key=True),
    sa.Column("grants", sa.Integer, nullable=False),
    sa.Column("until", Moment, nullable=False),
    sa.Column("confirm_until", Moment, nullable=False),
    sa.Index("ix_leases_until", "until"),
    sqlite_with_rowid=False,
)
sa.Table(
    "lease_memory",
    baseline,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("complete_from", Moment, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "users",
    baseline,
    sa.Column("name", Name, primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("admin", sa.Boolean, nullable=False),
    sa.Column("scope_map", Name, sa.ForeignKey("scope_maps.name")),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "tokens",
    baseline,
    sa.Column("name", Name, primary_key=True),
    sa.Column("scope_map", Name, sa.ForeignKey("scope_maps.name"), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "token_passwords",
    baseline,
    sa.Column("token", Name, sa.ForeignKey("tokens.name"), primary_key=True),
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "scope_maps",
    baseline,
    sa.Column("name", Name, primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("actions", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "signing_keys",
    baseline,
    sa.Column("kid", sa.Text, primary_key=True),
    sa.Column("private_pem", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("retired_at", Moment),
    sqlite_with_rowid=False,
)
sa.Table(
    "registry_facts",
    baseline,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "audit",
    baseline,
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("repository", Name),
    sa.Column("target", sa.Text),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index("ix_audit_repository", "repository", "id"),
    sa.Index("ix_audit_subject", "subject", "id"),
    sqlite_autoincrement=True,
)
sa.Table(
    "plans",
    baseline,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("applied_at", Moment),
    sa.Column("document", sa.LargeBinary, nullable=False),
    sa.Column("receipt", sa.Text),
    sa.Index("ix_plans_expires_at", "expires_at"),
    sqlite_with_rowid=False,
)
sa.Table(
    "jobs",
    baseline,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("finished_at", Moment),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("findings", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tag_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("manifest_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tags_deleted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("manifests_deleted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("freed_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("leased_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cancelled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claim", sa.Text),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_jobs_finished_at", "finished_at"),
    sqlite_with_rowid=False,
)
sa.Table(
    "job_items",
    baseline,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True),
    sa.Column("repository_id", Id, nullable=False),
    sa.Column("repository", Name, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("tag", Name),
    sa.Column("digest", Name, nullable=False),
    sa.Column("manifest_id", Id, nullable=False),
    sa.Column("seen_at", Moment, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Index("ix_job_items_manifest_id", "manifest_id"),
    sqlite_with_rowid=False,
)
sa.Table(
    "manifest_pulls",
    baseline,
    sa.Column(
        "manifest_id", Id, sa.ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("puller", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("by_digest_at", Moment),
    sqlite_with_rowid=False,
)
sa.Table(
    "tag_pulls",
    baseline,
    sa.Column("repository_id", Id, primary_key=True),
    sa.Column("tag", Name, primary_key=True),
    sa.Column("puller", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.ForeignKeyConstraint(
        ["repository_id", "tag"],
        ["tags.repository_id", "tags.name"],
        onupdate="CASCADE",
        ondelete="CASCADE",
    ),
    sqlite_with_rowid=False,
)
sa.Table(
    "pull_history",
    baseline,
    sa.Column("repository", Name, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("tag", Name, primary_key=True),
    sa.Column("puller", sa.Text, primary_key=True),
    sa.Column("pulls", sa.BigInteger, nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Index("ix_pull_history_day", "day"),
    sqlite_with_rowid=False,
)
sa.Table(
    "holds",
    baseline,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("repository_id", Id, nullable=False),
    sa.Column("tag", Name),
    sa.Column("digest", Name),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("until", Moment),
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_holds_repository_id", "repository_id"),
    sa.Index("ix_holds_until", "until"),
    sqlite_with_rowid=False,
)
sa.Table(
    "policies",
    baseline,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)
sa.Table(
    "operations",
    baseline,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("deleted_at", Moment, nullable=False),
    sa.Column("counts_from", Moment, nullable=False),
    sa.Index("ix_operations_counts_from", "counts_from"),
    sa.Index("ix_operations_deleted_at", "deleted_at", "id"),
    sqlite_with_rowid=False,
)
sa.Table(
    "kept_repositories",
    baseline,
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), primary_key=True),
    sa.Column("operation_id", sa.Text, sa.ForeignKey("operations.id"), nullable=False),
    sa.Column("name", Name, nullable=False),
    sa.UniqueConstraint("operation_id", "name"),
    sa.Index("ix_kept_repositories_name", "name"),
    sqlite_with_rowid=False,
)
sa.Table(
    "deleted_tags",
    baseline,
    sa.Column("operation_id", sa.Text, sa.ForeignKey("operations.id"), primary_key=True),
    sa.Column("repository", Name, primary_key=True),
    sa.Column("name", Name, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    *_attributes(),
    sa.Index("ix_deleted_tags_repository_name", "repository", "name"),
    sqlite_with_rowid=False,
)
