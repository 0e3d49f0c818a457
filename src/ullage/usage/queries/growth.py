"""How fast the registry grows, and what of it is damaged: one pass over the blobs."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction

_blobs = content.blobs
_SINCE = Statement(
    sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)).where(
        _blobs.c.created_at >= bindparam("since")
    )
)
_DAMAGED = Statement(
    sa.select(sa.func.count()).select_from(_blobs).where(_blobs.c.damaged_at.is_not(None))
)


def bytes_since(tx: Transaction, since: datetime) -> int:
    """Bytes of blobs that came since and are still there."""
    return int(tx.value(_SINCE, since=to_micros(since)))


def damaged_blobs(tx: Transaction) -> int:
    """How many blobs are not served because their bytes were found wrong."""
    return int(tx.value(_DAMAGED))
