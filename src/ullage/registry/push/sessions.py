"""Upload sessions without their bytes: opened, looked at, cancelled.

Where one process owns the database a session starts in its memory (registry/push/sessions_in_memory.py), elsewhere as
a row.
"""

from __future__ import annotations

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import ALGORITHMS
from ullage.oci.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    RangeInvalid,
    StorageFull,
    TooManyRequests,
)
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Caller, Registry, store_errors
from ullage.registry.locks import attribute_locks as locks
from ullage.registry.push.ending import end_upload
from ullage.registry.push.sessions_in_memory import FreshSession, FreshSessions
from ullage.registry.queries import reserved_keys as reserved
from ullage.registry.queries import uploads
from ullage.registry.queries.content.repositories import ensure_repository
from ullage.registry.queries.uploads import Upload

__all__ = ["Upload"]

# Storage keys are reserved this many at a time: one commit for as many uploads.
KEYS_AT_ONCE = 256


def start_upload(
    registry: Registry,
    name: RepositoryName,
    caller: Caller,
    algorithm: str = "sha256",
) -> Upload:
    """Open an upload session in a repository, which need not exist yet.

    `algorithm` is what the client says it will name the blob by; another one costs a second look at
    the bytes.
    Raises TooManyRequests, StorageFull, Locked, DigestInvalid for an algorithm nobody knows.
    """
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(
            {"algorithm": algorithm}, f"digest algorithm: expected one of {', '.join(ALGORITHMS)}"
        )
    _require_room(registry)
    if registry.fresh is not None:
        return _start_fresh(registry, registry.fresh, name, caller, algorithm)
    return _start_stored(registry, name, caller, algorithm)


def starts_at_once(registry: Registry) -> bool:
    """Whether start_upload would not have to wait for a disk."""
    return registry.fresh is not None and registry.fresh.has_key


def _start_fresh(
    registry: Registry, fresh: FreshSessions, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session in memory; the database knows of nothing but its key (registry/push/sessions_in_memory.py)."""

    def look(tx: Transaction) -> tuple[int, bool]:
        return uploads.count_uploads_for(tx, name)

    stored, writable = registry.recall(("uploading", name), look, lambda _: 0)
    locks.require(name, writable=writable)
    _require_few(registry, stored + len(fresh))
    key = fresh.take_key() or _reserve_keys(registry, fresh)
    upload = Upload(registry.fresh_key(), None, caller.subject, key, algorithm, 0)
    fresh.add(FreshSession(upload, name, registry.now() + registry.limits.upload_idle))
    return upload


def _reserve_keys(registry: Registry, fresh: FreshSessions) -> str:
    """One storage key for now, and many for later, that a crash cannot hide."""
    first, *others = (registry.fresh_key() for _ in range(KEYS_AT_ONCE))
    registry.write(lambda tx: reserved.reserve(tx, (first, *others)))
    failpoint("upload.reserve.after_row")
    fresh.add_keys(others)
    return first


def _require_few(registry: Registry, count: int) -> None:
    if count >= registry.limits.max_uploads:
        raise TooManyRequests(message="too many open uploads; finish or cancel some first")


def _require_room(registry: Registry) -> None:
    free = registry.blobs.free_bytes()
    if free is not None and free < registry.limits.min_free_bytes:
        raise StorageFull(
            {"free": free, "kept_free": registry.limits.min_free_bytes},
            "no space left for uploads; delete something first",
        )


def _start_stored(
    registry: Registry, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session as a row, for any process to go on with."""
    now = registry.now()
    upload_id, key = registry.fresh_key(), registry.fresh_key()

    def open_session(tx: Transaction) -> Upload:
        _require_few(registry, uploads.count_uploads(tx))
        repository = ensure_repository(tx, name, now)
        locks.require_held_writable(repository)
        upload = Upload(upload_id, repository.id, caller.subject, key, algorithm, 0)
        uploads.insert_upload(tx, upload, now, now + registry.limits.upload_idle)
        return upload

    # The row names the key before a byte exists under it, so a crash leaves nothing unknown.
    upload = registry.write(open_session)
    failpoint("upload.start.after_row")
    try:
        with store_errors():
            registry.blobs.create(key)
    except BaseException:
        end_upload(registry, upload)
        raise
    return upload


def get_upload(registry: Registry, name: RepositoryName, upload_id: str, caller: Caller) -> Upload:
    """The session's state. Raises BlobUploadUnknown, also for another repository's or caller's."""
    upload = registry.fresh.find(name, upload_id) if registry.fresh is not None else None
    if upload is None:
        upload = registry.read(lambda tx: uploads.find_upload(tx, name, upload_id))
    if upload is None or upload.subject != caller.subject:
        raise BlobUploadUnknown({"upload": upload_id})
    return upload


def require_offset(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller, start: int | None
) -> int:
    """Where the session's next byte goes. Raises BlobUploadUnknown; RangeInvalid if not `start`."""
    upload = get_upload(registry, name, upload_id, caller)
    if start is not None and start != upload.offset:
        raise RangeInvalid({"upload": upload_id}, offset=upload.offset)
    return upload.offset


def cancel_upload(registry: Registry, name: RepositoryName, upload_id: str, caller: Caller) -> None:
    """distribution-spec, end-14: drop the session and its bytes. Raises BlobUploadUnknown."""
    upload = get_upload(registry, name, upload_id, caller)
    if not end_upload(registry, upload):
        raise BlobUploadUnknown({"upload": upload_id})
