"""What is in a container: blobs, and blocks that nobody has made a blob of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from ullage.blobs.azure.append import committed_size, uncommitted_size
from ullage.blobs.azure.container import Container
from ullage.blobs.azure.places import LABEL, key_of_object
from ullage.blobs.protocol import StoredObject


def list_container(container: Container, shard: int | None) -> Iterator[StoredObject]:
    """Everything below the prefix, or what belongs to a shard.

    What no key reaches is in the shard of its first two digits, if its place has any.
    """
    for found in container.entries("" if shard is None else f"{shard:02x}/"):
        place = container.place(found.name)
        if place == LABEL:
            continue
        stored = _stored(container, place, int(found.size or 0), found.last_modified)
        if stored is not None:
            yield stored


def _stored(
    container: Container, place: str, size: int, moment: datetime | None
) -> StoredObject | None:
    """None for what is gone by now."""
    committed = True
    if not size:
        # So is every upload in a listing: only its blocks can tell.
        known = committed_size(container, place)
        committed = known is not None
        if known is None:
            known = uncommitted_size(container, place)
        if known is None:
            return None
        size = known
    modified = _by_our_clock(container, moment)
    key = key_of_object(place)
    if key is None:
        return StoredObject(place, size, modified, committed, "not a storage key")
    return StoredObject(key, size, modified, committed)


def _by_our_clock(container: Container, moment: datetime | None) -> float:
    """Ages are told by one clock: the service's, as its answers say what time it is there.

    Of an upload it need not say one. Then it is new: what nobody names and has no age stays, and
    the service itself forgets blocks after a week.
    """
    if moment is None:
        return time.time()
    return moment.timestamp() + container.ahead
