"""What waits in a registry: a row or a few for each question, whatever there is."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from ullage.database.schema import cleaning, space, undo
from ullage.database.statements import Statement
from ullage.database.timestamps import from_micros
from ullage.database.transaction import Transaction

_jobs, _tombstones, _uploads = cleaning.jobs, space.tombstones, space.uploads

_COUNT = sa.func.count()
_BURIED = Statement(sa.select(_COUNT, sa.func.min(_tombstones.c.due_at)))
_REVIEWS = Statement(sa.select(_COUNT).select_from(space.reviews))
_OPEN = Statement(sa.select(_COUNT, sa.func.min(_uploads.c.created_at)))
_OPERATIONS = Statement(sa.select(_COUNT).select_from(undo.operations))
_BY_STATE = Statement(
    sa.select(_jobs.c.kind, _jobs.c.state, _COUNT)
    .group_by(_jobs.c.kind, _jobs.c.state)
    .order_by(_jobs.c.kind, _jobs.c.state)
)
_LAST_RETENTION = Statement(
    sa.select(sa.func.max(_jobs.c.finished_at)).where(
        _jobs.c.kind == "retention", _jobs.c.state == "done"
    )
)


def tombstones(tx: Transaction) -> tuple[int, datetime | None]:
    """How many there are, and when the first one came due."""
    return _number_and_moment(tx, _BURIED)


def uploads(tx: Transaction) -> tuple[int, datetime | None]:
    """How many sessions have a row, and when the oldest one began."""
    return _number_and_moment(tx, _OPEN)


def reviews(tx: Transaction) -> int:
    return int(tx.value(_REVIEWS))


def operations(tx: Transaction) -> int:
    """Deletions that can be taken back."""
    return int(tx.value(_OPERATIONS))


def jobs(tx: Transaction) -> list[tuple[str, str, int]]:
    """(kind, state, how many)."""
    return [(kind, state, int(n)) for kind, state, n in tx.rows(_BY_STATE)]


def last_retention(tx: Transaction) -> datetime | None:
    """When a run of the retention rules last came to its end, of those that are remembered."""
    at = tx.value(_LAST_RETENTION)
    return None if at is None else from_micros(at)


def _number_and_moment(tx: Transaction, statement: Statement) -> tuple[int, datetime | None]:
    ((number, at),) = tx.rows(statement)
    return int(number), None if at is None else from_micros(at)
