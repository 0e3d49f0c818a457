"""The registry-wide counters, and what they ought to be."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema import content, space
from ullage.database.statements import Statement
from ullage.database.transaction import Transaction
from ullage.registry.queries.counters import totals


def sum_of(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


_BLOBS, _MANIFESTS, _TOMBSTONES = (
    Statement(sa.select(sa.func.count(), sum_of(table.c.size)))
    for table in (content.blobs, content.manifests, space.tombstones)
)
_LINKS = Statement(sa.select(sa.func.count()).select_from(content.repo_blobs))


def stored_totals(tx: Transaction) -> dict[str, int]:
    """The registry-wide counters that can be counted again."""
    return {name: value for name, value in totals(tx).items() if name != "reclaimed_bytes"}


def counted_totals(tx: Transaction) -> dict[str, int]:
    """What they ought to be."""
    ((blob_count, blob_bytes),) = tx.rows(_BLOBS)
    ((manifest_count, manifest_bytes),) = tx.rows(_MANIFESTS)
    ((_, pending_bytes),) = tx.rows(_TOMBSTONES)
    return {
        "blob_count": int(blob_count),
        "blob_bytes": int(blob_bytes),
        "manifest_count": int(manifest_count),
        "manifest_bytes": int(manifest_bytes),
        "pending_bytes": int(pending_bytes),
    }


def count_links(tx: Transaction) -> int:
    return int(tx.value(_LINKS))
