"""The registry-wide counters, and what they ought to be."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema import content, space
from ullage.database.transaction import Transaction
from ullage.registry.queries.counters import totals


def stored_totals(tx: Transaction) -> dict[str, int]:
    """The registry-wide counters that can be counted again."""
    return {name: value for name, value in totals(tx).items() if name != "reclaimed_bytes"}


def counted_totals(tx: Transaction) -> dict[str, int]:
    """What they ought to be."""
    blob_count, blob_bytes = _count_and_sum(tx, content.blobs.c.size)
    manifest_count, manifest_bytes = _count_and_sum(tx, content.manifests.c.size)
    _, pending_bytes = _count_and_sum(tx, space.tombstones.c.size)
    return {
        "blob_count": blob_count,
        "blob_bytes": blob_bytes,
        "manifest_count": manifest_count,
        "manifest_bytes": manifest_bytes,
        "pending_bytes": pending_bytes,
    }


def _count_and_sum(tx: Transaction, size: sa.Column[int]) -> tuple[int, int]:
    count, total = tx.execute(sa.select(sa.func.count(), sum_of(size))).one()
    return int(count), int(total)


def sum_of(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def count_links(tx: Transaction) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(content.repo_blobs)).scalar_one())
