"""Bytes that come in become a blob, unless it is stored already: the copy not needed is buried."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.reclaim.signed_reads import keep_signed
from ullage.registry.queries.reclaim.tombstones import bury

_blobs = content.blobs


_INSERT_BLOB = Statement.insert(
    _blobs,
    ("digest", "size", "storage_key", "repository_count", "created_at"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["digest"]).returning(
        _blobs.c.digest
    ),
    in_sets=True,
)
_CURRENT_BLOB = Statement(
    sa.select(*_blobs.c["storage_key", "damaged_at", "size"])
    .where(given(_blobs, "digest"))
    .with_for_update(key_share=True)
)
_REPLACE_BYTES = Statement(
    _blobs.update()
    .where(given(_blobs, "digest"))
    .values(storage_key=bindparam("storage_key"), damaged_at=None)
)


class Copy(NamedTuple):
    """Bytes under `key` that are the blob `digest`, on its way into a repository.

    `seen`: the storage key of another copy that was looked at, and is `lost` or not.
    """

    repository_id: int
    digest: Digest
    size: int
    key: str
    seen: str | None = None
    lost: bool = False


class Adopted(NamedTuple):
    """Where the blob's bytes are; whether it is new, and the link to come counted already."""

    key: str
    new: bool


class CopyUnseen(Exception):
    """There is a copy of the blob already, and the store has not been asked whether it is sound.

    No store is asked inside a transaction: the caller takes this one back, looks at `storage_key`
    and tries again with what it has seen. Most pushes meet no copy, and pay nothing for this.
    """

    def __init__(self, storage_key: str) -> None:
        super().__init__(storage_key)
        self.storage_key = storage_key


def adopt_blobs(
    tx: Transaction, copies: Sequence[Copy], *, now: datetime, signed_read: timedelta
) -> dict[Digest, Adopted]:
    """Make each copy, of which no two are of one blob, that blob, unless it is stored already.

    The caller links them next; a new one is counted as linked once from the beginning, and is to be
    counted in the totals (counters.py: count_blobs). Of the others whichever copy is not needed
    gets a tombstone: the newcomer, or the old one if it was damaged or lost. Nothing reads it any
    more but URLs of `signed_read` at most (signed_reads.py).
    Raises CopyUnseen if there is another copy than the one that was seen.
    """
    in_order = sorted(copies, key=lambda copy: copy.digest)
    new = _insert(tx, in_order, now)
    # Those of others are locked when all new ones are there, as everywhere in digest order: what
    # has locked a blob that there is never waits for one that is being made.
    there = {
        copy.digest: _adopt_again(tx, copy, now, signed_read)
        for copy in in_order
        if copy.digest not in new
    }
    return {copy.digest: there.get(copy.digest) or Adopted(copy.key, new=True) for copy in in_order}


def _insert(tx: Transaction, copies: Sequence[Copy], now: datetime) -> set[str]:
    """The digests of those that there were none of."""
    rows = [
        {
            "digest": copy.digest,
            "size": copy.size,
            "storage_key": copy.key,
            "repository_count": 1,
            "created_at": to_micros(now),
        }
        for copy in copies
    ]
    return {digest for (digest,) in tx.rows_of_many(_INSERT_BLOB, rows)}


def _adopt_again(tx: Transaction, copy: Copy, now: datetime, signed_read: timedelta) -> Adopted:
    while (current := tx.row(_CURRENT_BLOB, digest=copy.digest)) is None:
        # It was condemned between these two statements, and the way is free now.
        if _insert(tx, [copy], now):
            return Adopted(copy.key, new=True)
    current_key, damaged_at, current_size = current
    if damaged_at is None and current_key != copy.seen:
        raise CopyUnseen(str(current_key))
    if damaged_at is None and not copy.lost:
        bury(tx, copy.repository_id, copy.key, copy.size, now)
        return Adopted(str(current_key), new=False)
    tx.change(_REPLACE_BYTES, digest=copy.digest, storage_key=copy.key)
    bury(tx, copy.repository_id, current_key, current_size, now, copy.digest)
    keep_signed(tx, [current_key], now, signed_read)
    return Adopted(copy.key, new=False)
