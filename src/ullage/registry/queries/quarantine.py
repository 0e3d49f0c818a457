"""Blobs whose stored bytes are not what was pushed: not served, and replaced by the next push."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest

_blobs = content.blobs

# The bytes under a key never change, so a judgement is of what the row still names.
_THIS_COPY = sa.and_(_blobs.c.digest == bindparam("of"), _blobs.c.storage_key == bindparam("copy"))
_QUARANTINE = Statement(
    _blobs.update()
    .where(_THIS_COPY, _blobs.c.damaged_at.is_(None))
    .values(damaged_at=bindparam("at"))
)
_LIFT = Statement(
    _blobs.update().where(_THIS_COPY, _blobs.c.damaged_at.is_not(None)).values(damaged_at=None)
)


def quarantine(tx: Transaction, digest: str, storage_key: str, now: datetime) -> bool:
    """Stop serving a blob, so that a push that has it uploads it again. False if it has changed."""
    return tx.change(_QUARANTINE, of=digest, copy=storage_key, at=to_micros(now)) == 1


def lift_quarantine(tx: Transaction, digest: str, storage_key: str) -> bool:
    """The bytes are right after all. False if the blob has changed."""
    return tx.change(_LIFT, of=digest, copy=storage_key) == 1


class StoredCopy(NamedTuple):
    """Where the bytes of a blob are, and how many its row says there are."""

    digest: Digest
    storage_key: str
    size: int


_COPY_COLUMNS = (_blobs.c.digest, _blobs.c.storage_key, _blobs.c.size)
_COPIES_AFTER = Statement(
    sa.select(*_COPY_COLUMNS)
    .where(_blobs.c.digest > bindparam("after"), _blobs.c.damaged_at.is_(None))
    .order_by(_blobs.c.digest)
    .limit(bindparam("limit", type_=sa.Integer))
)


def copies_after(tx: Transaction, after: str, limit: int) -> list[StoredCopy]:
    """Some of those that follow a digest, in order; after the empty one, the first."""
    rows = tx.rows(_COPIES_AFTER, after=after, limit=limit)
    return [StoredCopy(Digest(digest), key, size) for digest, key, size in rows]
