"""The operations themselves: what was deleted, when, and from when its days are counted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import undo
from ullage.database.statements import LIMIT, Statement, beginning, given, range_of
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

_operations = undo.operations
_kept = undo.kept_repositories
_deleted_tags = undo.deleted_tags


class Operation(NamedTuple):
    """A deletion that can be taken back."""

    id: str
    kind: str
    subject: str
    target: str | None
    deleted_at: datetime
    # From when its days are counted.
    counts_from: datetime


_BEGIN = Statement.insert(
    _operations,
    ("id", "kind", "subject", "target", "deleted_at", "counts_from"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["id"],
        # A job that goes on: its days begin with the last thing it deletes.
        set_={"deleted_at": insert.excluded.deleted_at, "counts_from": insert.excluded.counts_from},
    ),
)


def begin(
    tx: Transaction, operation_id: str, kind: str, subject: str, target: str | None, now: datetime
) -> None:
    """Write an operation down, or that it went on."""
    at = to_micros(now)
    tx.change(
        _BEGIN,
        id=operation_id,
        kind=kind,
        subject=subject,
        target=target,
        deleted_at=at,
        counts_from=at,
    )


_COLUMNS = tuple(_operations.c["id", "kind", "subject", "target", "deleted_at", "counts_from"])


_FIND = Statement(sa.select(*_COLUMNS).where(given(_operations, "id")))
# Every operation was deleted before the end of time.
_NEWEST = Statement(
    sa.select(*_COLUMNS)
    .where(
        sa.tuple_(_operations.c.deleted_at, _operations.c.id)
        < sa.tuple_(bindparam("at", type_=sa.BigInteger), bindparam("id", type_=sa.Text))
    )
    .order_by(_operations.c.deleted_at.desc(), _operations.c.id.desc())
    .limit(LIMIT)
)


def find(tx: Transaction, operation_id: str) -> Operation | None:
    row = tx.row(_FIND, id=operation_id)
    return _operation(row) if row is not None else None


def newest(tx: Transaction, before: tuple[datetime, str] | None, n: int) -> list[Operation]:
    """Up to `n` operations, the last first, behind a place."""
    at, id_ = (2**62, "") if before is None else (to_micros(before[0]), before[1])
    return [_operation(row) for row in tx.rows(_NEWEST, at=at, id=id_, limit=n)]


_BEGINNING = Statement(
    sa.select(_operations.c.id).where(beginning(_operations.c.id)).order_by(_operations.c.id)
)


def beginning_with(tx: Transaction, prefix: str) -> list[str]:
    """The ids of operations that begin so."""
    return tx.values(_BEGINNING, **range_of(prefix))


_OVERDUE = Statement(
    sa.select(_operations.c.id)
    .where(_operations.c.counts_from <= bindparam("before"))
    .order_by(_operations.c.counts_from, _operations.c.id)
    .limit(1)
)


def first_begun_before(tx: Transaction, before: datetime) -> str | None:
    """The oldest operation whose days are counted from before that moment."""
    found: str | None = tx.value(_OVERDUE, before=to_micros(before))
    return found


def _operation(row: Sequence[Any]) -> Operation:
    return Operation(row[0], row[1], row[2], row[3], from_micros(row[4]), from_micros(row[5]))


_END = Statement(
    _operations.delete().where(
        given(_operations, "id"),
        ~sa.exists().where(_kept.c.operation_id == bindparam("id")),
        ~sa.exists().where(_deleted_tags.c.operation_id == bindparam("id")),
    )
)


def end_if_empty(tx: Transaction, operation_id: str) -> bool:
    """Forget an operation that keeps nothing any more; whether it is forgotten."""
    return bool(tx.change(_END, id=operation_id))


_SHIFT = Statement(
    _operations.update().values(counts_from=_operations.c.counts_from + bindparam("by"))
)


def shift(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: everything is kept for as long as it would have been."""
    tx.change(_SHIFT, by=by_microseconds)
