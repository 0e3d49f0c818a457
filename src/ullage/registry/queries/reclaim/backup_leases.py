"""Backups that run: while one holds its lease, no bytes are erased that its snapshot may name.

A backup commits its lease, then takes its snapshot of the database. What is claimed for erasing
afterwards is claimed by a statement that sees the lease; what was claimed before had no row of a
blob any more, and is in no snapshot (race R25).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction

_leases = space.backup_leases

# A lease lasts so long from its last renewal, which comes every minute.
LEASE = timedelta(minutes=10)
# One that ends within this counts as ended for its backup, and not for what erases: the two may
# read the clock in one order and commit in the other.
_DOUBT = timedelta(seconds=30)

# To be part of the statement that claims: it has one moment for the leases and the tombstones.
NO_BACKUP_RUNS = ~sa.exists().where(_leases.c.until > bindparam("now"))

_ANY = Statement(sa.select(_leases.c.id).where(_leases.c.until > bindparam("now")).limit(1))
_BEGIN = Statement.insert(_leases, ("id", "until"))
_RENEW = Statement(
    _leases.update()
    .where(given(_leases, "id"), _leases.c.until > bindparam("now"))
    .values(until=bindparam("next"))
)
_END = Statement(_leases.delete().where(given(_leases, "id")))
_FORGET = Statement(_leases.delete().where(_leases.c.until <= bindparam("now")))
_SHIFT = Statement(_leases.update().values(until=_leases.c.until + bindparam("by")))


def backup_runs(tx: Transaction, now: datetime) -> bool:
    """Whether tombstones wait for one."""
    return tx.row(_ANY, now=to_micros(now)) is not None


def begin_backup(tx: Transaction, lease: str, now: datetime) -> None:
    """Let nothing be erased for the time of a lease. Leases that have ended go."""
    tx.change(_FORGET, now=to_micros(now))
    tx.change(_BEGIN, id=lease, until=to_micros(now + LEASE))


def renew_backup(tx: Transaction, lease: str, now: datetime) -> bool:
    """Prolong a lease; False if it has ended, for bytes may have been erased since."""
    after, until = to_micros(now + _DOUBT), to_micros(now + LEASE)
    return tx.change(_RENEW, id=lease, now=after, next=until) == 1


def end_backup(tx: Transaction, lease: str) -> None:
    """Let erasing go on."""
    tx.change(_END, id=lease)


def shift_backups(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: a backup that runs keeps its lease."""
    tx.change(_SHIFT, by=by_microseconds)
