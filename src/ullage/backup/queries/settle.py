"""What is not true any more in a database that was restored."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import accounts, cleaning, space
from ullage.database.statements import Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.registry.queries.counters import add_to_counters

_jobs = cleaning.jobs
_tombstones = space.tombstones

# Promises, processes and backups of then; what is forgotten of leases counts as leased for a while.
_FORGET = tuple(
    Statement(table.delete())
    for table in (
        space.leases,
        space.lease_memory,
        space.processes,
        space.backup_leases,
        accounts.login_failures,
    )
)
_BURIED_BYTES = Statement(sa.select(sa.func.sum(_tombstones.c.size)))
_DROP_TOMBSTONES = Statement(_tombstones.delete())
_CANCEL_JOBS = Statement(
    _jobs.update()
    .where(_jobs.c.finished_at.is_(None))
    .values(
        state="cancelled",
        cancelled=sa.true(),
        finished_at=bindparam("now"),
        claim=None,
        claimed_by=None,
        claimed_until=None,
    )
)


def forget_what_ran(tx: Transaction) -> None:
    """Nothing of what ran then runs now, and nothing that was promised is known."""
    for statement in _FORGET:
        tx.change(statement)


def drop_tombstones(tx: Transaction) -> None:
    """None of their bytes is in the store."""
    size = int(tx.value(_BURIED_BYTES) or 0)
    tx.change(_DROP_TOMBSTONES)
    add_to_counters(tx, 0, pending_bytes=-size)


def cancel_jobs(tx: Transaction, now: datetime) -> int:
    """End what was being deleted then: whoever restores decides anew. How many jobs."""
    return tx.change(_CANCEL_JOBS, now=to_micros(now))
