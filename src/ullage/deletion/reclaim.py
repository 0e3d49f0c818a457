"""Giving space back, off the request path: reviews, tombstones, expired sessions, recovery.

Each function does one bounded piece of work and says how much it did, so that the worker can go on
until there is nothing left. Every piece may be cut short anywhere and done again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice

from ullage.blobs.protocol import NotDeleted
from ullage.database.transaction import Transaction
from ullage.deletion.queries.operations import records
from ullage.failpoints import failpoint
from ullage.registry.context import Registry
from ullage.registry.errors import database_errors
from ullage.registry.push.end_sessions import end_upload
from ullage.registry.push.left_sessions import end_forgotten_sessions, end_left_sessions
from ullage.registry.queries import finished_uploads, uploads
from ullage.registry.queries.content.blobs import lock_blobs
from ullage.registry.queries.content.remove_manifests import blobs_of, remove_manifests
from ullage.registry.queries.content.repositories import (
    drop_repository_if_empty,
    lock_unerased_repository,
)
from ullage.registry.queries.reclaim import deadlines
from ullage.registry.queries.reclaim import tombstones as tombstones_queries
from ullage.registry.queries.reclaim.backup_leases import shift_backups
from ullage.registry.queries.reclaim.deadlines import shift_reviews, shift_tombstones
from ullage.registry.queries.reclaim.erase_repository import (
    deleted_repository_waits,
    next_deleted_repository,
    some_links,
    some_manifests,
)
from ullage.registry.queries.reclaim.release_links import release_links
from ullage.registry.queries.reclaim.reviews import cancel_reviews, next_review
from ullage.registry.queries.reclaim.signed_reads import (
    shift_signed_reads,
    signed_reads_to_tidy,
    tidy_signed_reads,
)
from ullage.registry.queries.reclaim.tombstones import (
    Tombstone,
    claim_tombstones,
    drop_tombstones,
    postpone_tombstones,
    release_tombstones,
    tombstone_due,
)
from ullage.registry.stored_objects import stored_bytes

log = logging.getLogger(__name__)

REVIEW_BATCH = 200
# Each batch syncs up to 256 directories: the more it erases, the fewer times.
RECLAIM_BATCH = 2000
ERASE_BATCH = 200
# A worker that is held up with claimed tombstones keeps others from them for this long.
RECLAIM_CLAIM = timedelta(seconds=60)
MAX_BACKOFF = timedelta(hours=1)
# Of one batch; the others are counted.
_FAILURES_LOGGED = 10


def recover(registry: Registry) -> int:
    """What a start has to do after a crash: end the uploads that no client can resume; how many.

    Only where this process alone owns the database. Everything else (tombstones, reviews,
    repositories half erased) simply goes on; no walk over the store is needed.
    """
    if registry.db.dialect != "sqlite":
        return 0
    # The process that claimed tombstones is gone, and must not keep their bytes on the disk longer.
    registry.write(release_tombstones, freeing=True)
    return end_forgotten_sessions(registry)


def review_due(registry: Registry) -> int:
    """Look again at links whose lease should have ended; returns how many were looked at."""
    now = registry.now()
    due = registry.due(now)
    if registry.read(lambda tx: next_review(tx, now, 1)) is None:
        return 0

    def review(tx: Transaction) -> int:
        reviewed = next_review(tx, now, REVIEW_BATCH)
        if reviewed is None:
            return 0
        repository_id, digests = reviewed
        if lock_unerased_repository(tx, repository_id):
            lock_blobs(tx, digests, to_drop=True)
            cancel_reviews(tx, repository_id, digests)
            # What is still leased gets a new review, what is in use none, the rest goes.
            release_links(tx, registry.leases, repository_id, digests, now=now, due=due)
            drop_repository_if_empty(tx, repository_id)
        else:
            cancel_reviews(tx, repository_id, digests)
        failpoint("review.in_transaction")
        return len(digests)

    looked_at = registry.write(review, freeing=True)
    failpoint("review.after_row")
    return looked_at


def reclaim_due(registry: Registry) -> int:
    """Erase the bytes of due tombstones; returns of how many. What fails is tried again later."""
    now = registry.now()
    if not registry.read(lambda tx: tombstone_due(tx, now)):
        return 0
    token, until = registry.fresh_key(), now + RECLAIM_CLAIM
    claimed = registry.write(
        lambda tx: claim_tombstones(tx, token, registry.process, now, until, RECLAIM_BATCH),
        freeing=True,
    )
    if not claimed:
        return 0
    failpoint("reclaim.after_claim")
    failed = _erase(registry, claimed)
    registry.tallies.add("attempts", n=len(claimed))
    if failed:
        backoff = min(timedelta(seconds=2 ** min(failed[0].attempts + 1, 20)), MAX_BACKOFF)
        log.error("%d objects could not be erased, next try in %s", len(failed), backoff)
        registry.write(lambda tx: postpone_tombstones(tx, token, failed, now + backoff))
    erased = [tombstone for tombstone in claimed if tombstone not in failed]
    gone = registry.now()
    for tombstone in erased:
        after = gone - tombstone.due_at + registry.limits.read_grace
        registry.tallies.add_erased(max(after.total_seconds(), 0.0), 1)
    failpoint("reclaim.before_drop")
    dropped = registry.write(lambda tx: drop_tombstones(tx, token, erased), freeing=True)
    failpoint("reclaim.after_drop")
    return dropped


def _erase(registry: Registry, tombstones: Sequence[Tombstone]) -> list[Tombstone]:
    """Take bytes off the store, durably; returns the tombstones of what may still be there."""
    try:
        registry.blobs.delete(
            [tombstone.storage_key for tombstone in tombstones],
            [tombstone.state for tombstone in tombstones if tombstone.state],
        )
    except NotDeleted as error:
        for name, failure in islice(error.failures.items(), _FAILURES_LOGGED):
            log.warning("erasing %s failed: %s", name, failure)
        return [
            tombstone
            for tombstone in tombstones
            if tombstone.storage_key in error.failures or tombstone.state in error.failures
        ]
    except OSError as error:
        log.warning("erasing failed: %s", error)
        return list(tombstones)
    return []


def expire_uploads(registry: Registry) -> int:
    """End upload sessions that got no bytes for too long, or whose process has died."""
    now = registry.now()
    expired = registry.read(lambda tx: uploads.expired_uploads(tx, now, 100))
    if registry.memory_sessions is not None:
        expired += registry.memory_sessions.expired(now)
    ended = sum(end_upload(registry, upload, only_if_expired=True) for upload in expired)
    ended += end_left_sessions(registry)
    if registry.read(lambda tx: finished_uploads.finished_to_forget(tx, now)):
        registry.write(lambda tx: finished_uploads.forget_finished(tx, now), freeing=True)
    return ended


def erase_deleted(registry: Registry) -> int:
    """Take the next batch out of a repository that was deleted; 0 when there is none left."""
    if not registry.read(deleted_repository_waits):
        return 0
    now = registry.now()
    due = registry.due(now)
    sizes = _upload_sizes(registry)

    def erase(tx: Transaction) -> int:
        repository_id = next_deleted_repository(tx)
        if repository_id is None:
            return 0
        rows = some_manifests(tx, repository_id, ERASE_BATCH)
        references = blobs_of(tx, [row.id for row in rows])
        digests = references.keys() if rows else some_links(tx, repository_id, ERASE_BATCH)
        lock_blobs(tx, digests, to_drop=True)
        remove_manifests(tx, repository_id, rows, references)
        release_links(
            tx,
            registry.leases,
            repository_id,
            digests,
            now=now,
            due=due,
            despite_leases=True,
        )
        sessions = uploads.uploads_of(tx, repository_id, ERASE_BATCH)
        for upload in sessions:
            # Otherwise another process has ended it meanwhile, and answers for its bytes.
            ended = uploads.delete_upload(tx, upload.id)
            if ended is not None:
                size = sizes.get(upload.key, upload.offset)
                tombstones_queries.bury(tx, repository_id, upload.key, size, now, state=ended.state)
        drop_repository_if_empty(tx, repository_id)
        return len(rows) + len(digests) + len(sessions) + 1

    erased = registry.write(erase, freeing=True)
    failpoint("repository.erase.after_batch")
    return erased


def _upload_sizes(registry: Registry) -> dict[str, int]:
    """How many bytes the sessions of deleted repositories have, asked outside any transaction."""
    sessions = registry.read(uploads.uploads_in_deleted_repositories)
    return {each.key: stored_bytes(registry.blobs, each.key, each.state) or 0 for each in sessions}


def expire_leases(registry: Registry) -> None:
    """Drop promises that have ended. Raises Unavailable."""
    with database_errors():
        registry.leases.expire(registry.db, registry.now())


def tidy_signed_urls(registry: Registry) -> None:
    """Forget signed URLs that have ended, where the store signs any. Raises Unavailable."""
    longest, now = registry.limits.signed_read, registry.now()
    if not longest or not registry.read(lambda tx: signed_reads_to_tidy(tx, now)):
        return
    until = registry.write(lambda tx: tidy_signed_reads(tx, now, longest), freeing=True)
    if until is not None:
        log.warning(
            "which signed URLs were given out is not known: the bytes of deletions stay for %s "
            "(twice --signed-url)",
            longest,
        )


def shift_deadlines(registry: Registry, by: timedelta) -> None:
    """The clock was set: leases, sessions, reviews and backups last as long as they would have.

    Otherwise a clock put forward by a day would end every push at once (race R31).
    """
    registry.leases.shift(registry.db, by)
    if registry.memory_sessions is not None:
        registry.memory_sessions.shift(by)
    if registry.db.dialect != "sqlite":
        return
    microseconds = by // timedelta(microseconds=1)

    def shift(tx: Transaction) -> None:
        uploads.shift_uploads(tx, microseconds)
        shift_reviews(tx, microseconds)
        shift_tombstones(tx, microseconds)
        shift_signed_reads(tx, microseconds)
        shift_backups(tx, microseconds)
        records.shift(tx, microseconds)

    registry.write(shift)


def next_due(registry: Registry) -> datetime | None:
    """When there will be something to do next, as far as is known now."""
    return registry.read(deadlines.next_due)
