"""Jobs: long cleaning that goes on in the background, to be watched, cancelled and looked up.

One process works on a job at a time, under a claim that ends by itself. A job is planned first, and
then carried out a batch at a time (cleaning.py). After a crash it is planned again, or goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ullage.failpoints import failpoint
from ullage.metadata import jobs, pulls
from ullage.metadata.database import Transaction
from ullage.metadata.jobs import Item, JobRow, PlacedItem
from ullage.oci.errors import JobUnknown, TooManyRequests
from ullage.oci.reference import RepositoryName
from ullage.policy import Caps, Swath, Warning, purge_rails
from ullage.pullers import RECENTLY
from ullage.services import Caller, Registry, softdelete
from ullage.services.access import Action, Principal
from ullage.services.cleaning import clean_some
from ullage.services.forecast import forecast_manifests
from ullage.services.pulls import pulled_words, pullers, write_pulls

log = logging.getLogger(__name__)

CLAIM = timedelta(seconds=60)
KEPT = timedelta(days=7)
MAX_OPEN = 100
LISTED = 100
# Items are written down in transactions of this many.
WRITTEN_TOGETHER = 500
# What fails so often in a row is given up.
MAX_FAILURES = 10
# Whole repositories that a plan of a job names; the sums count all of them.
NAMED = 1000


# --- asking for them ------------------------------------------------------------------------------


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


# --- working on them ------------------------------------------------------------------------------


class ClaimLost(Exception):
    """Another process works on the job: this one was away for too long."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What planning a job has found, beside the items."""

    swaths: list[Swath]
    notes: list[str]
    # What else there is to warn of.
    warnings: Sequence[Warning] = ()
    # What might have gone, and why it does not: docs/reference/api.md describes it.
    stays: list[dict[str, Any]] = field(default_factory=list)
    # Of a plan that somebody has seen, its rails included: how many tags go, and which bytes.
    as_planned: Planned | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan that a job carries out comes to."""

    tag_count: int
    freed_bytes: int
    later_bytes: int
    difference: dict[str, Any] | None


class Refused(Exception):
    """The job is not done at all; `findings` say why not."""

    def __init__(self, findings: dict[str, Any]) -> None:
        super().__init__()
        self.findings = findings


# Chooses what a job deletes, or raises Refused: hands every item to the function that it gets last.
Chooser = Callable[[Registry, JobRow, Callable[[Item], None]], Chosen]


def work(
    registry: Registry,
    choosers: Mapping[str, Chooser],
    token: str,
    n: int,
    took: Callable[[float], object] = lambda seconds: None,
) -> int | None:
    """Do some work on the oldest job that waits: plan it, or delete up to `n` items.

    How many items were dealt with; None if no job waits. `token` is this worker's own. `took` is
    told for how many seconds a deletion kept others from writing.
    """
    now = registry.now()
    row = registry.read(lambda tx: _mine_or_waiting(tx, token, now))
    if row is None:
        return None
    try:
        if row.state == "running" and not row.cancelled:
            if "unpulled_since" in row.request:
                # What was pulled until now stays.
                write_pulls(registry)
            return _delete_some(registry, row.id, token, n, took)
        _begin(registry, choosers, row.id, token)
    except ClaimLost:
        pass
    return 0


def _mine_or_waiting(tx: Transaction, token: str, now: datetime) -> JobRow | None:
    job_id = jobs.claimed_by(tx, token) or jobs.waiting(tx, now)
    return None if job_id is None else jobs.find(tx, job_id)


def _begin(registry: Registry, choosers: Mapping[str, Chooser], job_id: str, token: str) -> None:
    """Plan the job, or end it where somebody has cancelled it."""

    def take(tx: Transaction) -> JobRow:
        row = _hold(tx, registry, job_id, token)
        if row.cancelled:
            jobs.change(tx, job_id, state="cancelled", finished_at=registry.now())
        return row

    row = registry.write(take, freeing=True)
    if not row.cancelled and row.state != "running":
        _plan(registry, choosers[row.kind], row, token)


def _delete_some(
    registry: Registry, job_id: str, token: str, n: int, took: Callable[[float], object]
) -> int:
    def batch(tx: Transaction) -> tuple[int, float]:
        began = time.monotonic()
        row = _hold(tx, registry, job_id, token)
        if row.cancelled:
            return 0, 0.0
        dealt_with = _clean(tx, registry, row, n)
        return dealt_with, time.monotonic() - began

    dealt_with, seconds = registry.write(batch, freeing=True)
    took(seconds)
    failpoint("job.after_batch")
    registry.wake()
    return dealt_with


def _clean(tx: Transaction, registry: Registry, row: JobRow, n: int) -> int:
    """Delete up to `n` items; if there is none left, the job is done."""
    now = registry.now()
    dealt_with = clean_some(tx, registry, row, n, now)
    if not dealt_with:
        jobs.settle_rest(tx, row.id)
        jobs.change(tx, row.id, state="done", finished_at=now)
    return dealt_with


def _hold(tx: Transaction, registry: Registry, job_id: str, token: str) -> JobRow:
    """Lock the job's row and renew the claim. Raises ClaimLost."""
    now = registry.now()
    row = jobs.find(tx, job_id) if jobs.claim(tx, job_id, token, now, now + CLAIM) else None
    if row is None:
        raise ClaimLost
    return row


def note_failure(registry: Registry, token: str, message: str) -> None:
    """Something failed in the job at hand; after many times in a row it is given up."""

    def note(tx: Transaction) -> None:
        job_id = jobs.claimed_by(tx, token)
        row = jobs.find(tx, job_id) if job_id is not None else None
        if row is None:
            return
        jobs.change(tx, row.id, failures=row.failures + 1)
        if row.failures + 1 >= MAX_FAILURES:
            findings = row.findings | {"notes": [*row.findings.get("notes", []), message[:500]]}
            now = registry.now()
            jobs.change(tx, row.id, state="failed", findings=findings, finished_at=now)

    registry.write(note, freeing=True)


def release_jobs(registry: Registry, token: str | None = None) -> None:
    """Let others go on with what this worker has claimed; with what anybody has, without a token.

    The latter is for a start, where this process alone owns the database.
    """
    registry.write(lambda tx: jobs.release_claims(tx, token), freeing=True)


def expire_jobs(registry: Registry) -> int:
    """Forget some of what ended a week ago; 0 when there is nothing left to forget."""
    old = registry.now() - KEPT
    job_id = registry.read(lambda tx: jobs.finished_before(tx, old))
    if job_id is None:
        return 0
    dropped = registry.write(lambda tx: jobs.drop_items(tx, job_id, WRITTEN_TOGETHER), freeing=True)
    if not dropped:
        registry.write(lambda tx: jobs.forget(tx, job_id), freeing=True)
    return 1


# --- planning -------------------------------------------------------------------------------------


class _Writer:
    """Writes items down, some in each transaction."""

    def __init__(self, registry: Registry, job_id: str, token: str) -> None:
        self._registry, self._job_id, self._token = registry, job_id, token
        self._waiting: list[Item] = []
        self._written = 0
        self.counts = {"tag": 0, "manifest": 0}

    def add(self, item: Item) -> None:
        self._waiting.append(item)
        self.counts["tag" if item.kind == "tag" else "manifest"] += 1
        if len(self._waiting) >= WRITTEN_TOGETHER:
            self.flush()

    def flush(self) -> None:
        def write(tx: Transaction) -> None:
            row = _hold(tx, self._registry, self._job_id, self._token)
            if row.cancelled:
                raise ClaimLost
            jobs.add_items(tx, self._job_id, self._written + 1, self._waiting)
            jobs.change(
                tx,
                self._job_id,
                tag_count=self.counts["tag"],
                manifest_count=self.counts["manifest"],
            )

        self._registry.write(write, freeing=True)
        self._written += len(self._waiting)
        self._waiting = []


def _plan(registry: Registry, chooser: Chooser, row: JobRow, token: str) -> None:
    """Choose what goes, from the beginning: nothing is deleted before all of it is known."""
    registry.write(lambda tx: jobs.change(tx, row.id, state="planning"), freeing=True)
    while registry.write(lambda tx: jobs.drop_items(tx, row.id, WRITTEN_TOGETHER), freeing=True):
        pass
    writer = _Writer(registry, row.id, token)
    write_pulls(registry)
    try:
        chosen = chooser(registry, row, writer.add)
    except Refused as error:
        _planned(registry, row, token, "refused", error.findings)
        return
    writer.flush()
    planned = chosen.as_planned
    if planned is not None:
        registry.write(lambda tx: jobs.change(tx, row.id, tag_count=planned.tag_count))
        findings = _findings(chosen, (), planned.freed_bytes, planned.later_bytes)
        findings |= {"difference": planned.difference} if planned.difference else {}
        _planned(registry, row, token, "running", findings)
        return
    freed, later = registry.snapshot(lambda tx: _bytes_of(tx, registry, row.id))
    request = row.request
    caps = Caps(**request.get("caps", {}))
    chosen = replace(chosen, swaths=_with_pulls(registry, row.id, chosen.swaths))
    warnings = purge_rails(chosen.swaths, freed + later, caps, keep=request.get("keep", 0))
    warnings = (*warnings, *chosen.warnings)
    refused = any(
        warning.refuses and warning.rail not in request.get("allow", []) for warning in warnings
    )
    state = "done" if request.get("dry_run") else "refused" if refused else "running"
    _planned(registry, row, token, state, _findings(chosen, warnings, freed, later))


def _bytes_of(tx: Transaction, registry: Registry, job_id: str) -> tuple[int, int]:
    """What all of a job's manifests free, at once and later."""
    going = jobs.manifests_of(tx, job_id)
    now = registry.now()
    found = forecast_manifests(tx, registry.leases, going, now)
    found = softdelete.kept_forecast(found, softdelete.find_policy(tx), now)
    return found.freed_bytes, found.later_bytes


def _planned(
    registry: Registry, row: JobRow, token: str, state: str, findings: dict[str, Any]
) -> None:
    def end(tx: Transaction) -> None:
        _hold(tx, registry, row.id, token)
        ended = None if state == "running" else registry.now()
        restorable = {"restorable": softdelete.find_policy(tx).enabled}
        jobs.change(tx, row.id, state=state, findings=findings | restorable, finished_at=ended)

    registry.write(end, freeing=True)
    failpoint("job.after_batch")


def _with_pulls(registry: Registry, job_id: str, swaths: list[Swath]) -> list[Swath]:
    """What goes of what somebody pulled lately."""
    since = registry.now() - RECENTLY
    found = registry.read(lambda tx: pulls.recent_of_job(tx, job_id, since, pullers(tx).counted))
    return [
        replace(
            swath,
            pulled_going=found[name].number,
            pulled=pulled_words(found[name].digest, found[name].at),
        )
        if (name := RepositoryName(swath.repository)) in found
        else swath
        for swath in swaths
    ]


def _findings(
    chosen: Chosen, warnings: tuple[Warning, ...], freed: int, later: int
) -> dict[str, Any]:
    touched = [swath for swath in chosen.swaths if swath.tags_going or swath.manifests_going]
    return {
        "planned_bytes": freed,
        "planned_later_bytes": later,
        "repositories": [_swath_shown(swath) for swath in touched[:NAMED]],
        "warnings": [asdict(warning) for warning in warnings],
        "notes": chosen.notes,
        "stays": chosen.stays[:NAMED],
    }


def _swath_shown(swath: Swath) -> dict[str, Any]:
    return {
        "repository": swath.repository,
        "tags": swath.tags_going,
        "of_tags": swath.tags,
        "manifests": swath.manifests_going,
        "of_manifests": swath.manifests,
    }
