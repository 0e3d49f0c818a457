"""When reviews and tombstones come due first, and their times when the clock has jumped."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import Statement
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

_reviews = space.reviews
_tombstones = space.tombstones


_FIRST_DUE = (
    Statement(sa.select(sa.func.min(_tombstones.c.due_at))),
    Statement(sa.select(sa.func.min(_reviews.c.due_at))),
)


def next_due(tx: Transaction) -> datetime | None:
    """When the earliest tombstone or review comes due; None while there is none."""
    moments = [tx.value(statement) for statement in _FIRST_DUE]
    known = [from_micros(due) for due in moments if due is not None]
    return min(known, default=None)


_SHIFT_REVIEWS = Statement(_reviews.update().values(due_at=_reviews.c.due_at + bindparam("by")))
_SHIFT_TOMBSTONES = Statement(
    _tombstones.update().values(
        due_at=_tombstones.c.due_at + bindparam("by"),
        claimed_until=_tombstones.c.claimed_until + bindparam("by"),
    )
)


def shift_reviews(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back."""
    tx.change(_SHIFT_REVIEWS, by=by_microseconds)


def shift_tombstones(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: the second would keep bytes for as long as it was."""
    tx.change(_SHIFT_TOMBSTONES, by=by_microseconds)


_POSTPONE = tuple(
    Statement(
        column.table.update()
        .where(column < bindparam("until", type_=sa.BigInteger))
        .values({column.name: bindparam("until", type_=sa.BigInteger)})
    )
    for column in (_reviews.c.due_at, _tombstones.c.due_at, space.uploads.c.expires_at)
)


def postpone_all(tx: Transaction, until: datetime) -> None:
    """Whatever would be looked at, ended or erased sooner is due then."""
    for statement in _POSTPONE:
        tx.change(statement, until=to_micros(until))
