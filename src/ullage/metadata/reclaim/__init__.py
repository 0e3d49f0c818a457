"""Giving space back: which links and blobs nothing needs, and the tombstones of their bytes.

docs/design/deletion.md has the protocol.
"""

from ullage.metadata.reclaim.adopting import adopt_blob
from ullage.metadata.reclaim.deadlines import next_due, shift_reviews, shift_tombstones
from ullage.metadata.reclaim.erasing import (
    deleted_repository_waits,
    mark_deleted,
    next_deleted_repository,
    some_links,
    some_manifests,
)
from ullage.metadata.reclaim.releasing import Released, bytes_linked_once, release_links
from ullage.metadata.reclaim.reviews import (
    cancel_reviews,
    next_review,
    schedule_review,
)
from ullage.metadata.reclaim.tombstones import (
    Tombstone,
    bury,
    claim_tombstones,
    drop_tombstones,
    known_keys,
    postpone_tombstones,
    release_tombstones,
    tombstone_due,
)

__all__ = [
    "Released",
    "Tombstone",
    "adopt_blob",
    "bury",
    "bytes_linked_once",
    "cancel_reviews",
    "claim_tombstones",
    "deleted_repository_waits",
    "drop_tombstones",
    "known_keys",
    "mark_deleted",
    "next_deleted_repository",
    "next_due",
    "next_review",
    "postpone_tombstones",
    "release_links",
    "release_tombstones",
    "schedule_review",
    "shift_reviews",
    "shift_tombstones",
    "some_links",
    "some_manifests",
    "tombstone_due",
]
