"""Everything that keeps one digest: the facts behind `ullage why`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ullage.database.schema import content, space, undo
from ullage.database.statements import Statement, among, beginning, given, range_of, same
from ullage.database.timestamps import from_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest

_repositories = content.repositories
_manifests = content.manifests
_blobs = content.blobs
_manifest_blobs = content.manifest_blobs
_repo_blobs = content.repo_blobs
_tombstones = space.tombstones
_kept = undo.kept_repositories
_operations = undo.operations


class Place(NamedTuple):
    """A manifest in a repository; with an `operation` it is deleted softly, and only kept."""

    repository_id: int
    repository: str
    manifest_id: int
    digest: Digest
    subject: Digest | None
    operation: str | None
    # From when the operation's days are counted.
    counts_from: datetime | None


class Waiting(NamedTuple):
    """Bytes that are deleted and not off the disk yet."""

    bytes: int
    due_at: datetime


_CALLED = Statement(
    sa.select(
        _repositories.c.id,
        _repositories.c.name,
        *_manifests.c["id", "digest", "subject"],
        sa.null(),
        sa.null(),
    )
    .join(_manifests, _manifests.c.repository_id == _repositories.c.id)
    .where(given(_manifests, "digest"), _repositories.c.name.is_not(None))
    .order_by(_repositories.c.name)
)
_HIDDEN = Statement(
    sa.select(
        _kept.c.repository_id, _kept.c.name, _operations.c.id, _operations.c.counts_from
    ).join(_operations, _operations.c.id == _kept.c.operation_id)
)
_THERE = Statement(
    sa.select(*_manifests.c["repository_id", "id", "subject"]).where(
        among(_manifests.c.repository_id, "ids"), given(_manifests, "digest")
    )
)


def manifests_called(tx: Transaction, digest: Digest) -> list[Place]:
    """Where a manifest of this digest is: one look into each repository, then each hidden one."""
    return [_place(row) for row in tx.rows(_CALLED, digest=digest)] + _kept_called(tx, digest)


def _kept_called(tx: Transaction, digest: Digest) -> list[Place]:
    kept = {row[0]: row[1:] for row in tx.rows(_HIDDEN)}
    rows = tx.rows(_THERE, ids=kept.keys(), digest=digest) if kept else ()
    places = [
        _place((row[0], kept[row[0]][0], row[1], digest, row[2], *kept[row[0]][1:])) for row in rows
    ]
    return sorted(places, key=lambda place: (place.repository, place.repository_id))


_MANIFESTS_BEGINNING = Statement(
    sa.select(_repositories.c.name, _manifests.c.digest)
    .join(_manifests, _manifests.c.repository_id == _repositories.c.id)
    .where(beginning(_manifests.c.digest), _repositories.c.name.is_not(None))
    .order_by(_repositories.c.name, _manifests.c.digest)
)
_BLOBS_BEGINNING = Statement(
    sa.select(_blobs.c.digest).where(beginning(_blobs.c.digest)).order_by(_blobs.c.digest)
)


def manifests_beginning(tx: Transaction, prefix: str) -> list[tuple[str, str]]:
    """Repository and digest of manifests whose digests begin so: one look into each repository."""
    return [(name, digest) for name, digest in tx.rows(_MANIFESTS_BEGINNING, **range_of(prefix))]


def blobs_beginning(tx: Transaction, prefix: str) -> list[str]:
    """Digests of blobs that begin so."""
    return tx.values(_BLOBS_BEGINNING, **range_of(prefix))


_NAMED = sa.func.coalesce(_repositories.c.name, _kept.c.name)
_PLACES = (
    sa.select(
        _repositories.c.id,
        _NAMED,
        *_manifests.c["id", "digest", "subject"],
        _operations.c.id,
        _operations.c.counts_from,
    )
    .select_from(_repositories)
    .outerjoin(_kept, _kept.c.repository_id == _repositories.c.id)
    .outerjoin(_operations, _operations.c.id == _kept.c.operation_id)
)


_REFERRING = Statement(
    _PLACES.join(_repo_blobs, _repo_blobs.c.repository_id == _repositories.c.id)
    .join(_manifest_blobs, same(_manifest_blobs, _repo_blobs, "repository_id", "digest"))
    .join(_manifests, _manifests.c.id == _manifest_blobs.c.manifest_id)
    .where(given(_repo_blobs, "digest"), _NAMED.is_not(None))
    .order_by(_NAMED, _manifests.c.id)
)


def manifests_referring(tx: Transaction, digest: Digest) -> list[Place]:
    """Every manifest that refers to the blob, by repository and in the order of pushing."""
    return [_place(row) for row in tx.rows(_REFERRING, digest=digest)]


def _place(row: Sequence[Any]) -> Place:
    return Place(
        row[0],
        row[1],
        row[2],
        Digest(row[3]),
        Digest(row[4]) if row[4] else None,
        row[5],
        from_micros(row[6]) if row[6] is not None else None,
    )


_TOMBSTONES = Statement(
    sa.select(_tombstones.c.size, _tombstones.c.due_at)
    .where(given(_tombstones, "digest"))
    .order_by(_tombstones.c.due_at)
)


def tombstones_of(tx: Transaction, digest: Digest) -> list[Waiting]:
    """Bytes of this digest on their way out; a look at every tombstone."""
    return [Waiting(size, from_micros(at)) for size, at in tx.rows(_TOMBSTONES, digest=digest)]
