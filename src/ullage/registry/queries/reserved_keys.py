"""Storage keys that nothing uses yet, written down before the first byte exists under one.

So a crash leaves no unknown bytes, although an upload session without bytes has no row of its own
(push/sessions_in_memory.py). A key leaves this table in the transaction that names it elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from ullage.database.schema import space
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.registry.queries.processes import alive

_reserved = space.reserved_keys

_RESERVE = Statement.insert(_reserved, ("storage_key", "reserved_by"), in_sets=True)


def reserve(tx: Transaction, keys: Collection[str], process: str | None) -> None:
    """Write down fresh keys that `process` has in hand; None where one owns the database."""
    tx.many(_RESERVE, [{"storage_key": key, "reserved_by": process} for key in keys])


_RELEASE = Statement(_reserved.delete().where(given(_reserved, "storage_key")))


def release(tx: Transaction, key: str) -> bool:
    """Cross a key out; False if another did, which then answers for its bytes."""
    return tx.change(_RELEASE, storage_key=key) == 1


_RELEASE_ALL = Statement(_reserved.delete().where(among(_reserved.c.storage_key, "keys")))


def release_all(tx: Transaction, keys: Collection[str]) -> int:
    """As `release`, of many; how many those were."""
    return tx.change(_RELEASE_ALL, keys=keys) if keys else 0


_ALL = Statement(sa.select(_reserved.c.storage_key))


def reserved_keys(tx: Transaction) -> list[str]:
    return tx.values(_ALL)


class LeftKey(NamedTuple):
    """A key, and the process that had it in hand."""

    key: str
    process: str


_LEFT = Statement(
    sa.select(*_reserved.c["storage_key", "reserved_by"])
    .where(_reserved.c.reserved_by.is_not(None), ~alive(_reserved.c.reserved_by))
    .order_by(_reserved.c.storage_key)
    .limit(LIMIT)
)


def left_keys(tx: Transaction, now: datetime, limit: int) -> list[LeftKey]:
    """Some of the keys of processes that give no sign of life."""
    return [LeftKey(*row) for row in tx.rows(_LEFT, now=to_micros(now), limit=limit)]
