"""Giving space back: which links and blobs nothing needs, and the tombstones of their bytes.

docs/design/deletion.md has the protocol. The one decision is in `release_links`; everybody who
takes references away goes through it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.metadata import content, schema
from ullage.metadata.counters import add_to_counters
from ullage.metadata.database import Row, Transaction, chunks
from ullage.metadata.leases import Leases, Link
from ullage.metadata.moments import from_moment, moment
from ullage.metadata.statements import Statement, among
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
    # Held by nothing but the operation that took them away, which can be taken back.
    kept_bytes: int = 0


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
    unused = set(digests) - content.referenced_among(tx, repository_id, digests)
    if not unused:
        return Released()
    links = _links(tx, repository_id, unused)
    if despite_leases:
        leases.forget(tx, repository_id, unused)
        leased = {}
    else:
        leased = leases.running(tx, [link for link, _ in links], now)
    schedule_reviews(tx, repository_id, leased)
    going = {link.digest: size for link, size in links if link.digest not in leased}
    waiting = leased.keys() - _linked_elsewhere(tx, repository_id, leased.keys())
    leased_bytes = sum(size for link, size in links if link.digest in waiting)
    freed_bytes, freed_blobs = _drop_links(tx, repository_id, going, due_at)
    return Released(freed_bytes, freed_blobs, leased_bytes)


_THESE_LINKS = sa.and_(
    _repo_blobs.c.repository_id == bindparam("repository_id"),
    among(_repo_blobs.c.digest, "digests"),
)
_LINKS = Statement(
    sa.select(_repo_blobs.c.digest, _repo_blobs.c.linked_at, _blobs.c.size)
    .join(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
    .where(_THESE_LINKS)
    .order_by(_repo_blobs.c.digest)
)


def _links(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> list[tuple[Link, int]]:
    return [
        (Link(repository_id, Digest(digest), from_moment(linked_at)), size)
        for digest, linked_at, size in tx.rows(_LINKS, repository_id=repository_id, digests=digests)
    ]


_LINKED_ELSEWHERE = Statement(
    sa.select(_blobs.c.digest).where(
        among(_blobs.c.digest, "digests"),
        sa.exists().where(
            _repo_blobs.c.digest == _blobs.c.digest,
            _repo_blobs.c.repository_id != bindparam("repository_id"),
        ),
    )
)


def _linked_elsewhere(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> set[Digest]:
    """Which of these blobs other repositories keep, whatever becomes of them in this one."""
    if not digests:
        return set()
    found = tx.values(_LINKED_ELSEWHERE, repository_id=repository_id, digests=digests)
    return {Digest(digest) for digest in found}


_DELETE_LINKS = Statement(_repo_blobs.delete().where(_THESE_LINKS))
# The links decide, not their number: that is only for the bill. One of them is enough.
_UNLINKED = Statement(
    sa.select(_blobs.c.digest, _blobs.c.size, _blobs.c.storage_key)
    .where(
        among(_blobs.c.digest, "digests"),
        ~sa.exists().where(_repo_blobs.c.digest == _blobs.c.digest),
    )
    .order_by(_blobs.c.digest)
)


def _drop_links(
    tx: Transaction, repository_id: int, sizes: Mapping[Digest, int], due_at: datetime
) -> tuple[int, int]:
    """Drop these links; the bytes and the number of the blobs that this condemns."""
    if not sizes:
        return 0, 0
    digests = sizes.keys()
    tx.change(_DELETE_LINKS, repository_id=repository_id, digests=digests)
    cancel_reviews(tx, repository_id, digests)
    content.add_to_repository(tx, repository_id, blob_bytes=-sum(sizes.values()))
    content.count_links(tx, digests, -1)
    rows = tx.rows(_UNLINKED, digests=digests)
    return _condemn(tx, repository_id, rows, due_at)


_DELETE_BLOBS = Statement(_blobs.delete().where(among(_blobs.c.digest, "digests")))
_INSERT_TOMBSTONE = Statement.insert(_tombstones, ("storage_key", "digest", "size", "due_at"))


def _condemn(
    tx: Transaction, spread: int, rows: Sequence[Row], due_at: datetime
) -> tuple[int, int]:
    """Delete the rows of blobs that no repository links, leaving tombstones for their bytes.

    The foreign key of repo_blobs makes the database refuse this for a blob that is still linked.
    """
    if not rows:
        return 0, 0
    tx.change(_DELETE_BLOBS, digests=[digest for digest, _, _ in rows])
    tx.many(
        _INSERT_TOMBSTONE,
        [
            {"storage_key": key, "digest": digest, "size": size, "due_at": moment(due_at)}
            for digest, size, key in rows
        ],
    )
    freed = sum(size for _, size, _ in rows)
    add_to_counters(tx, spread, blob_count=-len(rows), blob_bytes=-freed, pending_bytes=freed)
    return freed, len(rows)


_BURY = Statement.insert(
    _tombstones,
    ("storage_key", "digest", "size", "due_at"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["storage_key"]),
)


def bury(
    tx: Transaction,
    spread: int,
    key: str,
    size: int,
    due_at: datetime,
    digest: Digest | None = None,
) -> None:
    """Leave a tombstone for bytes that never were, or no longer are, a blob's."""
    if tx.change(_BURY, storage_key=key, digest=digest, size=size, due_at=moment(due_at)):
        add_to_counters(tx, spread, pending_bytes=size)


# --- reviews --------------------------------------------------------------------------------------


_SCHEDULE = Statement.insert(
    _reviews,
    ("repository_id", "digest", "due_at"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["repository_id", "digest"],
        set_={"due_at": insert.excluded.due_at},
        where=_reviews.c.due_at < insert.excluded.due_at,
    ),
)


def schedule_review(tx: Transaction, repository_id: int, digest: Digest, due_at: datetime) -> None:
    """Look at an unused link again then, or at the later time if a review is planned already."""
    tx.change(_SCHEDULE, repository_id=repository_id, digest=digest, due_at=moment(due_at))


def schedule_reviews(
    tx: Transaction, repository_id: int, due_at: Mapping[Digest, datetime]
) -> None:
    """As schedule_review, of many."""
    rows = [
        {"repository_id": repository_id, "digest": digest, "due_at": moment(due_at[digest])}
        for digest in sorted(due_at)
    ]
    if rows:
        tx.many(_SCHEDULE, rows)


_CANCEL = Statement(
    _reviews.delete().where(
        _reviews.c.repository_id == bindparam("repository_id"), among(_reviews.c.digest, "digests")
    )
)


def cancel_reviews(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> None:
    """A manifest refers to these now, or they are gone."""
    if digests:
        tx.change(_CANCEL, repository_id=repository_id, digests=digests)


_DUE_FIRST = Statement(
    sa.select(_reviews.c.repository_id)
    .where(_reviews.c.due_at <= bindparam("now"))
    .order_by(_reviews.c.due_at)
    .limit(1)
)
_DUE_THERE = Statement(
    sa.select(_reviews.c.digest)
    .where(_reviews.c.repository_id == bindparam("repository_id"))
    .where(_reviews.c.due_at <= bindparam("now"))
    .order_by(_reviews.c.digest)
    .limit(bindparam("limit", type_=sa.Integer))
)


def next_review(tx: Transaction, now: datetime, limit: int) -> tuple[int, list[Digest]] | None:
    """The repository whose reviews have been due longest, and up to `limit` digests due in it."""
    first = tx.value(_DUE_FIRST, now=moment(now))
    if first is None:
        return None
    digests = tx.values(_DUE_THERE, repository_id=first, now=moment(now), limit=limit)
    return int(first), [Digest(digest) for digest in digests]


def shift_reviews(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back."""
    tx.execute(_reviews.update().values(due_at=_reviews.c.due_at + by_microseconds))


# --- tombstones -----------------------------------------------------------------------------------


_DUE = sa.and_(
    _tombstones.c.due_at <= bindparam("now"),
    sa.or_(_tombstones.c.claimed_until.is_(None), _tombstones.c.claimed_until <= bindparam("now")),
)
_THESE = among(_tombstones.c.storage_key, "keys")
_CLAIMABLE = Statement(
    sa.select(_tombstones.c.storage_key, _tombstones.c.size, _tombstones.c.attempts)
    .where(_DUE)
    .where(~sa.exists().where(_blobs.c.storage_key == _tombstones.c.storage_key))
    .where(~sa.exists().where(schema.uploads.c.storage_key == _tombstones.c.storage_key))
    .where(~sa.exists().where(schema.reserved_keys.c.storage_key == _tombstones.c.storage_key))
    .order_by(_tombstones.c.due_at)
    .limit(bindparam("limit", type_=sa.Integer))
    .with_for_update(skip_locked=True, of=_tombstones)
)
_CLAIM = Statement(
    _tombstones.update()
    .where(_THESE)
    .values(claimed_until=bindparam("claimed_until"), attempts=_tombstones.c.attempts + 1)
)


def claim_tombstones(
    tx: Transaction, now: datetime, claimed_until: datetime, limit: int
) -> list[Tombstone]:
    """Take up to `limit` due tombstones; nobody else gets them before `claimed_until`.

    A key that a blob or an upload session still uses, or may use, is never handed out, whatever
    wrote its tombstone: the last guard before bytes are gone for good (invariant I12).
    """
    claimed = [Tombstone(*row) for row in tx.rows(_CLAIMABLE, now=moment(now), limit=limit)]
    tx.change(_CLAIM, keys=_keys(claimed), claimed_until=moment(claimed_until))
    return claimed


def _keys(tombstones: Sequence[Tombstone]) -> list[str]:
    return [tombstone.storage_key for tombstone in tombstones]


def release_tombstones(tx: Transaction) -> None:
    """Give back every claim, for a process that knows it is the only one."""
    tx.execute(
        _tombstones.update()
        .where(_tombstones.c.claimed_until.is_not(None))
        .values(claimed_until=None)
    )


_LOCK = Statement(
    sa.select(_tombstones.c.size)
    .where(_THESE)
    .order_by(_tombstones.c.storage_key)
    .with_for_update()
)
_DROP = Statement(_tombstones.delete().where(_THESE))


def drop_tombstones(tx: Transaction, tombstones: Sequence[Tombstone]) -> None:
    """Their bytes are off the disk, durably. What another process dropped first is not counted."""
    keys = _keys(tombstones)
    gone = sum(tx.values(_LOCK, keys=keys))
    tx.change(_DROP, keys=keys)
    add_to_counters(tx, 0, pending_bytes=-gone, reclaimed_bytes=gone)


_POSTPONE = Statement(
    _tombstones.update().where(_THESE).values(claimed_until=bindparam("claimed_until"))
)


def postpone_tombstones(tx: Transaction, tombstones: Sequence[Tombstone], until: datetime) -> None:
    """Erasing failed: try these again then."""
    tx.change(_POSTPONE, keys=_keys(tombstones), claimed_until=moment(until))


def shift_tombstones(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: the second would keep bytes for as long as it was."""
    tx.execute(
        _tombstones.update().values(
            due_at=_tombstones.c.due_at + by_microseconds,
            claimed_until=_tombstones.c.claimed_until + by_microseconds,
        )
    )


_ANY_DUE = Statement(sa.select(_tombstones.c.storage_key).where(_DUE).limit(1))


def tombstone_due(tx: Transaction, now: datetime) -> bool:
    return tx.row(_ANY_DUE, now=moment(now)) is not None


def known_keys(tx: Transaction, keys: Collection[str]) -> set[str]:
    """Which of these storage keys a blob, an upload session or a tombstone names, or may soon."""
    known: set[str] = set()
    for some in chunks(sorted(keys)):
        # The way a key goes: asked in this order it is not missed where it moves on in between.
        for column in (
            schema.reserved_keys.c.storage_key,
            schema.uploads.c.storage_key,
            _blobs.c.storage_key,
            _tombstones.c.storage_key,
        ):
            known.update(tx.execute(sa.select(column).where(column.in_(some))).scalars())
    return known


_FIRST_DUE = (
    Statement(sa.select(sa.func.min(_tombstones.c.due_at))),
    Statement(sa.select(sa.func.min(_reviews.c.due_at))),
)


def next_due(tx: Transaction) -> datetime | None:
    """When the earliest tombstone or review comes due; None while there is none."""
    moments = [tx.value(statement) for statement in _FIRST_DUE]
    known = [from_moment(due) for due in moments if due is not None]
    return min(known, default=None)


# --- repositories that were deleted ---------------------------------------------------------------


_ALONE = Statement(
    sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)).where(
        among(_blobs.c.digest, "digests"), _blobs.c.repository_count == 1
    )
)


def bytes_linked_once(tx: Transaction, digests: Collection[Digest]) -> int:
    """Bytes of those of these blobs that only one repository links, hidden ones included."""
    return int(tx.value(_ALONE, digests=digests)) if digests else 0


def mark_deleted(tx: Transaction, repository_id: int, now: datetime) -> None:
    """Take the repository's name away: nobody sees it any more, a push makes a new one."""
    tx.execute(
        schema.repositories.update()
        .where(schema.repositories.c.id == repository_id)
        .values(name=None, deleted_at=moment(now))
    )


_DELETED = (
    sa.select(schema.repositories.c.id)
    .where(schema.repositories.c.deleted_at.is_not(None))
    .order_by(schema.repositories.c.deleted_at)
    .limit(1)
)
_ANY_DELETED = Statement(_DELETED)
_LOCK_DELETED = Statement(_DELETED.with_for_update(skip_locked=True))


def deleted_repository_waits(tx: Transaction) -> bool:
    return tx.row(_ANY_DELETED) is not None


def next_deleted_repository(tx: Transaction) -> int | None:
    """One that is marked and not erased yet, locked; None if there is none."""
    found: int | None = tx.value(_LOCK_DELETED)
    return found


_SOME_MANIFESTS = Statement(
    sa.select(schema.manifests.c.id, schema.manifests.c.digest, schema.manifests.c.size)
    .where(schema.manifests.c.repository_id == bindparam("repository_id"))
    .limit(bindparam("limit", type_=sa.Integer))
)


def some_manifests(tx: Transaction, repository_id: int, limit: int) -> list[content.ManifestRow]:
    rows = tx.rows(_SOME_MANIFESTS, repository_id=repository_id, limit=limit)
    return [content.ManifestRow(id_, Digest(digest), size, None) for id_, digest, size in rows]


_SOME_LINKS = Statement(
    sa.select(_repo_blobs.c.digest)
    .where(_repo_blobs.c.repository_id == bindparam("repository_id"))
    .order_by(_repo_blobs.c.digest)
    .limit(bindparam("limit", type_=sa.Integer))
)


def some_links(tx: Transaction, repository_id: int, limit: int) -> list[Digest]:
    found = tx.values(_SOME_LINKS, repository_id=repository_id, limit=limit)
    return [Digest(digest) for digest in found]


# --- blobs coming in ------------------------------------------------------------------------------


_INSERT_BLOB = Statement.insert(
    _blobs,
    ("digest", "size", "storage_key", "created_at"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["digest"]),
)
_CURRENT_BLOB = Statement(
    sa.select(_blobs.c.storage_key, _blobs.c.damaged_at, _blobs.c.size)
    .where(_blobs.c.digest == bindparam("digest"))
    .with_for_update(key_share=True)
)
_REPLACE_BYTES = Statement(
    _blobs.update()
    .where(_blobs.c.digest == bindparam("digest"))
    .values(storage_key=bindparam("storage_key"), damaged_at=None)
)


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
        at = moment(now)
        if tx.change(_INSERT_BLOB, digest=digest, size=size, storage_key=key, created_at=at):
            add_to_counters(tx, repository_id, blob_count=1, blob_bytes=size)
            return key
        current = tx.row(_CURRENT_BLOB, digest=digest)
        # None: it was condemned between these two statements, and the way is free now.
    current_key, damaged_at, current_size = current
    if damaged_at is None:
        bury(tx, repository_id, key, size, due_at)
        return str(current_key)
    tx.change(_REPLACE_BYTES, digest=digest, storage_key=key)
    bury(tx, repository_id, current_key, current_size, due_at, digest)
    return key
