"""Working on jobs: a worker claims one, plans it, and then deletes what was chosen, in batches.

After a crash it is planned again (planning.py), or goes on (batch.py). What fails all the time is
given up, and what ended long ago is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from ullage.cleanup.job.batch import clean_some
from ullage.cleanup.job.claims import ClaimLost, mine_or_waiting, renew_claim
from ullage.cleanup.job.documents import findings, terms
from ullage.cleanup.job.jobs import KEPT
from ullage.cleanup.job.planning import WRITTEN_TOGETHER, Chooser, plan_job
from ullage.cleanup.queries import jobs
from ullage.cleanup.queries.jobs import JobRow
from ullage.database.transaction import Transaction
from ullage.documents import changed, plain
from ullage.failpoints import failpoint
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import write_pulls

# What fails so often in a row is given up.
MAX_FAILURES = 10


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
    row = registry.read(lambda tx: mine_or_waiting(tx, token, now))
    if row is None:
        return None
    try:
        if row.state == "running" and not row.cancelled:
            if terms(row).unpulled_since is not None:
                # What was pulled until now stays.
                write_pulls(registry)
            return _delete_some(registry, row.id, token, n, took)
        _begin(registry, choosers, row.id, token)
    except ClaimLost:
        pass
    return 0


def _begin(registry: Registry, choosers: Mapping[str, Chooser], job_id: str, token: str) -> None:
    """Plan the job, or end it if it was cancelled."""

    def take(tx: Transaction) -> JobRow:
        row = renew_claim(tx, registry, job_id, token)
        if row.cancelled:
            jobs.change(tx, job_id, state="cancelled", finished_at=registry.now())
        return row

    row = registry.write(take, freeing=True)
    if not row.cancelled and row.state != "running":
        plan_job(registry, choosers[row.kind], row, token)


def _delete_some(
    registry: Registry, job_id: str, token: str, n: int, took: Callable[[float], object]
) -> int:
    def batch(tx: Transaction) -> tuple[int, float]:
        began = time.monotonic()
        row = renew_claim(tx, registry, job_id, token)
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
        if row.kind == "plan":
            tx.after_commit(lambda: _count_plan(registry, row))
    return dealt_with


def _count_plan(registry: Registry, row: JobRow) -> None:
    """What a plan promised to free, and what of that did not come though all of it went."""
    planned = findings(row).planned_bytes or 0
    registry.tallies.add("planned_bytes", n=planned)
    chosen, deleted = row.manifest_count, row.manifests_deleted
    if deleted >= chosen:
        missing = planned - row.freed_bytes - row.leased_bytes
        registry.tallies.add("shortfall_bytes", n=max(missing, 0))


def note_failure(registry: Registry, token: str, message: str) -> None:
    """Something failed in the job at hand; after many times in a row it is given up."""

    def note(tx: Transaction) -> None:
        job_id = jobs.claimed_by(tx, token)
        if job_id is None:
            return
        row = renew_claim(tx, registry, job_id, token)
        jobs.change(tx, row.id, failures=row.failures + 1)
        if row.failures + 1 >= MAX_FAILURES:
            found = findings(row)
            found = changed(found, notes=[*found.notes, message[:500]])
            now = registry.now()
            jobs.change(tx, row.id, state="failed", findings=plain(found), finished_at=now)

    # Where another worker has it by now, it is that one's business.
    with suppress(ClaimLost):
        registry.write(note, freeing=True)


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
