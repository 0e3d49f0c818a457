"""The tables: what Ullage knows about repositories, manifests, tags and blobs.

The foreign keys carry the deletion protocol (docs/design/deletion.md): a manifest's reference to a
blob points to the repository's link, the link points to the blob. So the database itself refuses to
drop a link that a manifest needs, or a blob that a repository needs. Deleting the `blobs` row *is*
the condemnation of its bytes; the tombstone written in the same transaction says where they are.

`migrations/` creates these tables; tests/metadata/test_migrations.py proves that both agree.
Times are integer microseconds since the epoch, UTC. Sizes are bytes.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Names sort by bytes, in listings and cursors alike. PostgreSQL would otherwise use the locale.
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite only gives never-reused row ids to a column declared INTEGER PRIMARY KEY.
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.BigInteger


def _attributes() -> tuple[sa.Column[bool], ...]:
    """What may be done with a repository, a tag or a manifest: one independent switch each."""
    return tuple(
        sa.Column(f"{what}_enabled", sa.Boolean, nullable=False, server_default=sa.true())
        for what in ("delete", "write", "read", "list")
    )


def locked(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row is protected from deletion; written exactly as its index has it."""
    return sa.or_(table.c.delete_enabled.is_(sa.false()), table.c.write_enabled.is_(sa.false()))


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
    *_attributes(),
    sqlite_autoincrement=True,
)
sa.Index("ix_repositories_deleted_at", repositories.c.deleted_at)

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
    # Repositories that hold what was deleted softly: one for each that an operation was about.
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
    *_attributes(),
    sa.Index("ix_deleted_tags_repository_name", "repository", "name"),
    sqlite_with_rowid=False,
)

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
    *_attributes(),
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

tags = sa.Table(
    "tags",
    metadata,
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

# Locks are few and are looked for before a whole repository goes, however much is in it.
for _table in (manifests, tags):
    sa.Index(
        f"ix_{_table.name}_locked",
        _table.c.repository_id,
        sqlite_where=locked(_table),
        postgresql_where=locked(_table),
    )

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("repository_id", Id, sa.ForeignKey("repositories.id"), nullable=False),
    # Who opened it; only they may go on with it.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("storage_key", sa.Text, nullable=False, unique=True),
    sa.Column("algorithm", sa.Text, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    # Only on PostgreSQL, where several processes serve one session: who works on it until when.
    sa.Column("claim", sa.Text),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_uploads_repository_id", "repository_id"),
    sa.Index("ix_uploads_expires_at", "expires_at"),
    sqlite_with_rowid=False,
)

reserved_keys = sa.Table(
    "reserved_keys",
    metadata,
    # Fresh storage keys that no other row names yet: there may be bytes under them.
    sa.Column("storage_key", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)

finished_uploads = sa.Table(
    "finished_uploads",
    metadata,
    # Remembered for a while so that a client that lost the answer to its last PUT may ask again.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("repository_id", Id, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("digest", Name, nullable=False),
    sa.Column("forget_at", Moment, nullable=False),
    sa.Index("ix_finished_uploads_forget_at", "forget_at"),
    sqlite_with_rowid=False,
)

reviews = sa.Table(
    "reviews",
    metadata,
    # A link that no manifest of its repository uses, to be looked at when its lease has ended.
    sa.Column("repository_id", Id, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("due_at", Moment, nullable=False),
    sa.Index("ix_reviews_due_at", "due_at"),
    sqlite_with_rowid=False,
)

tombstones = sa.Table(
    "tombstones",
    metadata,
    sa.Column("storage_key", sa.Text, primary_key=True),
    # What the bytes were; NULL for an upload that never became a blob.
    sa.Column("digest", Name),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("due_at", Moment, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_tombstones_due_at", "due_at"),
    sqlite_with_rowid=False,
)

counters = sa.Table(
    "counters",
    metadata,
    # Registry-wide totals. Spread over slots so that PostgreSQL's pushers do not queue for one row.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    metadata,
    # Promises to pushers that are not redeemed yet. On PostgreSQL this is the live table, UNLOGGED;
    # on SQLite the process keeps them in memory, and saves them here at a clean stop only.
    sa.Column("repository_id", Id, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    sa.Column("holder", sa.Text, primary_key=True),
    sa.Column("grants", sa.Integer, nullable=False),
    sa.Column("until", Moment, nullable=False),
    sa.Column("confirm_until", Moment, nullable=False),
    sa.Index("ix_leases_until", "until"),
    sqlite_with_rowid=False,
)

lease_memory = sa.Table(
    "lease_memory",
    metadata,
    # One row: before this moment promises may have been forgotten, so everything counts as leased.
    # UNLOGGED as well, so that it vanishes together with the leases when PostgreSQL crashes.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("complete_from", Moment, nullable=False),
    sqlite_with_rowid=False,
)

for _forgetful in (leases, lease_memory):
    sa.event.listen(
        _forgetful,
        "after_create",
        sa.DDL("ALTER TABLE %(table)s SET UNLOGGED").execute_if(  # type: ignore[no-untyped-call]
            dialect="postgresql"
        ),
    )

plans = sa.Table(
    "plans",
    metadata,
    # What somebody was told a deletion would do, to be carried out by its id or forgotten.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("applied_at", Moment),
    # Compressed JSON; services/plan.py knows its shape.
    sa.Column("document", sa.LargeBinary, nullable=False),
    # JSON, once applied: what was deleted.
    sa.Column("receipt", sa.Text),
    sa.Index("ix_plans_expires_at", "expires_at"),
    sqlite_with_rowid=False,
)

jobs = sa.Table(
    "jobs",
    metadata,
    # Long work that the worker does in small transactions: a purge, a run of the retention rules.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    # queued, planning, running; then done, refused, cancelled or failed.
    sa.Column("state", sa.Text, nullable=False),
    # Who asked for it, for the audit log.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("finished_at", Moment),
    # JSON: what to do, and what there is to say about it.
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("findings", sa.Text, nullable=False),
    # The last item that is dealt with; changed in the transaction that deals with it.
    sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tag_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("manifest_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tags_deleted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("manifests_deleted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("freed_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("leased_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cancelled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    # Which process works on it, until when.
    sa.Column("claim", sa.Text),
    sa.Column("claimed_until", Moment),
    sa.Index("ix_jobs_finished_at", "finished_at"),
    sqlite_with_rowid=False,
)

job_items = sa.Table(
    "job_items",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True),
    # The repository's generation and name when it was chosen.
    sa.Column("repository_id", Id, nullable=False),
    sa.Column("repository", Name, nullable=False),
    # "tag", "manifest", or "along" for a manifest that goes with another one.
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("tag", Name),
    sa.Column("digest", Name, nullable=False),
    sa.Column("manifest_id", Id, nullable=False),
    # Its time of update when it was chosen: whatever happened to it since saves it.
    sa.Column("seen_at", Moment, nullable=False),
    # "deleted", "skipped"; NULL while it waits.
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Index("ix_job_items_manifest_id", "manifest_id"),
    sqlite_with_rowid=False,
)

manifest_pulls = sa.Table(
    "manifest_pulls",
    metadata,
    # When each class of pullers pulled a manifest last, in any way and by its digest (or, of an
    # index, one of its children). Goes with the manifest.
    sa.Column(
        "manifest_id", Id, sa.ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("puller", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("by_digest_at", Moment),
    sqlite_with_rowid=False,
)

tag_pulls = sa.Table(
    "tag_pulls",
    metadata,
    # When each class of pullers pulled by a tag last, whatever it pointed to. Goes with the tag,
    # also to where what was deleted softly is kept.
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

pull_history = sa.Table(
    "pull_history",
    metadata,
    # Pulls of each day, for trying out rules on what has been; outlives what was pulled. Pushes and
    # deletions are in the audit log.
    sa.Column("repository", Name, primary_key=True),
    # Days since the epoch, UTC.
    sa.Column("day", sa.Integer, primary_key=True),
    sa.Column("digest", Name, primary_key=True),
    # "" for a pull by digest.
    sa.Column("tag", Name, primary_key=True),
    sa.Column("puller", sa.Text, primary_key=True),
    sa.Column("pulls", sa.BigInteger, nullable=False),
    # The last of them.
    sa.Column("at", Moment, nullable=False),
    sa.Index("ix_pull_history_day", "day"),
    sqlite_with_rowid=False,
)

holds = sa.Table(
    "holds",
    metadata,
    # Locks with a reason: of a whole repository, of a tag, or of a manifest.
    sa.Column("id", sa.Text, primary_key=True),
    # No foreign key: a hold ends by itself, and then its repository may go first.
    sa.Column("repository_id", Id, nullable=False),
    sa.Column("tag", Name),
    sa.Column("digest", Name),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    # NULL: until it is lifted.
    sa.Column("until", Moment),
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_holds_repository_id", "repository_id"),
    sa.Index("ix_holds_until", "until"),
    sqlite_with_rowid=False,
)

policies = sa.Table(
    "policies",
    metadata,
    # What the registry does by itself, as administrators have set it: one JSON document for each.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("updated_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", Name, primary_key=True),
    # argon2id in its own notation; NULL for nobody: an account without a password cannot log in.
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("admin", sa.Boolean, nullable=False),
    # What a user who is no administrator may do; NULL: nothing.
    sa.Column("scope_map", Name, sa.ForeignKey("scope_maps.name")),
    # Counts changes that end what was signed before: password, enabling, rights.
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

tokens = sa.Table(
    "tokens",
    metadata,
    # Repository-scoped tokens: named credentials with a scope map and two passwords that rotate.
    sa.Column("name", Name, primary_key=True),
    sa.Column("scope_map", Name, sa.ForeignKey("scope_maps.name"), nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("generation", sa.Integer, nullable=False, server_default="1"),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

token_passwords = sa.Table(
    "token_passwords",
    metadata,
    sa.Column("token", Name, sa.ForeignKey("tokens.name"), primary_key=True),
    # "password1" or "password2", as az calls them.
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

scope_maps = sa.Table(
    "scope_maps",
    metadata,
    sa.Column("name", Name, primary_key=True),
    sa.Column("description", sa.Text, nullable=False),
    # A JSON list of repositories/<pattern>/<action>.
    sa.Column("actions", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sqlite_with_rowid=False,
)

signing_keys = sa.Table(
    "signing_keys",
    metadata,
    sa.Column("kid", sa.Text, primary_key=True),
    sa.Column("private_pem", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    # From then on it signs nothing; it verifies until everything it signed has expired.
    sa.Column("retired_at", Moment),
    sqlite_with_rowid=False,
)

registry_facts = sa.Table(
    "registry_facts",
    metadata,
    # What makes this registry this one: its id, which tokens name as their audience.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

audit = sa.Table(
    "audit",
    metadata,
    # Every acknowledged change, in commit order; written in the transaction that makes the change.
    sa.Column("id", Id, primary_key=True, autoincrement=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("repository", Name),
    # What it was done to: a tag, a digest, an account.
    sa.Column("target", sa.Text),
    # JSON: digests, tags, bytes and whatever else the action has to say. Never a secret.
    sa.Column("detail", sa.Text, nullable=False),
    sa.Index("ix_audit_repository", "repository", "id"),
    sa.Index("ix_audit_subject", "subject", "id"),
    sqlite_autoincrement=True,
)
