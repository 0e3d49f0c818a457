"""Storage keys that nothing uses yet, written down before the first byte exists under one.

So a crash leaves no unknown bytes, although an upload session without bytes has no row of its own
(push/sessions_in_memory.py). A key leaves this table in the transaction that names it elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from ullage.database.schema import space
from ullage.database.statements import Statement, given
from ullage.database.transaction import Transaction

_reserved = space.reserved_keys

_RESERVE = Statement.insert(_reserved, ("storage_key",))


def reserve(tx: Transaction, keys: Collection[str]) -> None:
    """Write down fresh keys."""
    tx.many(_RESERVE, [{"storage_key": key} for key in keys])


_RELEASE = Statement(_reserved.delete().where(given(_reserved, "storage_key")))


def release(tx: Transaction, key: str) -> bool:
    """Cross a key out; False if another did, which then answers for its bytes."""
    return tx.change(_RELEASE, storage_key=key) == 1


_ALL = Statement(sa.select(_reserved.c.storage_key))


def reserved_keys(tx: Transaction) -> list[str]:
    return tx.values(_ALL)
