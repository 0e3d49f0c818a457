"""Which blobs a copy of the store has, and which of its objects it must not have any more."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space
from ullage.database.statements import LIMIT, Statement, among
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.quarantine import StoredCopy

_blobs = content.blobs

_PAGE = Statement(
    sa.select(*_blobs.c["digest", "storage_key", "size"])
    .where(
        _blobs.c.storage_key > bindparam("after"),
        _blobs.c.storage_key < bindparam("before"),
        _blobs.c.damaged_at.is_(None),
    )
    .order_by(_blobs.c.storage_key)
    .limit(LIMIT)
)
_IS_SOUND = Statement(
    sa.select(_blobs.c.size).where(
        _blobs.c.digest == bindparam("of"),
        _blobs.c.storage_key == bindparam("copy"),
        _blobs.c.damaged_at.is_(None),
    )
)
# The way a key goes: asked in this order it is not missed where it moves on in between.
_IN_USE = tuple(
    Statement(sa.select(table.c.storage_key).where(among(table.c.storage_key, "keys")))
    for table in (space.reserved_keys, space.uploads, _blobs)
)


def sound_blobs(tx: Transaction, after: str, before: str, limit: int) -> list[StoredCopy]:
    """The next blobs in the order of their storage keys, without those known to be damaged."""
    rows = tx.rows(_PAGE, after=after, before=before, limit=limit)
    return [StoredCopy(Digest(digest), key, size) for digest, key, size in rows]


def is_sound(tx: Transaction, digest: str, storage_key: str) -> bool:
    """Whether the blob still has its bytes under this key, so far as is known."""
    return tx.row(_IS_SOUND, of=digest, copy=storage_key) is not None


def unused_keys(tx: Transaction, keys: Collection[str]) -> set[str]:
    """Those of keys that were given out once under which nothing will ever be read again."""
    used = {key for statement in _IN_USE for key in tx.values(statement, keys=keys)}
    return set(keys) - used
