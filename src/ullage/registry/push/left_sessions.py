"""Sessions in memory whose process ends: an orderly stop gives them rows.

After a crash the next start gives back what they had, or another process does.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.errors import RegistryError
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.identity import is_complete
from ullage.registry.locks import attribute_locks
from ullage.registry.push.end_sessions import DOUBT, bury_reserved, forget_memory_session
from ullage.registry.queries import reserved_keys, uploads
from ullage.registry.queries.content.repositories import ensure_repository
from ullage.registry.queries.processes import DEAD_AFTER
from ullage.registry.queries.uploads import Upload
from ullage.registry.storage_keys import KEYS_AT_ONCE

log = logging.getLogger(__name__)


def end_forgotten_sessions(registry: Registry) -> int:
    """At a start: give back what a crash left of sessions that were in memory; how many had bytes.

    Only where this process alone owns the database.
    """
    keys = registry.read(reserved_keys.reserved_keys)
    failpoint("recover.after_claim")
    if not keys:
        return 0
    buried = _give_back(registry, keys, registry.now())
    failpoint("recover.after_row")
    return buried


def end_left_sessions(registry: Registry) -> int:
    """Give back what processes that died had in hand, on PostgreSQL; how many keys those were."""
    if registry.tickets is None:
        return 0
    now = registry.now()
    left = registry.read(lambda tx: reserved_keys.left_keys(tx, now, KEYS_AT_ONCE))
    dead = registry.silent.for_long({each.process for each in left}, now, DEAD_AFTER)
    keys = [each.key for each in left if each.process in dead]
    return _give_back(registry, keys, now) if keys else 0


def _give_back(registry: Registry, keys: Collection[str], now: datetime) -> int:
    """Cross out keys of sessions that have ended with their process; how many had bytes."""
    sizes = {key: registry.blobs.size(key) for key in keys}
    doubtful = {
        key: now + DOUBT
        for key, size in sizes.items()
        if size is not None and is_complete(registry.blobs, key, size)
    }
    return bury_reserved(registry, sizes, doubtful, now)


def keep_memory_sessions(registry: Registry) -> None:
    """At an orderly stop: sessions that were in memory get a row, so that they can go on.

    Keys that nothing was written under are given back, where other processes would have to.
    """
    if registry.process is not None and registry.memory_sessions is not None:
        keys = registry.memory_sessions.take_keys()
        registry.write(lambda tx: reserved_keys.release_all(tx, keys), freeing=True)
    for session in registry.memory_sessions.all() if registry.memory_sessions is not None else ():
        upload = session.upload
        try:
            with store_errors():
                if not session.began:
                    registry.blobs.begin(upload.key).close()
            registry.write(
                lambda tx, session=session: store_session(  # type: ignore[misc]
                    tx, session.name, session.upload, registry.now(), session.expires_at
                )
            )
            forget_memory_session(registry, upload)
        except RegistryError as error:
            # The next start gives its bytes back.
            log.warning("upload %s is forgotten: %s", upload.id, error.message)


def store_session(
    tx: Transaction,
    name: RepositoryName,
    upload: Upload,
    now: datetime,
    expires_at: datetime,
) -> Upload | None:
    """Give a session that was in memory its row; None if it has ended. Raises Locked."""
    if not reserved_keys.release(tx, upload.key):
        return None
    repository = ensure_repository(tx, name, now)
    attribute_locks.require_row_writable(repository)
    stored = dataclasses.replace(upload, repository_id=repository.id)
    uploads.insert_upload(tx, stored, now, expires_at)
    return stored
