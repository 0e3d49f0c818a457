"""Bytes in the store that no row names: reported, and erased only where nothing can be lost.

Garbage is never inferred from a listing. An object goes only if this very database gave out its
key (registry/storage_keys.py), no row names it any more, it is old, and such objects are few: a
database that was lost, exchanged or copied back knows little of a full store, and must not empty
it.
docs/design/damage.md section 2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from ullage.blobs.protocol import StoredObject
from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.registry.context import Registry
from ullage.registry.identity import Own, own
from ullage.registry.queries.reclaim.tombstones import bury
from ullage.registry.stored_objects import unnamed, without_row

log = logging.getLogger(__name__)

# An unknown key in the store is left alone for this long. Its row may simply be younger than the
# look at the database; and nobody needs its room in a hurry.
UNKNOWN_KEY_GRACE = timedelta(hours=24)
# One comparison erases no more than these; the next one goes on.
MOST_AT_ONCE = 10_000


@dataclass(slots=True)
class Comparison:
    """What a comparison found; sizes in bytes."""

    objects: int = 0
    bytes: int = 0
    # Named by no row, old enough, and given out by this database; the first of them themselves.
    unknown: int = 0
    unknown_bytes: int = 0
    first_unknown: list[StoredObject] = field(default_factory=list)
    # Named by no row, and written by another database or a lost state of this one.
    foreign: int = 0
    foreign_bytes: int = 0


def reconcile(registry: Registry, objects: Iterable[StoredObject], *, batch: int = 500) -> int:
    """Bury what the store holds and no row names, if nothing can be lost by it; how many objects.

    `objects` is a listing of the store, taken as slowly as the caller likes. A key is unknown only
    if no blob, session or tombstone names it in one transaction *after* it was listed.
    """
    found = Comparison()
    proofs = registry.read(own)
    listing = iter(objects)
    while some := list(islice(listing, batch)):
        _compare(registry, proofs, [each for each in some if each.problem is None], found)
    if found.foreign:
        log.warning(
            "the storage holds %d objects (%d bytes) that this database never wrote; they are "
            "kept, `ullage check` lists them",
            found.foreign,
            found.foreign_bytes,
        )
    refusal = _why_not(registry, proofs, found)
    if refusal is not None:
        log.warning(
            "the storage holds %d objects (%d bytes) that no row names; they are kept: %s",
            found.unknown,
            found.unknown_bytes,
            refusal,
        )
        return 0
    buried = _bury(registry, found.first_unknown) if found.unknown else 0
    if buried:
        log.warning("%d unknown objects in the store will be erased", buried)
        registry.wake()
    return buried


def _compare(
    registry: Registry, proofs: Own, objects: list[StoredObject], found: Comparison
) -> None:
    found.objects += len(objects)
    found.bytes += sum(each.size for each in objects)
    old_before = registry.now() - UNKNOWN_KEY_GRACE
    old = [each for each in objects if datetime.fromtimestamp(each.modified, UTC) < old_before]
    for each in unnamed(registry, old):
        if proofs.wrote(each.key):
            found.unknown += 1
            found.unknown_bytes += each.size
            if len(found.first_unknown) < MOST_AT_ONCE:
                found.first_unknown.append(each)
        else:
            found.foreign += 1
            found.foreign_bytes += each.size


def _why_not(registry: Registry, proofs: Own, found: Comparison) -> str | None:
    """Why nothing may be erased now; None if it may."""
    if not found.unknown:
        return None
    if proofs.just_adopted(registry.now()):
        return "the database took over the storage less than a day ago"
    percent = registry.limits.max_unknown_percent
    too_many = found.unknown * 100 > found.objects * percent
    too_large = found.unknown_bytes * 100 > found.bytes * percent
    if too_many or too_large:
        return (
            f"that is more than {percent} % of it; if the database is the right one, "
            "`ullage check --repair` erases them"
        )
    return None


def _bury(registry: Registry, unknown: list[StoredObject]) -> int:
    now = registry.now()
    objects = [found for found in unknown if found.place is None]
    failpoint("reconcile.before_tombstone")

    def bury_all(tx: Transaction) -> int:
        left = without_row(tx, registry, objects)
        for found in left:
            log.warning("unknown bytes in the store: %s (%d bytes)", found.key, found.size)
            bury(tx, 0, found.key, found.size, now)
        return len(left)

    buried = registry.write(bury_all, freeing=True) if objects else 0
    return buried + _drop(registry, [found for found in unknown if found.place is not None])


def _drop(registry: Registry, unknown: list[StoredObject]) -> int:
    """Remove parts that no session names, at once: no tombstone could say where they are."""
    left = registry.snapshot(lambda tx: without_row(tx, registry, unknown))
    for found in left:
        log.warning(
            "parts of no upload in the store: %s (%d bytes, %s)",
            found.key,
            found.size,
            found.place,
        )
    if left:
        registry.blobs.drop(left)
    return len(left)
