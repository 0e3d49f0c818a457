"""What lies in the store, beside the rows that name it."""

from __future__ import annotations

from collections.abc import Sequence

from ullage.blobs.protocol import BlobStore, StoredObject
from ullage.database.transaction import Transaction
from ullage.registry.context import Registry
from ullage.registry.queries.reclaim import named_places
from ullage.registry.queries.reclaim.tombstones import known_keys


def stored_bytes(blobs: BlobStore, key: str, state: str) -> int | None:
    """Bytes in the store under a session's key and its state; None where there is nothing."""
    sizes = [blobs.size(key), *(blobs.size(key, place) for place in blobs.names(state))]
    there = [size for size in sizes if size is not None]
    return sum(there) if there else None


def unnamed(registry: Registry, listed: Sequence[StoredObject]) -> list[StoredObject]:
    """Those of a listing that no row names and that are still there.

    Right while others push and delete: a row names its bytes before they are there and until they
    are gone, so what no row names after it was listed, and is still there, never had one.
    """
    unknown = registry.snapshot(lambda tx: without_row(tx, registry, listed))
    return [found for found in unknown if is_there(registry.blobs, found)]


def is_there(blobs: BlobStore, found: StoredObject) -> bool:
    """Whether an entry of a listing is still in the store."""
    return blobs.size(found.key, found.place) is not None


def without_row(
    tx: Transaction, registry: Registry, listed: Sequence[StoredObject]
) -> list[StoredObject]:
    """Those of a listing that no row names, in one moment."""
    keys = known_keys(tx, {found.key for found in listed if found.place is None})
    parts = {(found.key, found.place) for found in listed if found.place is not None}
    named = named_places.named(tx, parts, registry.blobs.names, registry.now()) if parts else set()
    return [
        found
        for found in listed
        if (found.key not in keys if found.place is None else (found.key, found.place) not in named)
    ]
