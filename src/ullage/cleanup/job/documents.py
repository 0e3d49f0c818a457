"""Jobs as JSON, for clients and for the database: docs/reference/api.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ullage.cleanup.guardrails import Caps, RunCaps, Warning
from ullage.cleanup.plan.documents import Difference, KeptItem, ShareDocument
from ullage.cleanup.queries.jobs import JobRow, PlacedItem
from ullage.cleanup.retention.documents import RuleDocument, UntaggedRule
from ullage.documents import UNSET, Document, Time, UnsetType, any_of, changed, stored

# --- requests -------------------------------------------------------------------------------------


class AboutRepository(Document, frozen=True):
    """A repository that a job is about, as it was found when the job was asked for."""

    repository: str
    id: int = 0
    # Its name was written out, not found by an expression.
    named: bool = False


class PurgeJob(Document, frozen=True, kw_only=True):
    """What a purge is to choose."""

    filters: Sequence[str]
    ago_seconds: float
    keep: int
    untagged: bool
    untagged_only: bool
    include_locked: bool
    before: Time
    expressions: Sequence[tuple[str, str]]
    repositories: Sequence[AboutRepository] | UnsetType = UNSET
    dry_run: bool = False
    caps: Caps = Caps()
    allow: Sequence[str] = ()
    notes: Sequence[str] = ()


class PlanJob(Document, frozen=True, kw_only=True):
    """Which plan a job is to carry out."""

    plan: str
    allow_smaller: bool
    include_locked: bool
    repositories: Sequence[AboutRepository] | UnsetType = UNSET


class RetentionJob(Document, frozen=True, kw_only=True):
    """The rules as they were when a run of them was asked for."""

    rules: Sequence[RuleDocument]
    untagged: Sequence[UntaggedRule]
    at: Time
    # What was pulled since is not deleted: at least all that is not known yet.
    unpulled_since: Time
    dry_run: bool
    caps: RunCaps
    repositories: Sequence[AboutRepository] | UnsetType = UNSET


class About(Document, frozen=True):
    """Of a request of any kind, its repositories."""

    repositories: Sequence[AboutRepository]


class Terms(Document, frozen=True, kw_only=True):
    """Of a request of any kind, what planning and batches have to know."""

    include_locked: bool = False
    unpulled_since: Time | None = None
    dry_run: bool = False
    caps: Caps = Caps()
    keep: int = 0
    allow: Sequence[str] = ()


if TYPE_CHECKING:
    JobRequest = PurgeJob | PlanJob | RetentionJob
else:
    JobRequest = any_of(PurgeJob, PlanJob, RetentionJob)
_KINDS: dict[str, type[JobRequest]] = {
    "purge": PurgeJob,
    "plan": PlanJob,
    "retention": RetentionJob,
}


def repositories_of(row: JobRow) -> Sequence[AboutRepository]:
    return stored(row.request, About).repositories


def terms(row: JobRow) -> Terms:
    return stored(row.request, Terms)


# --- jobs -----------------------------------------------------------------------------------------


class Findings(Document, frozen=True, kw_only=True):
    """What planning a job has found, and what there is to say at its end."""

    planned_bytes: int | UnsetType = UNSET
    planned_later_bytes: int | UnsetType = UNSET
    repositories: Sequence[ShareDocument] = ()
    warnings: Sequence[Warning] = ()
    notes: Sequence[str] = ()
    stays: Sequence[KeptItem] = ()
    # With soft delete: by which id what it deleted can be taken back. Set by the first batch.
    operation: str | UnsetType = UNSET
    difference: Difference | UnsetType = UNSET
    restorable: bool | UnsetType = UNSET


class Job(Document, frozen=True, kw_only=True):
    """Long cleaning that goes on in the background."""

    id: str
    kind: str
    state: str
    by: str
    created: Time
    finished: Time | None
    cancelled: bool
    request: JobRequest
    # So many are chosen, and so many are deleted by now.
    tag_count: int
    manifest_count: int
    tags_deleted: int
    manifests_deleted: int
    freed_bytes: int
    freed_later_bytes: int
    repositories: Sequence[ShareDocument]
    warnings: Sequence[Warning]
    notes: Sequence[str]
    stays: Sequence[KeptItem]
    operation: str | None
    planned_bytes: int | UnsetType = UNSET
    planned_later_bytes: int | UnsetType = UNSET
    difference: Difference | UnsetType = UNSET
    restorable: bool | UnsetType = UNSET


class Jobs(Document, frozen=True):
    """The last hundred jobs, newest first."""

    jobs: list[Job]


class JobItem(Document, frozen=True):
    """A tag or manifest that a job is about, and what became of it."""

    position: int
    repository: str
    kind: str
    tag: str | None
    digest: str
    # It goes with one before it.
    along: bool
    outcome: str | None
    reason: str | None


class JobItems(Document, frozen=True):
    """Some items of a job, in the order in which they go."""

    items: list[JobItem]


def findings(row: JobRow) -> Findings:
    return stored(row.findings, Findings)


def public_request(request: JobRequest) -> JobRequest:
    """A job's request without the repositories that were found for it."""
    return changed(request, repositories=UNSET)


def job_document(row: JobRow) -> Job:
    found = findings(row)
    told: dict[str, Any] = {name: getattr(found, name) for name in found.__struct_fields__}
    told["operation"] = found.operation or None
    return Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        by=row.subject,
        created=row.created_at.isoformat(),
        finished=row.finished_at.isoformat() if row.finished_at else None,
        cancelled=row.cancelled,
        request=public_request(stored(row.request, _KINDS[row.kind])),
        tag_count=row.tag_count,
        manifest_count=row.manifest_count,
        tags_deleted=row.tags_deleted,
        manifests_deleted=row.manifests_deleted,
        freed_bytes=row.freed_bytes,
        freed_later_bytes=row.leased_bytes,
        **told,
    )


def item_document(placed: PlacedItem) -> JobItem:
    item = placed.item
    return JobItem(
        position=placed.position,
        repository=item.repository,
        kind="tag" if item.kind == "tag" else "manifest",
        tag=item.tag,
        digest=item.digest,
        along=item.kind == "along",
        outcome=placed.outcome,
        reason=placed.reason,
    )
