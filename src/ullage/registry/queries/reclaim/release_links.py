"""Links that nothing needs are dropped, and blobs that nothing links any more are condemned.

The one decision is in `release_links`; all that takes references away goes through it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space
from ullage.database.statements import Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Row, Transaction
from ullage.oci.digest import Digest
from ullage.registry.leases.lease import Leases, Link
from ullage.registry.queries.content.blobs import count_links, referenced_among
from ullage.registry.queries.content.repositories import add_to_repository
from ullage.registry.queries.counters import add_to_counters
from ullage.registry.queries.reclaim.reviews import cancel_reviews, schedule_reviews
from ullage.registry.queries.reclaim.signed_reads import Due, keep_signed

_blobs = content.blobs
_repo_blobs = content.repo_blobs
_tombstones = space.tombstones


@dataclass(frozen=True, slots=True)
class Released:
    """What dropping links gave back: bytes whose tombstones are written, and bytes that wait."""

    freed_bytes: int = 0
    freed_blobs: int = 0
    # Kept by a promise to a pusher; looked at again when it ends.
    leased_bytes: int = 0
    # Kept by nothing but the operation that took them away, which can be taken back.
    kept_bytes: int = 0


def release_links(
    tx: Transaction,
    leases: Leases,
    repository_id: int,
    digests: Collection[Digest],
    *,
    now: datetime,
    due: Due,
    despite_leases: bool = False,
) -> Released:
    """Drop the repository's links to those of `digests` that no manifest of it refers to.

    The caller has locked the repository's row and the blobs' rows (lock_blobs, to_drop). A leased
    link stays and is reviewed when the lease ends. A blob without any link left is condemned: its
    row goes and its bytes get a tombstone, to be erased when they are `due`.
    """
    unused = set(digests) - referenced_among(tx, repository_id, digests)
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
    freed_bytes, freed_blobs = _drop_links(tx, repository_id, going, now, due)
    return Released(freed_bytes, freed_blobs, leased_bytes)


_THESE_LINKS = sa.and_(given(_repo_blobs, "repository_id"), among(_repo_blobs.c.digest, "digests"))
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
        (Link(repository_id, Digest(digest), from_micros(linked_at)), size)
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
    sa.select(*_blobs.c["digest", "size", "storage_key"])
    .where(
        among(_blobs.c.digest, "digests"),
        ~sa.exists().where(_repo_blobs.c.digest == _blobs.c.digest),
    )
    .order_by(_blobs.c.digest)
)


def _drop_links(
    tx: Transaction, repository_id: int, sizes: Mapping[Digest, int], now: datetime, due: Due
) -> tuple[int, int]:
    """Drop these links; the bytes and the number of the blobs that this condemns."""
    if not sizes:
        return 0, 0
    digests = sizes.keys()
    tx.change(_DELETE_LINKS, repository_id=repository_id, digests=digests)
    cancel_reviews(tx, repository_id, digests)
    add_to_repository(tx, repository_id, blob_bytes=-sum(sizes.values()))
    count_links(tx, digests, -1)
    rows = tx.rows(_UNLINKED, digests=digests)
    return _condemn(tx, repository_id, rows, now, due)


_DELETE_BLOBS = Statement(_blobs.delete().where(among(_blobs.c.digest, "digests")))
_INSERT_TOMBSTONE = Statement.insert(_tombstones, ("storage_key", "digest", "size", "due_at"))


def _condemn(
    tx: Transaction, spread: int, rows: Sequence[Row], now: datetime, due: Due
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
            {"storage_key": key, "digest": digest, "size": size, "due_at": to_micros(due.at)}
            for digest, size, key in rows
        ],
    )
    keep_signed(tx, [key for _, _, key in rows], now, due.signed_read)
    freed = sum(size for _, size, _ in rows)
    add_to_counters(tx, spread, blob_count=-len(rows), blob_bytes=-freed, pending_bytes=freed)
    return freed, len(rows)


_ALONE = Statement(
    sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)).where(
        among(_blobs.c.digest, "digests"), _blobs.c.repository_count == 1
    )
)


def bytes_linked_once(tx: Transaction, digests: Collection[Digest]) -> int:
    """Bytes of those of these blobs that only one repository links, hidden ones included."""
    return int(tx.value(_ALONE, digests=digests)) if digests else 0
