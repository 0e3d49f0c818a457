"""One look at a registry: what fills the disk, what will free it and when, and what needs a person.

Every part is what its own command says in full; nothing here is counted in another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.job.documents import Job
from ullage.cleanup.job.jobs import list_jobs
from ullage.cleanup.plan.from_filter import forecast_items
from ullage.cleanup.queries.jobs import Item
from ullage.cleanup.retention.policy import get_retention
from ullage.cleanup.retention.run import look_ahead
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.documents import UNSET, Document, Time, UnsetType
from ullage.registry.context import Registry
from ullage.registry.push.open_uploads import list_uploads
from ullage.registry.queries import counters
from ullage.usage.bill import bill
from ullage.usage.queries.growth import bytes_since, damaged_blobs
from ullage.usage.usage import Line, Totals, registry_totals

GROWTH = timedelta(days=7)
LARGEST = 5
# A disk with less than this part free, or that is full in less than so many days, needs a person.
LITTLE_FREE = 0.1
SOON_DAYS = 14


class Disk(Document, frozen=True):
    """How full the disk is; `free_bytes` is null where that cannot be known, as in a bucket."""

    used_bytes: int
    free_bytes: int | None
    # What came in the last seven days and is still there.
    grown_bytes: int


class NextRun(Document, frozen=True):
    """When the retention rules run next, and what they would take if that were now."""

    at: Time | None
    manifest_count: int
    tag_count: int
    freed_bytes: int
    freed_later_bytes: int


class SoftDeleteStatus(Document, frozen=True):
    """Whether deletions can be taken back, and what is kept for that."""

    enabled: bool
    days: int
    bytes: int


class OpenUploads(Document, frozen=True):
    """Sessions that are open, and the bytes they have so far."""

    count: int
    bytes: int


class Status(Document, frozen=True, kw_only=True):
    """One look at a registry."""

    at: Time
    # When the sums are from, where they are not of this moment.
    as_of: Time | UnsetType = UNSET
    disk: Disk
    registry: Totals
    # The lines of the bill with the largest shares.
    largest: list[Line]
    repository_count: int
    # Null without rules.
    retention: NextRun | None
    soft_delete: SoftDeleteStatus
    uploads: OpenUploads
    # Those that are not finished.
    jobs: list[Job]
    # What a person should know, the most urgent first.
    warnings: list[str]


def status_of(registry: Registry) -> Status:
    """For a caller that may read everything. Costs as a dry run of the retention rules."""
    now = registry.now()
    found = bill(registry, WITHOUT_ACCOUNTS, "repository", LARGEST)
    totals = found.registry if found.registry is not UNSET else registry_totals(registry)
    largest = list(found.entries) if found.entries is not UNSET else []
    omitted = found.omitted if found.omitted is not UNSET else 0

    def read(tx: Transaction) -> tuple[dict[str, int], int, int, soft_delete.SoftDelete]:
        grown = bytes_since(tx, now - GROWTH)
        return counters.totals(tx), grown, damaged_blobs(tx), soft_delete.find_policy(tx)

    counted, grown, damaged, policy = registry.snapshot(read)
    # Of this moment, whenever the rest was counted: somebody looks whether a deletion has helped.
    used = counted["blob_bytes"] + counted["pending_bytes"] + totals.uploading_bytes
    disk = Disk(used, registry.blobs.free_bytes(), grown)
    retention = _next_run(registry)
    jobs = list_jobs(registry, WITHOUT_ACCOUNTS)
    return Status(
        at=now.isoformat(),
        as_of=found.as_of,
        disk=disk,
        registry=totals,
        largest=largest,
        repository_count=len(largest) + omitted,
        retention=retention,
        soft_delete=SoftDeleteStatus(policy.enabled, policy.days, totals.soft_deleted_bytes),
        uploads=OpenUploads(len(list_uploads(registry)), totals.uploading_bytes),
        jobs=[job for job in jobs if job.finished is None],
        warnings=list(_warnings(disk, totals, retention, damaged, jobs, now)),
    )


def _next_run(registry: Registry) -> NextRun | None:
    items: list[Item] = []
    chosen = look_ahead(registry, items.append)
    if chosen is None:
        return None
    found = registry.snapshot(lambda tx: forecast_items(tx, registry, items))
    at = get_retention(registry).next_run
    return NextRun(
        at=at if isinstance(at, str) else None,
        manifest_count=sum(share.manifests_going for share in chosen.shares),
        tag_count=sum(share.tags_going for share in chosen.shares),
        freed_bytes=found.freed_bytes,
        freed_later_bytes=found.later_bytes,
    )


def _warnings(
    disk: Disk,
    totals: Totals,
    retention: NextRun | None,
    damaged: int,
    jobs: list[Job],
    now: datetime,
) -> Iterator[str]:
    if disk.free_bytes is not None:
        days = disk.free_bytes / (disk.grown_bytes / GROWTH.days) if disk.grown_bytes else None
        if days is not None and days < SOON_DAYS:
            yield f"at the pace of the last seven days the disk is full in {days:.0f} days"
        elif disk.free_bytes < LITTLE_FREE * (disk.used_bytes + disk.free_bytes):
            yield "less than a tenth of the disk is free"
    if damaged:
        yield f"{damaged} blobs are damaged and not served: ullage check"
    week = (now - GROWTH).isoformat()
    failed = [job for job in jobs if job.state in ("failed", "refused") and job.created >= week]
    if failed:
        yield f"{len(failed)} jobs failed or were refused in seven days: ullage job list"
    if retention is None and totals.untagged_bytes > totals.tagged_bytes:
        yield "most of it has no tag, and no rule deletes it: ullage retention set"
