"""What must be true of a registry at any moment between requests and pieces of work."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.check.queries import other_rows, rows, totals
from ullage.check.queries.paging import After
from ullage.database.schema import content, space
from ullage.database.transaction import Transaction
from ullage.registry.context import Registry
from ullage.registry.queries.reserved_keys import reserved_keys
from ullage.registry.stored_objects import stored_bytes, unnamed

_EVERYTHING: After[int] = After(None, 1_000_000)
_EVERY_NAME: After[str] = After(None, 1_000_000)


def assert_sound(registry: Registry) -> None:
    """The invariants of reliability.md that are true at any time, by number.

    What the registry keeps beside the facts (counters, numbers of references) equals a recount, and
    the database's view of the store equals the store, to the byte.
    """
    registry.snapshot(_assert_counters)
    registry.snapshot(_assert_nothing_forgotten)
    _assert_store(registry)


def _assert_counters(tx: Transaction) -> None:
    """I14: counters equal what there is."""
    assert totals.stored_totals(tx) == totals.counted_totals(tx)
    for repository in rows.repositories(tx, _EVERYTHING):
        assert repository.stored == repository.counted, repository.name
    for blob in rows.blobs(tx, _EVERY_NAME):
        assert blob.stored_references == blob.counted_references, blob.key
        assert blob.stored_links == blob.counted_links, blob.key


def _assert_nothing_forgotten(tx: Transaction) -> None:
    """I9: whatever nothing needs goes at once, or a review will look at it again."""
    assert [blob.key for blob in rows.blobs(tx, _EVERY_NAME) if not blob.linked] == []
    assert other_rows.forgotten_links(tx, After(None, 1000)) == []
    assert other_rows.odd_kept(tx, After(None, 1000)) == []
    assert other_rows.empty_operations(tx, After(None, 1000)) == []
    assert [each.key for each in rows.repositories(tx, _EVERYTHING) if each.name is None] == []


def _assert_store(registry: Registry) -> None:
    """I8, I12, I15, I17: every key in the store belongs to one row, which knows its size."""
    blobs, uploads, tombstones = registry.snapshot(_keys)
    reserved = set(registry.snapshot(reserved_keys))
    assert not blobs.keys() & uploads.keys()
    assert not tombstones.keys() & (blobs.keys() | uploads.keys())
    assert not reserved & (blobs.keys() | uploads.keys() | tombstones.keys())
    listed = list(registry.blobs.list())
    there = {found.key: found.size for found in listed if found.place is None}
    assert there.keys() <= blobs.keys() | uploads.keys() | tombstones.keys() | reserved
    # I34: so do the parts of what is not committed yet.
    assert unnamed(registry, [found for found in listed if found.place is not None]) == []
    for key, size in blobs.items():
        assert there.get(key) == size
    states = registry.snapshot(_states)
    for key, size in tombstones.items():
        # An erasing that was cut short leaves a tombstone without bytes.
        assert stored_bytes(registry.blobs, key, states[key]) in (None, size)
    for key, offset in uploads.items():
        assert (stored_bytes(registry.blobs, key, states[key]) or 0) >= offset


def _states(tx: Transaction) -> dict[str, str]:
    tables = (space.uploads, space.tombstones)
    selects = [sa.select(*table.c["storage_key", "state"]) for table in tables]
    return {key: state for each in selects for key, state in tx.execute_directly(each)}


def _keys(tx: Transaction) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    sizes = (content.blobs.c.size, space.uploads.c.offset, space.tombstones.c.size)
    blobs, uploads, tombstones = (
        dict(map(tuple, tx.execute_directly(sa.select(column.table.c.storage_key, column))))
        for column in sizes
    )
    return blobs, uploads, tombstones
