"""Deciding what goes: plans, jobs, pulls, locks with a reason, policies."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema.base import Id, Moment, Name, metadata

plans = sa.Table(
    "plans",
    metadata,
    # What a deletion would do, as a client was told, to be carried out by its id or forgotten.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("applied_at", Moment),
    # Compressed JSON, without what goes; cleanup/plan/plan.py knows its shape.
    sa.Column("document", sa.LargeBinary, nullable=False),
    # JSON, once applied: what was deleted.
    sa.Column("receipt", sa.Text),
    sa.Index("ix_plans_expires_at", "expires_at"),
    sa.Index("ix_plans_subject_expires_at", "subject", "expires_at"),
    sqlite_with_rowid=False,
)

plan_pages = sa.Table(
    "plan_pages",
    metadata,
    # What goes by a plan, so many manifests together: compressed JSON. A reader of one page reads
    # no other, however large the plan is.
    sa.Column("plan_id", sa.Text, sa.ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
)

jobs = sa.Table(
    "jobs",
    metadata,
    # Long work that the worker does in small transactions: a purge, a run of the retention rules.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    # queued, planning, running; then done, refused, cancelled or failed.
    sa.Column("state", sa.Text, nullable=False),
    # The account that asked for it, for the audit log.
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
    # Which worker of which process works on it, until when.
    sa.Column("claim", sa.Text),
    sa.Column("claimed_by", sa.Text),
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
    # No foreign key: such a lock ends by itself, and then its repository may go first.
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

deployment_sources = sa.Table(
    "deployment_sources",
    metadata,
    # What reports what it runs: a cluster, a host. Its silence ends nothing.
    sa.Column("name", Name, primary_key=True),
    # The account that reported last.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("reported_at", Moment, nullable=False),
    # Microseconds after which a source without a further report is shown as stale.
    sa.Column("ttl", sa.BigInteger, nullable=False),
    # Whether the last report named everything.
    sa.Column("complete", sa.Boolean, nullable=False),
    sqlite_with_rowid=False,
)

deployed = sa.Table(
    "deployed",
    metadata,
    sa.Column(
        "source",
        Name,
        sa.ForeignKey("deployment_sources.name", ondelete="CASCADE"),
        primary_key=True,
    ),
    # Which image that is: a digest, or repository:tag while the cluster knows no digest.
    sa.Column("image", Name, primary_key=True),
    # Of a manifest or of a config. Of a tag: what it pointed to when it was reported first; "" if
    # it was not there.
    sa.Column("digest", Name, nullable=False),
    # "" and "" if the digest is known.
    sa.Column("repository", Name, nullable=False),
    sa.Column("tag", Name, nullable=False),
    # For people: how the cluster names it, and what runs it.
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("place", sa.Text, nullable=False),
    # "running" or "previous".
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("first_at", Moment, nullable=False),
    # 0 while it is reported; then the end of the time in which a rollback may need it.
    sa.Column("until", Moment, nullable=False),
    sa.Index("ix_deployed_digest", "digest"),
    sa.Index("ix_deployed_repository", "repository", "tag"),
    sqlite_with_rowid=False,
)
