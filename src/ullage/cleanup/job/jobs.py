"""Jobs: long cleaning that goes on in the background, to be watched, cancelled and looked up.

A job is planned first (job_planning.py), and then carried out a batch at a time (job_work.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ullage.authorization import Action, Principal
from ullage.cleanup.queries import jobs
from ullage.cleanup.queries.jobs import JobRow, PlacedItem
from ullage.database.transaction import Transaction
from ullage.oci.errors import JobUnknown, TooManyRequests
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

KEPT = timedelta(days=7)
MAX_OPEN = 100
LISTED = 100


def start_job(
    registry: Registry, kind: str, request: Mapping[str, Any], caller: Caller
) -> dict[str, Any]:
    """Queue a job. Raises TooManyRequests while too many wait."""
    job_id = registry.fresh_key()
    registry.write(lambda tx: queue_job(tx, registry, job_id, kind, request, caller), freeing=True)
    registry.wake()
    return shown(_require(registry, job_id))


def queue_job(
    tx: Transaction,
    registry: Registry,
    job_id: str,
    kind: str,
    request: Mapping[str, Any],
    caller: Caller,
) -> None:
    """As start_job, in a transaction of the caller's, who wakes the worker afterwards."""
    if jobs.count_open(tx) >= MAX_OPEN:
        raise TooManyRequests(message=f"{MAX_OPEN} jobs wait already")
    jobs.insert(
        tx,
        job_id,
        kind,
        subject=caller.subject,
        address=caller.address,
        request_id=caller.request_id,
        request=request,
        now=registry.now(),
    )
    registry.audit(tx, caller, f"{kind}.start", target=job_id, detail=_asked(request))


def get_job(registry: Registry, job_id: str, principal: Principal) -> dict[str, Any]:
    """How a job stands. Raises JobUnknown, also to those who may not know of its repositories."""
    return shown(_visible(registry, job_id, principal))


def list_jobs(registry: Registry, principal: Principal) -> list[dict[str, Any]]:
    """The last hundred jobs, newest first, of those the caller may know of."""
    rows = registry.read(lambda tx: jobs.newest(tx, LISTED))
    return [shown(row) for row in rows if _may(principal, Action.METADATA_READ, row)]


def get_items(
    registry: Registry, job_id: str, principal: Principal, after: int, n: int
) -> list[dict[str, Any]]:
    """What a job is about, in order: up to `n` items behind a position. Raises JobUnknown."""
    _visible(registry, job_id, principal)
    page = registry.read(lambda tx: jobs.item_page(tx, job_id, after, n))
    return [_item_shown(placed) for placed in page]


def lacking_to_cancel(registry: Registry, job_id: str, principal: Principal) -> list[str]:
    """Repositories of the job on which the caller lacks the right to delete. Raises JobUnknown."""
    row = _visible(registry, job_id, principal)
    return [name for name in _names(row) if not principal.may(Action.DELETE, name)]


def cancel_job(
    registry: Registry, job_id: str, principal: Principal, caller: Caller
) -> dict[str, Any]:
    """Let a job do nothing more; what it has deleted stays deleted. Raises JobUnknown."""
    _visible(registry, job_id, principal)

    def cancel(tx: Transaction) -> None:
        row = jobs.find(tx, job_id)
        if row is not None and row.finished_at is None and not row.cancelled:
            jobs.change(tx, job_id, cancelled=True)
            registry.audit(tx, caller, f"{row.kind}.cancel", target=job_id)

    registry.write(cancel)
    registry.wake()
    return shown(_require(registry, job_id))


def _require(registry: Registry, job_id: str) -> JobRow:
    row = registry.read(lambda tx: jobs.find(tx, job_id))
    if row is None:
        raise JobUnknown({"job": job_id})
    return row


def _visible(registry: Registry, job_id: str, principal: Principal) -> JobRow:
    row = _require(registry, job_id)
    if not _may(principal, Action.METADATA_READ, row):
        raise JobUnknown({"job": job_id})
    return row


def _may(principal: Principal, action: Action, row: JobRow) -> bool:
    names = _names(row)
    if not names:
        # About nothing: for whoever asked for it.
        return principal.subject == row.subject or principal.may(action, "*")
    return all(principal.may(action, name) for name in names)


def _names(row: JobRow) -> list[str]:
    return [part["repository"] for part in row.request["repositories"]]


def _asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """A job's request without the repositories that were found for it."""
    return {name: value for name, value in request.items() if name != "repositories"}


def shown(row: JobRow) -> dict[str, Any]:
    """A job as JSON: docs/reference/api.md describes it."""
    document = {
        "id": row.id,
        "kind": row.kind,
        "state": row.state,
        "by": row.subject,
        "created": row.created_at.isoformat(),
        "finished": row.finished_at.isoformat() if row.finished_at else None,
        "cancelled": row.cancelled,
        "request": _asked(row.request),
        "tag_count": row.tag_count,
        "manifest_count": row.manifest_count,
        "tags_deleted": row.tags_deleted,
        "manifests_deleted": row.manifests_deleted,
        "freed_bytes": row.freed_bytes,
        "freed_later_bytes": row.leased_bytes,
    }
    found: dict[str, Any] = {
        "repositories": [],
        "warnings": [],
        "notes": [],
        "stays": [],
        "operation": None,
    }
    return document | found | row.findings


def _item_shown(placed: PlacedItem) -> dict[str, Any]:
    item = placed.item
    return {
        "position": placed.position,
        "repository": item.repository,
        "kind": "tag" if item.kind == "tag" else "manifest",
        "tag": item.tag,
        "digest": item.digest,
        "along": item.kind == "along",
        "outcome": placed.outcome,
        "reason": placed.reason,
    }
