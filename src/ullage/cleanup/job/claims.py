"""Claims on jobs: one process works on a job at a time, under a claim that ends by itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from ullage.cleanup.queries import jobs
from ullage.cleanup.queries.jobs import JobRow
from ullage.database.transaction import Transaction
from ullage.registry.context import Registry

CLAIM = timedelta(seconds=60)


class ClaimLost(Exception):
    """Another process works on the job: this one was away for too long."""


def mine_or_waiting(tx: Transaction, token: str, now: datetime) -> JobRow | None:
    """The job that this worker has claimed, or else the oldest that waits."""
    job_id = jobs.claimed_by(tx, token) or jobs.waiting(tx, now)
    return None if job_id is None else jobs.find(tx, job_id)


def renew_claim(tx: Transaction, registry: Registry, job_id: str, token: str) -> JobRow:
    """Lock the job's row and renew the claim. Raises ClaimLost."""
    now = registry.now()
    claimed = jobs.claim(tx, job_id, token, registry.process, now, now + CLAIM)
    row = jobs.find(tx, job_id) if claimed else None
    if row is None:
        raise ClaimLost
    return row


def release_jobs(registry: Registry, token: str | None = None) -> None:
    """Give back what this worker has claimed; without a token, what all workers have.

    The latter is for a start, where this process alone owns the database.
    """
    registry.write(lambda tx: jobs.release_claims(tx, token), freeing=True)
