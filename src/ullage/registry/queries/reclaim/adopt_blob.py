"""Bytes that come in become a blob, unless it is stored already: the copy not needed is buried."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.counters import add_to_counters
from ullage.registry.queries.reclaim.signed_reads import keep_signed
from ullage.registry.queries.reclaim.tombstones import bury

_blobs = content.blobs


_INSERT_BLOB = Statement.insert(
    _blobs,
    ("digest", "size", "storage_key", "repository_count", "created_at"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["digest"]),
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


def adopt_blob(
    tx: Transaction,
    repository_id: int,
    digest: Digest,
    size: int,
    key: str,
    *,
    now: datetime,
    signed_read: timedelta,
    seen: str | None = None,
    lost: bool = False,
) -> Adopted:
    """Make the bytes under `key` the blob `digest`, unless it is stored already.

    The caller links it next; a new one is counted as linked once from the beginning. Whichever copy
    is not needed gets a tombstone: the newcomer, or the old one if it was damaged or was found not
    to be there (`seen`, its storage key, and `lost`). Nothing reads it any more but URLs of
    `signed_read` at most (signed_reads.py).
    Raises CopyUnseen if there is another copy than `seen`.
    """
    new = {"digest": digest, "size": size, "storage_key": key, "repository_count": 1}
    current = None
    while current is None:
        if tx.change(_INSERT_BLOB, **new, created_at=to_micros(now)):
            add_to_counters(tx, repository_id, blob_count=1, blob_bytes=size)
            return Adopted(key, new=True)
        current = tx.row(_CURRENT_BLOB, digest=digest)
        # None: it was condemned between these two statements, and the way is free now.
    current_key, damaged_at, current_size = current
    if damaged_at is None and current_key != seen:
        raise CopyUnseen(str(current_key))
    if damaged_at is None and not lost:
        bury(tx, repository_id, key, size, now)
        return Adopted(str(current_key), new=False)
    tx.change(_REPLACE_BYTES, digest=digest, storage_key=key)
    bury(tx, repository_id, current_key, current_size, now, digest)
    keep_signed(tx, [current_key], now, signed_read)
    return Adopted(key, new=False)
