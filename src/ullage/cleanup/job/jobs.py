"""Jobs: long cleaning that goes on in the background, to be watched, cancelled and looked up.

A job is planned first (planning.py), and then carried out a batch at a time (execution.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from ullage.authorization import Action, Principal
from ullage.cleanup.job.documents import (
    Job,
    JobItem,
    JobRequest,
    item_document,
    job_document,
    public_request,
    repositories_of,
)
from ullage.cleanup.queries import jobs
from ullage.cleanup.queries.jobs import JobRow
from ullage.database.transaction import Transaction
from ullage.documents import plain
from ullage.oci.errors import JobUnknown, TooManyRequests
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

KEPT = timedelta(days=7)
MAX_OPEN = 100
# Of these, most of one account, so that none takes all.
MAX_ACCOUNT_OPEN = 20
LISTED = 100


def start_job(registry: Registry, kind: str, request: JobRequest, caller: Caller) -> Job:
    """Queue a job. Raises TooManyRequests while too many wait."""
    job_id = registry.fresh_key()
    registry.write(lambda tx: queue_job(tx, registry, job_id, kind, request, caller), freeing=True)
    registry.wake()
    return job_document(_require(registry, job_id))


def queue_job(
    tx: Transaction,
    registry: Registry,
    job_id: str,
    kind: str,
    request: JobRequest,
    caller: Caller,
) -> None:
    """As start_job, in a transaction of its caller, which wakes the worker afterwards."""
    if jobs.count_open(tx) >= MAX_OPEN:
        raise TooManyRequests(message=f"{MAX_OPEN} jobs wait already")
    # Without accounts all clients are one.
    if caller.subject and jobs.count_open_of(tx, caller.subject) >= MAX_ACCOUNT_OPEN:
        raise TooManyRequests(
            {"account": caller.subject},
            f"{MAX_ACCOUNT_OPEN} jobs of this account wait already; wait for one, or cancel one",
        )
    jobs.insert(
        tx,
        job_id,
        kind,
        subject=caller.subject,
        address=caller.address,
        request_id=caller.request_id,
        request=plain(request),
        now=registry.now(),
    )
    detail = plain(public_request(request))
    registry.audit(tx, caller, f"{kind}.start", target=job_id, detail=detail)


def get_job(registry: Registry, job_id: str, principal: Principal) -> Job:
    """How a job stands. Raises JobUnknown, also where a repository of it may not be known."""
    return job_document(_visible(registry, job_id, principal))


def list_jobs(registry: Registry, principal: Principal) -> list[Job]:
    """The last hundred jobs, newest first, of those the caller may know of."""

    def read(tx: Transaction) -> list[JobRow]:
        visible = (row for row in _newest(tx) if _may(principal, Action.METADATA_READ, row))
        return list(islice(visible, LISTED))

    return [job_document(row) for row in registry.snapshot(read)]


def jobs_beginning(registry: Registry, prefix: str, principal: Principal) -> list[str]:
    """The ids of jobs that begin so, of those the caller may know of."""

    def read(tx: Transaction) -> list[JobRow | None]:
        return [jobs.find(tx, job_id) for job_id in jobs.beginning_with(tx, prefix)]

    found = registry.snapshot(read)
    return [row.id for row in found if row and _may(principal, Action.METADATA_READ, row)]


def _newest(tx: Transaction) -> Iterator[JobRow]:
    """All jobs that are kept, newest first."""
    some = jobs.newest(tx, LISTED)
    while some:
        yield from some
        some = jobs.newest(tx, LISTED, some[-1])


def get_items(
    registry: Registry, job_id: str, principal: Principal, after: int, n: int
) -> list[JobItem]:
    """What a job is about, in order: up to `n` items behind a position. Raises JobUnknown."""
    _visible(registry, job_id, principal)
    page = registry.read(lambda tx: jobs.item_page(tx, job_id, after, n))
    return [item_document(placed) for placed in page]


def lacking_to_cancel(registry: Registry, job_id: str, principal: Principal) -> list[str]:
    """Repositories of the job on which the caller lacks the right to delete. Raises JobUnknown."""
    row = _visible(registry, job_id, principal)
    return [name for name in _names(row) if not principal.may(Action.DELETE, name)]


def cancel_job(registry: Registry, job_id: str, principal: Principal, caller: Caller) -> Job:
    """Let a job do nothing more; what it has deleted stays deleted. Raises JobUnknown."""
    _visible(registry, job_id, principal)

    def cancel(tx: Transaction) -> None:
        row = jobs.find(tx, job_id)
        if row is not None and row.finished_at is None and not row.cancelled:
            jobs.change(tx, job_id, cancelled=True)
            registry.audit(tx, caller, f"{row.kind}.cancel", target=job_id)

    registry.write(cancel)
    registry.wake()
    return job_document(_require(registry, job_id))


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
        # About nothing: for the account that asked for it.
        return principal.subject == row.subject or principal.may(action, "*")
    return all(principal.may(action, name) for name in names)


def _names(row: JobRow) -> list[str]:
    return [about.repository for about in repositories_of(row)]
