"""Processes at work on one database, each with a row that it gives a sign of life in.

A claim names its process: what a dead process has claimed is free at once, and need not wait for
the claim's own end. Only on PostgreSQL; where one process owns the database there are no rows, and
no claim names a process.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import Statement, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

# A process that gave no sign of life for so long counts as dead. One that was only held up finds
# its claims taken, and stops: every write to a claimed row carries the claim.
DEAD_AFTER = timedelta(seconds=5)
_DEAD_AFTER = DEAD_AFTER // timedelta(microseconds=1)

_processes = space.processes


def free(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row with `claimed_until` and `claimed_by` is free of claims as of `now`."""
    return sa.or_(
        table.c.claimed_until.is_(None),
        table.c.claimed_until <= bindparam("now"),
        sa.and_(table.c.claimed_by.is_not(None), ~alive(table.c.claimed_by)),
    )


def alive(process: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether the process of this id has given a sign of life as of `now`."""
    return sa.exists().where(
        _processes.c.id == process, _processes.c.beat_at > bindparam("now") - _DEAD_AFTER
    )


class ProcessRow(NamedTuple):
    """A process that is, or was, at work on the database."""

    id: str
    host: str
    beat_at: datetime


def _again(insert: Any) -> sa.Insert:
    put: sa.Insert = insert.on_conflict_do_update(
        index_elements=["id"], set_={"beat_at": insert.excluded.beat_at}
    )
    return put


_BEAT = Statement.insert(_processes, ("id", "host", "started_at", "beat_at"), _again)
_LEAVE = Statement(_processes.delete().where(given(_processes, "id")))
_SILENT = Statement(
    sa.select(*_processes.c["id", "host", "beat_at"])
    .where(_processes.c.beat_at <= bindparam("before"))
    .order_by(_processes.c.beat_at)
)
_BEAT_SINCE = Statement(
    sa.select(_processes.c.id).where(
        given(_processes, "id"), _processes.c.beat_at > bindparam("since")
    )
)
_FORGET = Statement(_processes.delete().where(_processes.c.beat_at <= bindparam("before")))


def beat(tx: Transaction, process: str, host: str, started_at: datetime, now: datetime) -> None:
    """Note that a process is alive; also where a crash of the database has emptied the table."""
    tx.change(
        _BEAT, id=process, host=host, started_at=to_micros(started_at), beat_at=to_micros(now)
    )


def leave(tx: Transaction, process: str) -> None:
    """A process stops in good order: what it still has claimed is free."""
    tx.change(_LEAVE, id=process)


def dead(tx: Transaction, now: datetime) -> list[ProcessRow]:
    """Processes that ended without leaving."""
    rows = tx.rows(_SILENT, before=to_micros(now - DEAD_AFTER))
    return [ProcessRow(id_, host, from_micros(beat_at)) for id_, host, beat_at in rows]


def is_alive(tx: Transaction, process: str, now: datetime) -> bool:
    """Whether it has neither died nor left."""
    return tx.row(_BEAT_SINCE, id=process, since=to_micros(now - DEAD_AFTER)) is not None


def forget_dead(tx: Transaction, before: datetime) -> None:
    """Drop the rows of those that have been dead since then: to every claim it is the same."""
    tx.change(_FORGET, before=to_micros(before))
