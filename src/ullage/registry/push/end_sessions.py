"""Ending upload sessions: whatever was written under a session's key is buried with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.identity import is_complete
from ullage.registry.push.sessions_in_memory import MemorySessions
from ullage.registry.queries import reserved_keys, uploads
from ullage.registry.queries.content.repositories import drop_repository_if_empty
from ullage.registry.queries.reclaim import tombstones
from ullage.registry.queries.uploads import Upload
from ullage.registry.stored_objects import stored_bytes

# Bytes that a crash left complete, without a row that says so, are kept for so long: it may be the
# database that is missing something.
DOUBT = timedelta(days=1)


def end_upload(
    registry: Registry,
    upload: Upload,
    *,
    only_if_expired: bool = False,
    only_if_empty: bool = False,
    only_if_idle: datetime | None = None,
    record: Callable[[Transaction], None] | None = None,
) -> bool:
    """End a session for whatever reason and bury its bytes; False if it had ended already.

    `only_if_idle`: unless bytes have come since it was to last until then.
    `record` is done in the same transaction, if it had not ended.
    """
    if upload.repository_id is None:
        lasts_until = registry.now() if only_if_expired else only_if_idle
        return _end_in_memory(
            registry, upload, lasts_until, only_if_empty=only_if_empty, record=record
        )
    with store_errors():
        size = stored_bytes(registry.blobs, upload.key, upload.state) or 0
        doubtful = only_if_expired and _is_complete(registry, upload.key)
    now = registry.now()
    due_at = now + DOUBT if doubtful else now

    def end(tx: Transaction) -> bool:
        # By now it may be another one of that name.
        if only_if_expired:
            ended = uploads.delete_expired_upload(tx, upload.id, now)
        elif only_if_empty:
            ended = uploads.delete_empty_upload(tx, upload.id, now)
        elif only_if_idle is not None:
            ended = uploads.delete_idle_upload(tx, upload.id, only_if_idle, now)
        else:
            ended = uploads.delete_upload(tx, upload.id)
        if ended is None:
            return False
        drop_repository_if_empty(tx, ended.repository_id)
        tombstones.bury(tx, ended.repository_id, upload.key, size, due_at, state=ended.state)
        if record is not None:
            record(tx)
        return True

    ended = registry.write(end, freeing=True)
    failpoint("cancel.after_row")
    registry.hashers.forget(upload.id)
    if ended:
        registry.wake()
    return ended


def _is_complete(registry: Registry, key: str) -> bool:
    return is_complete(registry.blobs, key, registry.blobs.size(key))


def bury_leftover(tx: Transaction, registry: Registry, before: str, now: str | None) -> None:
    """Leave a tombstone for what one state of a session names, and the next one does not."""
    leftover = registry.blobs.leftover(before, now)
    if leftover is not None:
        # Under a name of its own: the session's key may still be in use.
        key, due_at = registry.fresh_key(), registry.now()
        tombstones.bury(tx, 0, key, leftover.size, due_at, state=leftover.state)


def end_uploads_of(registry: Registry, subject: str) -> int:
    """End all sessions of an account that may not go on with them; how many those were."""
    found = registry.read(lambda tx: uploads.uploads_of_account(tx, subject))
    if registry.memory_sessions is not None:
        sessions = registry.memory_sessions.all()
        found += [each.upload for each in sessions if each.upload.subject == subject]
    return sum(end_upload(registry, upload) for upload in found)


def _end_in_memory(
    registry: Registry,
    upload: Upload,
    lasts_until: datetime | None,
    *,
    only_if_empty: bool,
    record: Callable[[Transaction], None] | None,
) -> bool:
    """As end_upload; with `lasts_until`, unless it lasts longer by now."""
    memory, now = memory_sessions_of(registry), registry.now()
    if only_if_empty:
        session = memory.remove_empty(upload.id)
    else:
        session = memory.remove(upload.id, expired_at=lasts_until)
    if session is None:
        return False
    registry.hashers.forget(upload.id)
    if not session.began:
        # Nothing was ever written under it.
        memory.add_keys([upload.key])
        if record is not None:
            registry.write(record, freeing=True)
        return True
    try:
        state = session.upload.state
        with store_errors():
            sizes = {upload.key: stored_bytes(registry.blobs, upload.key, state)}
        bury_reserved(registry, sizes, {}, now, record, state=state)
    except BaseException:
        memory.add(session)
        raise
    failpoint("cancel.after_row")
    registry.wake()
    return True


def bury_reserved(
    registry: Registry,
    sizes: Mapping[str, int | None],
    due_later: Mapping[str, datetime],
    now: datetime,
    record: Callable[[Transaction], None] | None = None,
    *,
    state: str = "",
) -> int:
    """Cross reserved keys out, with tombstones for what is stored under them; how many those are.

    The caller knows that nothing will be written there any more, and has asked for `sizes` (bytes,
    None where nothing is) since.
    They are due now, but for those that are `due_later`. `state` is of the one session that ends.
    """

    def bury(tx: Transaction) -> int:
        buried = 0
        for key, size in sizes.items():
            if reserved_keys.release(tx, key) and size is not None:
                tombstones.bury(tx, 0, key, size, due_later.get(key, now), state=state)
                buried += 1
        if record is not None:
            record(tx)
        return buried

    return registry.write(bury, freeing=True)


def forget_memory_session(registry: Registry, upload: Upload) -> None:
    """The database knows more of this session now than memory does."""
    if upload.repository_id is None:
        memory_sessions_of(registry).remove(upload.id)


def memory_sessions_of(registry: Registry) -> MemorySessions:
    """Where a session without a row is."""
    assert registry.memory_sessions is not None
    return registry.memory_sessions
