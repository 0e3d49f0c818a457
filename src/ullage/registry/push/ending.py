"""How upload sessions leave off: ended for good, or out of memory into a row of their own.

Whatever was written under a session's key is buried in the transaction that ends the session. One
that was in memory ends with its process: an orderly stop gives it a row, and after a crash the next
start gives back what it had.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.errors import RegistryError
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry, store_errors
from ullage.registry.locks import attribute_locks as locks
from ullage.registry.push.sessions_in_memory import FreshSessions
from ullage.registry.queries import reserved_keys as reserved
from ullage.registry.queries import uploads
from ullage.registry.queries.content.repositories import drop_repository_if_empty, ensure_repository
from ullage.registry.queries.reclaim import tombstones as tombstones_queries
from ullage.registry.queries.uploads import Upload

log = logging.getLogger(__name__)


def end_upload(registry: Registry, upload: Upload, *, only_if_expired: bool = False) -> bool:
    """End a session for whatever reason and bury its bytes; False if it had ended already."""
    if upload.repository_id is None:
        return _end_fresh(registry, upload, only_if_expired=only_if_expired)
    repository_id = upload.repository_id
    size = registry.blobs.size(upload.key) or 0
    now = registry.now()

    def end(tx: Transaction) -> bool:
        if only_if_expired:
            ended = uploads.delete_expired_upload(tx, upload.id, now)
        else:
            ended = uploads.delete_upload(tx, upload.id)
        if not ended:
            return False
        drop_repository_if_empty(tx, repository_id)
        tombstones_queries.bury(tx, repository_id, upload.key, size, now)
        return True

    ended = registry.write(end, freeing=True)
    failpoint("cancel.after_row")
    registry.hashers.forget(upload.id)
    if ended:
        registry.wake()
    return ended


def _end_fresh(registry: Registry, upload: Upload, *, only_if_expired: bool) -> bool:
    fresh, now = fresh_of(registry), registry.now()
    session = fresh.remove(upload.id, expired_at=now if only_if_expired else None)
    if session is None:
        return False
    registry.hashers.forget(upload.id)
    if not session.began:
        # Nothing was ever written under it.
        fresh.add_keys([upload.key])
        return True
    try:
        _bury_reserved(registry, {upload.key: registry.blobs.size(upload.key)}, now)
    except BaseException:
        fresh.add(session)
        raise
    failpoint("cancel.after_row")
    registry.wake()
    return True


def _bury_reserved(registry: Registry, sizes: Mapping[str, int | None], now: datetime) -> int:
    """Cross reserved keys out, with tombstones for what is stored under them; how many those are.

    Whoever calls this knows that nobody will write there any more: `sizes` (bytes, None where
    nothing is) were asked for since.
    """

    def bury(tx: Transaction) -> int:
        buried = 0
        for key, size in sizes.items():
            if reserved.release(tx, key) and size is not None:
                tombstones_queries.bury(tx, 0, key, size, now)
                buried += 1
        return buried

    return registry.write(bury, freeing=True)


def end_forgotten_sessions(registry: Registry) -> int:
    """At a start: give back what a crash left of sessions that were in memory; how many had bytes.

    Only where this process alone owns the database.
    """
    keys = registry.read(reserved.reserved_keys)
    failpoint("recover.after_claim")
    if not keys:
        return 0
    buried = _bury_reserved(
        registry, {key: registry.blobs.size(key) for key in keys}, registry.now()
    )
    failpoint("recover.after_row")
    return buried


def keep_fresh_sessions(registry: Registry) -> None:
    """At an orderly stop: sessions that were in memory get a row, so that they can go on."""
    for session in registry.fresh.all() if registry.fresh is not None else ():
        upload = session.upload
        try:
            with store_errors():
                if not session.began:
                    registry.blobs.create(upload.key)
            registry.write(
                lambda tx, session=session: store_session(  # type: ignore[misc]
                    tx, session.name, session.upload, 0, registry.now(), session.expires_at
                )
            )
            forget_fresh(registry, upload)
        except RegistryError as error:
            # The next start gives its bytes back.
            log.warning("upload %s is forgotten: %s", upload.id, error.message)


def store_session(
    tx: Transaction,
    name: RepositoryName,
    upload: Upload,
    offset: int,
    now: datetime,
    expires_at: datetime,
) -> Upload | None:
    """Give a session that was in memory its row; None if it has ended. Raises Locked."""
    if not reserved.release(tx, upload.key):
        return None
    repository = ensure_repository(tx, name, now)
    locks.require_held_writable(repository)
    stored = dataclasses.replace(upload, repository_id=repository.id, offset=offset)
    uploads.insert_upload(tx, stored, now, expires_at)
    return stored


def forget_fresh(registry: Registry, upload: Upload) -> None:
    """The database knows more of this session now than memory does."""
    if upload.repository_id is None:
        fresh_of(registry).remove(upload.id)


def fresh_of(registry: Registry) -> FreshSessions:
    """Where a session without a row is."""
    assert registry.fresh is not None
    return registry.fresh
