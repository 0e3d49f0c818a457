"""Repositories that were deleted: marked at once, and erased a part at a time."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import LIMIT, Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.content.manifests import ManifestRow

_repo_blobs = content.repo_blobs


_MARK_DELETED = Statement(
    content.repositories.update()
    .where(content.repositories.c.id == bindparam("repository_id"))
    .values(name=None, deleted_at=bindparam("deleted_at"))
)


def mark_deleted(tx: Transaction, repository_id: int, now: datetime) -> None:
    """Take the repository's name away: it is not seen any more, a push makes a new one."""
    tx.change(_MARK_DELETED, repository_id=repository_id, deleted_at=to_micros(now))


_DELETED = (
    sa.select(content.repositories.c.id)
    .where(content.repositories.c.deleted_at.is_not(None))
    .order_by(content.repositories.c.deleted_at)
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
    sa.select(content.manifests.c.id, content.manifests.c.digest, content.manifests.c.size)
    .where(given(content.manifests, "repository_id"))
    .limit(LIMIT)
)


def some_manifests(tx: Transaction, repository_id: int, limit: int) -> list[ManifestRow]:
    rows = tx.rows(_SOME_MANIFESTS, repository_id=repository_id, limit=limit)
    return [ManifestRow(id_, Digest(digest), size, None) for id_, digest, size in rows]


_SOME_LINKS = Statement(
    sa.select(_repo_blobs.c.digest)
    .where(given(_repo_blobs, "repository_id"))
    .order_by(_repo_blobs.c.digest)
    .limit(LIMIT)
)


def some_links(tx: Transaction, repository_id: int, limit: int) -> list[Digest]:
    found = tx.values(_SOME_LINKS, repository_id=repository_id, limit=limit)
    return [Digest(digest) for digest in found]
