"""Stored bytes that are missing or others: found by a pull, a push, a check or the scrub.

What finds them puts the blob in quarantine at once: clients are told that it is not there, the next
push of it stores its bytes anew, and that heals every image that needs it. docs/design/damage.md
section 3.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from ullage.oci.digest import Digest
from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry
from ullage.registry.identity import is_own_store
from ullage.registry.queries import quarantine as queries

log = logging.getLogger(__name__)


def quarantine_blob(registry: Registry, digest: Digest, storage_key: str, what: str) -> bool:
    """Stop serving a blob whose bytes were found wrong. False if it stays as it is.

    It does if its row has changed since, if the store is not this registry's now (a disk that came
    off would have everything pushed again), or if the database takes no change.
    """
    if not is_own_store(registry):
        log.error("blob %s: %s; the storage is not this registry's now", digest, what)
        return False
    now = registry.now()
    try:
        done = registry.write(
            lambda tx: queries.quarantine(tx, digest, storage_key, now), freeing=True
        )
    except RegistryError as error:
        log.error("blob %s: %s; quarantine failed: %s", digest, what, error.message)
        return False
    if done:
        log.error(
            "blob %s is quarantined: %s (storage key %s); the next push of it replaces it, "
            "`ullage check` names the images that need it",
            digest,
            what,
            storage_key,
        )
    return done


class LostCopy(NamedTuple):
    """The storage key of a copy that is not there as it should be, and what was found instead."""

    storage_key: str
    what: str


def lost_copy(registry: Registry, digest: Digest, size: int) -> LostCopy | None:
    """A blob's copy that is not there with all its `size` bytes.

    None if it is, or if there is none yet. Asked by a push that holds a good copy, which takes the
    place of one that cannot be found, for whatever reason: that is always safe.
    """
    copy = registry.read(lambda tx: queries.find_copy(tx, digest))
    if copy is None:
        return None
    try:
        there = registry.blobs.size(copy.storage_key)
    except OSError as error:
        log.error("blob %s: its stored bytes cannot be seen: %s", digest, error)
        return LostCopy(copy.storage_key, "could not be seen")
    if there == size:
        return None
    found = "was missing" if there is None else f"had {there} bytes instead of {size}"
    return LostCopy(copy.storage_key, found)


def log_replaced(digest: Digest, lost: LostCopy) -> None:
    """Tell the operator that a push has healed a blob, so that damage does not go by unseen."""
    log.warning("blob %s %s in the storage; this push replaced it", digest, lost.what)
