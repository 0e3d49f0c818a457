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


class SeenCopy(NamedTuple):
    """A blob's stored copy that was looked at: its storage key, and what is wrong with it."""

    storage_key: str
    problem: str | None


def look_at_copy(registry: Registry, digest: Digest, storage_key: str, size: int) -> SeenCopy:
    """Look whether a blob's copy is there with all its `size` bytes.

    Asked by a push that holds a good copy, which takes the place of one that cannot be found, for
    whatever reason: that is always safe.
    """
    try:
        there = registry.blobs.size(storage_key)
    except OSError as error:
        log.error("blob %s: its stored bytes cannot be seen: %s", digest, error)
        return SeenCopy(storage_key, "could not be seen")
    if there == size:
        return SeenCopy(storage_key, None)
    found = "was missing" if there is None else f"had {there} bytes instead of {size}"
    return SeenCopy(storage_key, found)


def log_replaced(digest: Digest, problem: str) -> None:
    """Tell the operator that a push has healed a blob, so that damage does not go by unseen."""
    log.warning("blob %s %s in the storage; this push replaced it", digest, problem)
