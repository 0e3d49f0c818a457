"""Giving space back: which links and blobs nothing needs, and the tombstones of their bytes.

docs/design/deletion.md has the protocol. The one decision is in `release_links`; everybody who
takes references away goes through it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from ullage.metadata import content, schema
from ullage.metadata.counters import add_to_counters
from ullage.metadata.database import Transaction, chunks
from ullage.metadata.leases import Leases, Link
from ullage.metadata.moments import from_moment, moment
from ullage.oci.digest import Digest

_blobs = schema.blobs
_repo_blobs = schema.repo_blobs
_reviews = schema.reviews
_tombstones = schema.tombstones


@dataclass(frozen=True, slots=True)
class Released:
    """What dropping links gave back: bytes whose tombstones are written, and bytes that wait."""

    freed_bytes: int = 0
    freed_blobs: int = 0
    # Held by a promise to a pusher; looked at again when it ends.
    leased_bytes: int = 0

    def __add__(self, other: Released) -> Released:
        return Released(
            self.freed_bytes + other.freed_bytes,
            self.freed_blobs + other.freed_blobs,
            self.leased_bytes + other.leased_bytes,
        )


class Tombstone(NamedTuple):
    storage_key: str
    size: int
    attempts: int


def release_links(
    tx: Transaction,
    leases: Leases,
    repository_id: int,
    digests: Collection[Digest],
    *,
    now: datetime,
    due_at: datetime,
    despite_leases: bool = False,
) -> Released:
    """Drop the repository's links to those of `digests` that no manifest of it refers to.

    The caller holds the repository's row and the blobs' rows (lock_blobs, to_drop). A leased link
    stays and is reviewed when the lease ends. A blob without any link left is condemned: its row
    goes and its bytes get a tombstone, to be erased from `due_at` on.
    """
    released = Released()
    unused = sorted(set(digests) - content.referenced_among(tx, repository_id, digests))
    for some in chunks(unused):
        links = _links(tx, repository_id, some)
        if despite_leases:
            leases.forget(tx, repository_id, some)
            leased = {}
        else:
            leased = leases.running(tx, [link for link, _ in links], now)
        for digest, until in leased.items():
            schedule_review(tx, repository_id, digest, until)
        going = [(link.digest, size) for link, size in links if link.digest not in leased]
        waiting = leased.keys() - _linked_elsewhere(tx, repository_id, leased.keys())
        released += Released(
            leased_bytes=sum(size for link, size in links if link.digest in waiting)
        )
        released += _drop_links(tx, repository_id, going, due_at)
    return released


def _links(
    tx: Transaction, repository_id: int, digests: Sequence[Digest]
) -> list[tuple[Link, int]]:
    query = (
        sa.select(_repo_blobs.c.digest, _repo_blobs.c.linked_at, _blobs.c.size)
        .join(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
        .where(_repo_blobs.c.repository_id == repository_id, _repo_blobs.c.digest.in_(digests))
    )
    return [
        (Link(repository_id, Digest(digest), from_moment(linked_at)), size)
        for digest, linked_at, size in tx.execute(query)
    ]


def _linked_elsewhere(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> set[Digest]:
    """Which of these blobs other repositories keep, whatever becomes of them in this one."""
    if not digests:
        return set()
    elsewhere = sa.exists().where(
        _repo_blobs.c.digest == _blobs.c.digest, _repo_blobs.c.repository_id != repository_id
    )
    query = sa.select(_blobs.c.digest).where(_blobs.c.digest.in_(digests), elsewhere)
    return {Digest(digest) for digest in tx.execute(query).scalars()}


def _drop_links(
    tx: Transaction,
    repository_id: int,
    sizes: Sequence[tuple[Digest, int]],
    due_at: datetime,
) -> Released:
    if not sizes:
        return Released()
    digests = [digest for digest, _ in sizes]
    tx.execute(
        _repo_blobs.delete().where(
            _repo_blobs.c.repository_id == repository_id, _repo_blobs.c.digest.in_(digests)
        )
    )
    tx.execute(
        _reviews.delete().where(
            _reviews.c.repository_id == repository_id, _reviews.c.digest.in_(digests)
        )
    )
    content.add_to_repository(tx, repository_id, blob_bytes=-sum(size for _, size in sizes))
    content.count_links(tx, digests, -1)
    # The links decide, not their number: that is only for the bill. One of them is enough.
    linked = sa.exists().where(_repo_blobs.c.digest == _blobs.c.digest)
    unlinked = sa.select(_blobs.c.digest).where(_blobs.c.digest.in_(digests), ~linked)
    left = [Digest(digest) for digest in tx.execute(unlinked.order_by(_blobs.c.digest)).scalars()]
    return _condemn(tx, repository_id, left, due_at)


def _condemn(tx: Transaction, spread: int, digests: Sequence[Digest], due_at: datetime) -> Released:
    """Delete the rows of blobs that no repository links, leaving tombstones for their bytes.

    The foreign key of repo_blobs makes the database refuse this for a blob that is still linked.
    """
    if not digests:
        return Released()
    rows = tx.execute(
        sa.select(_blobs.c.digest, _blobs.c.size, _blobs.c.storage_key).where(
            _blobs.c.digest.in_(digests)
        )
    ).all()
    tx.execute(_blobs.delete().where(_blobs.c.digest.in_(digests)))
    tx.execute(
        _tombstones.insert(),
        [
            {"storage_key": key, "digest": digest, "size": size, "due_at": moment(due_at)}
            for digest, size, key in rows
        ],
    )
    freed = sum(row.size for row in rows)
    add_to_counters(tx, spread, blob_count=-len(rows), blob_bytes=-freed, pending_bytes=freed)
    return Released(freed_bytes=freed, freed_blobs=len(rows))


def bury(
    tx: Transaction,
    spread: int,
    key: str,
    size: int,
    due_at: datetime,
    digest: Digest | None = None,
) -> None:
    """Leave a tombstone for bytes that never were, or no longer are, a blob's."""
    made = tx.execute(
        tx.insert(_tombstones)
        .values(storage_key=key, digest=digest, size=size, due_at=moment(due_at))
        .on_conflict_do_nothing(index_elements=["storage_key"])
    ).rowcount
    if made:
        add_to_counters(tx, spread, pending_bytes=size)


# --- reviews --------------------------------------------------------------------------------------


def schedule_review(tx: Transaction, repository_id: int, digest: Digest, due_at: datetime) -> None:
    """Look at an unused link again then, or at the later time if a review is planned already."""
    insert = tx.insert(_reviews).values(
        repository_id=repository_id, digest=digest, due_at=moment(due_at)
    )
    later = sa.case(
        (_reviews.c.due_at < insert.excluded.due_at, insert.excluded.due_at),
        else_=_reviews.c.due_at,
    )
    tx.execute(
        insert.on_conflict_do_update(
            index_elements=["repository_id", "digest"], set_={"due_at": later}
        )
    )


def cancel_reviews(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> None:
    """A manifest refers to these now."""
    for some in chunks(sorted(digests)):
        tx.execute(
            _reviews.delete().where(
                _reviews.c.repository_id == repository_id, _reviews.c.digest.in_(some)
            )
        )


def next_review(tx: Transaction, now: datetime, limit: int) -> tuple[int, list[Digest]] | None:
    """The repository whose reviews have been due longest, and up to `limit` digests due in it."""
    first = tx.execute(
        sa.select(_reviews.c.repository_id)
        .where(_reviews.c.due_at <= moment(now))
        .order_by(_reviews.c.due_at)
        .limit(1)
    ).scalar()
    if first is None:
        return None
    due = sa.select(_reviews.c.digest).where(
        _reviews.c.repository_id == first, _reviews.c.due_at <= moment(now)
    )
    digests = tx.execute(due.order_by(_reviews.c.digest).limit(limit)).scalars()
    return int(first), [Digest(digest) for digest in digests]


def shift_reviews(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back."""
    tx.execute(_reviews.update().values(due_at=_reviews.c.due_at + by_microseconds))


# --- tombstones -----------------------------------------------------------------------------------


def claim_tombstones(
    tx: Transaction, now: datetime, claimed_until: datetime, limit: int
) -> list[Tombstone]:
    """Take up to `limit` due tombstones; nobody else gets them before `claimed_until`.

    A key that a blob or an upload session still uses is never handed out, whatever wrote its
    tombstone: the last guard before bytes are gone for good (invariant I12).
    """
    free = sa.or_(_tombstones.c.claimed_until.is_(None), _tombstones.c.claimed_until <= moment(now))
    due = (
        sa.select(_tombstones.c.storage_key, _tombstones.c.size, _tombstones.c.attempts)
        .where(_tombstones.c.due_at <= moment(now), free)
        .where(~sa.exists().where(_blobs.c.storage_key == _tombstones.c.storage_key))
        .where(~sa.exists().where(schema.uploads.c.storage_key == _tombstones.c.storage_key))
        .order_by(_tombstones.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True, of=_tombstones)
    )
    claimed = [Tombstone(*row) for row in tx.execute(due)]
    for some in chunks([tombstone.storage_key for tombstone in claimed]):
        tx.execute(
            _tombstones.update()
            .where(_tombstones.c.storage_key.in_(some))
            .values(claimed_until=moment(claimed_until), attempts=_tombstones.c.attempts + 1)
        )
    return claimed


def release_tombstones(tx: Transaction) -> None:
    """Give back every claim, for a process that knows it is the only one."""
    tx.execute(
        _tombstones.update()
        .where(_tombstones.c.claimed_until.is_not(None))
        .values(claimed_until=None)
    )


def drop_tombstones(tx: Transaction, tombstones: Sequence[Tombstone]) -> None:
    """Their bytes are off the disk, durably. What another process dropped first is not counted."""
    gone = 0
    for some in chunks([tombstone.storage_key for tombstone in tombstones]):
        where = _tombstones.c.storage_key.in_(some)
        locked = sa.select(_tombstones.c.size).where(where).order_by(_tombstones.c.storage_key)
        gone += sum(tx.execute(locked.with_for_update()).scalars())
        tx.execute(_tombstones.delete().where(where))
    add_to_counters(tx, 0, pending_bytes=-gone, reclaimed_bytes=gone)


def postpone_tombstones(tx: Transaction, tombstones: Sequence[Tombstone], until: datetime) -> None:
    """Erasing failed: try these again then."""
    for some in chunks([tombstone.storage_key for tombstone in tombstones]):
        tx.execute(
            _tombstones.update()
            .where(_tombstones.c.storage_key.in_(some))
            .values(claimed_until=moment(until))
        )


def shift_tombstones(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: the second would keep bytes for as long as it was."""
    tx.execute(
        _tombstones.update().values(
            due_at=_tombstones.c.due_at + by_microseconds,
            claimed_until=_tombstones.c.claimed_until + by_microseconds,
        )
    )


def tombstone_due(tx: Transaction, now: datetime) -> bool:
    query = sa.select(_tombstones.c.storage_key).where(
        _tombstones.c.due_at <= moment(now),
        sa.or_(_tombstones.c.claimed_until.is_(None), _tombstones.c.claimed_until <= moment(now)),
    )
    return tx.execute(query.limit(1)).first() is not None


def known_keys(tx: Transaction, keys: Collection[str]) -> set[str]:
    """Which of these storage keys a blob, an upload session or a tombstone names."""
    known: set[str] = set()
    for some in chunks(sorted(keys)):
        # The way a key goes: asked in this order it is not missed where it moves on in between.
        for column in (
            schema.uploads.c.storage_key,
            _blobs.c.storage_key,
            _tombstones.c.storage_key,
        ):
            known.update(tx.execute(sa.select(column).where(column.in_(some))).scalars())
    return known


def next_due(tx: Transaction) -> datetime | None:
    """When the earliest tombstone or review comes due; None while there is none."""
    moments = [
        tx.execute(sa.select(sa.func.min(_tombstones.c.due_at))).scalar(),
        tx.execute(sa.select(sa.func.min(_reviews.c.due_at))).scalar(),
    ]
    known = [from_moment(due) for due in moments if due is not None]
    return min(known, default=None)


# --- repositories that were deleted ---------------------------------------------------------------


def mark_deleted(tx: Transaction, repository_id: int, now: datetime) -> None:
    """Take the repository's name away: nobody sees it any more, a push makes a new one."""
    tx.execute(
        schema.repositories.update()
        .where(schema.repositories.c.id == repository_id)
        .values(name=None, deleted_at=moment(now))
    )


def deleted_repository_waits(tx: Transaction) -> bool:
    query = sa.select(schema.repositories.c.id).where(schema.repositories.c.deleted_at.is_not(None))
    return tx.execute(query.limit(1)).first() is not None


def next_deleted_repository(tx: Transaction) -> int | None:
    """One that is marked and not erased yet, locked; None if there is none."""
    query = (
        sa.select(schema.repositories.c.id)
        .where(schema.repositories.c.deleted_at.is_not(None))
        .order_by(schema.repositories.c.deleted_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return tx.execute(query).scalar()


def some_manifests(tx: Transaction, repository_id: int, limit: int) -> list[content.ManifestRow]:
    query = (
        sa.select(schema.manifests.c.id, schema.manifests.c.digest, schema.manifests.c.size)
        .where(schema.manifests.c.repository_id == repository_id)
        .limit(limit)
    )
    return [content.ManifestRow(row[0], Digest(row[1]), row[2], None) for row in tx.execute(query)]


def some_links(tx: Transaction, repository_id: int, limit: int) -> list[Digest]:
    query = (
        sa.select(_repo_blobs.c.digest)
        .where(_repo_blobs.c.repository_id == repository_id)
        .order_by(_repo_blobs.c.digest)
        .limit(limit)
    )
    return [Digest(digest) for digest in tx.execute(query).scalars()]


# --- blobs coming in ------------------------------------------------------------------------------


def adopt_blob(
    tx: Transaction,
    repository_id: int,
    digest: Digest,
    size: int,
    key: str,
    *,
    now: datetime,
    due_at: datetime,
) -> str:
    """Make the bytes under `key` the blob `digest`, unless it is stored already; returns its key.

    Whichever copy is not needed gets a tombstone: the newcomer, or the old one if it was damaged.
    """
    current = None
    while current is None:
        if _insert_blob(tx, digest, size, key, now):
            add_to_counters(tx, repository_id, blob_count=1, blob_bytes=size)
            return key
        current = tx.execute(
            sa.select(_blobs.c.storage_key, _blobs.c.damaged_at, _blobs.c.size)
            .where(_blobs.c.digest == digest)
            .with_for_update(key_share=True)
        ).first()
        # None: it was condemned between these two statements, and the way is free now.
    if current.damaged_at is None:
        bury(tx, repository_id, key, size, due_at)
        return str(current.storage_key)
    tx.execute(
        _blobs.update().where(_blobs.c.digest == digest).values(storage_key=key, damaged_at=None)
    )
    bury(tx, repository_id, current.storage_key, current.size, due_at, digest)
    return key


def _insert_blob(tx: Transaction, digest: Digest, size: int, key: str, now: datetime) -> bool:
    """Whether there was no such blob yet."""
    made = tx.execute(
        tx.insert(_blobs)
        .values(digest=digest, size=size, storage_key=key, created_at=moment(now))
        .on_conflict_do_nothing(index_elements=["digest"])
    ).rowcount
    return bool(made)
