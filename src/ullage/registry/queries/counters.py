"""Registry-wide totals, changed in the transaction that changes the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from ullage.database.schema import space
from ullage.database.statements import Statement
from ullage.database.transaction import Transaction

# Every total and what it counts; sizes in bytes.
COUNTERS = {
    "blob_count": "blobs stored",
    "blob_bytes": "their size",
    "manifest_count": "manifests, over all repositories",
    "manifest_bytes": "their size",
    "pending_bytes": "bytes of tombstones: deleted, not off the disk yet",
    "reclaimed_bytes": "bytes taken off the disk since the registry was made",
}
# Enough rows for a handful of processes to seldom meet in one.
_SLOTS = 16

_ADD = Statement.insert(
    space.counters,
    ("name", "slot", "value"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["name", "slot"],
        set_={"value": space.counters.c.value + insert.excluded.value},
    ),
    in_sets=True,
)


def add_to_counters(tx: Transaction, spread: int, **changes: int) -> None:
    """Add to totals. `spread` (a repository's id, say) picks the slot, so that writers seldom meet.

    To be called last in a transaction: slots are locked in name order, after everything else.
    """
    _add_to_slots(tx, {(name, _slot(tx, spread)): by for name, by in changes.items()})


def _slot(tx: Transaction, spread: int) -> int:
    return spread % _SLOTS if tx.dialect == "postgresql" else 0


def _add_to_slots(tx: Transaction, changes: Mapping[tuple[str, int], int]) -> None:
    """Add to totals in their slots."""
    tx.many(
        _ADD,
        [
            {"name": name, "slot": slot, "value": by}
            for (name, slot), by in sorted(changes.items())
            if by
        ],
    )


def count_blobs(tx: Transaction, sizes: Iterable[tuple[int, int]]) -> None:
    """New blobs, each with what spreads it and its size. To be called last, as add_to_counters."""
    changes: Counter[tuple[str, int]] = Counter()
    for spread, size in sizes:
        slot = _slot(tx, spread)
        changes["blob_count", slot] += 1
        changes["blob_bytes", slot] += size
    _add_to_slots(tx, changes)


_TOTALS = Statement(
    sa.select(space.counters.c.name, sa.func.sum(space.counters.c.value)).group_by(
        space.counters.c.name
    )
)


def totals(tx: Transaction) -> dict[str, int]:
    """Every counter's value."""
    found = {name: int(value) for name, value in tx.rows(_TOTALS)}
    return {name: found.get(name, 0) for name in COUNTERS}
