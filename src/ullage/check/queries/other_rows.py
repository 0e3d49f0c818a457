"""Rows that ought not to be there, or not any more: broken, forgotten, overdue."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.check.queries.paging import Ids, Pages, Pair, Which, pages
from ullage.check.queries.rows import NAME
from ullage.database.schema import cleaning, content, space, undo
from ullage.database.statements import same
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Row, Transaction

_repositories = content.repositories
_manifests = content.manifests
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children
_reviews = space.reviews
_kept = undo.kept_repositories
_operations = undo.operations
_deleted_tags = undo.deleted_tags
_jobs = cleaning.jobs
_items = cleaning.job_items


class LinkFacts(NamedTuple):
    key: Pair
    repository: str | None
    # None if there is no such blob.
    size: int | None


def _links(where: sa.ColumnElement[bool]) -> Pages:
    query = (
        sa.select(_repo_blobs.c.repository_id, _repo_blobs.c.digest, NAME, _blobs.c.size)
        .outerjoin(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
        .outerjoin(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
        .where(_repositories.c.deleted_at.is_(None), where)
    )
    return pages(query, _repo_blobs.c.repository_id, _repo_blobs.c.digest)


_BROKEN_LINKS = _links(sa.or_(_repositories.c.id.is_(None), _blobs.c.digest.is_(None)))
_FORGOTTEN_LINKS = _links(
    sa.and_(
        *(
            ~sa.exists().where(same(table, _repo_blobs, "repository_id", "digest"))
            for table in (_manifest_blobs, _reviews)
        )
    )
)
_OVERDUE_REVIEWS = pages(
    sa.select(_reviews.c.repository_id, _reviews.c.digest, NAME, _blobs.c.size)
    .outerjoin(_repositories, _repositories.c.id == _reviews.c.repository_id)
    .outerjoin(_blobs, _blobs.c.digest == _reviews.c.digest)
    .where(_repositories.c.deleted_at.is_(None), _reviews.c.due_at < bindparam("before")),
    _reviews.c.repository_id,
    _reviews.c.digest,
)


def broken_links(tx: Transaction, which: Which[Pair]) -> list[LinkFacts]:
    """Links without a repository or without a blob."""
    return [_link(row) for row in _BROKEN_LINKS.rows(tx, which)]


def forgotten_links(tx: Transaction, which: Which[Pair]) -> list[LinkFacts]:
    """Links that no manifest of their repository needs and that no review will look at again."""
    return [_link(row) for row in _FORGOTTEN_LINKS.rows(tx, which)]


def overdue_reviews(tx: Transaction, which: Which[Pair], before: datetime) -> list[LinkFacts]:
    """Reviews that should have happened before that time."""
    return [_link(row) for row in _OVERDUE_REVIEWS.rows(tx, which, before=to_micros(before))]


def _link(row: Row) -> LinkFacts:
    return LinkFacts((row[0], row[1]), row[2], row[3])


class Ownerless(NamedTuple):
    """Something recorded for a manifest that does not exist: its id, and what it would refer to."""

    key: tuple[int, str | int]


def _ownerless(owner: sa.Column[Any], referenced: sa.Column[Any]) -> Pages:
    query = (
        sa.select(owner, referenced)
        .outerjoin(_manifests, _manifests.c.id == owner)
        .where(_manifests.c.id.is_(None))
    )
    return pages(query, owner, referenced)


_OWNERLESS_REFERENCES = _ownerless(_manifest_blobs.c.manifest_id, _manifest_blobs.c.digest)
_OWNERLESS_CHILDREN = _ownerless(_children.c.parent_id, _children.c.child_id)


def ownerless_references(tx: Transaction, which: Which[Pair]) -> list[Ownerless]:
    """Blobs of manifests that do not exist."""
    return [Ownerless((row[0], row[1])) for row in _OWNERLESS_REFERENCES.rows(tx, which)]


def ownerless_children(tx: Transaction, which: Which[Ids]) -> list[Ownerless]:
    """Children of indexes that do not exist."""
    return [Ownerless((row[0], row[1])) for row in _OWNERLESS_CHILDREN.rows(tx, which)]


class JoblessItem(NamedTuple):
    """What a job was about that does not exist: the job's id, and the item's position."""

    key: tuple[str, int]


class JobFacts(NamedTuple):
    """A job that something is wrong with."""

    key: str
    kind: str


_JOBLESS_ITEMS = pages(
    sa.select(_items.c.job_id, _items.c.position)
    .outerjoin(_jobs, _jobs.c.id == _items.c.job_id)
    .where(_jobs.c.id.is_(None)),
    _items.c.job_id,
    _items.c.position,
)
_STALLED_JOBS = pages(
    sa.select(_jobs.c.id, _jobs.c.kind).where(
        _jobs.c.finished_at.is_(None),
        _jobs.c.created_at < bindparam("before"),
        sa.or_(_jobs.c.claimed_until.is_(None), _jobs.c.claimed_until < bindparam("before")),
    ),
    _jobs.c.id,
)


def jobless_items(tx: Transaction, which: Which[tuple[str, int]]) -> list[JoblessItem]:
    """What jobs were about that do not exist."""
    return [JoblessItem((row[0], row[1])) for row in _JOBLESS_ITEMS.rows(tx, which)]


def stalled_jobs(tx: Transaction, which: Which[str], before: datetime) -> list[JobFacts]:
    """Jobs that were asked for before that time and that no worker has claimed since."""
    return [JobFacts(*row) for row in _STALLED_JOBS.rows(tx, which, before=to_micros(before))]


class KeptFacts(NamedTuple):
    """A repository that is kept and also live, being erased or not there; or by no operation."""

    key: int
    name: str
    live_name: str | None
    erased: bool
    operation: str | None


class OperationFacts(NamedTuple):
    """An operation that something is wrong with."""

    key: str
    kind: str


_ODD_KEPT = pages(
    sa.select(
        _kept.c.repository_id,
        _kept.c.name,
        _repositories.c.name,
        sa.or_(_repositories.c.deleted_at.is_not(None), _repositories.c.id.is_(None)),
        _operations.c.id,
    )
    .outerjoin(_repositories, _repositories.c.id == _kept.c.repository_id)
    .outerjoin(_operations, _operations.c.id == _kept.c.operation_id)
    .where(
        sa.or_(
            _operations.c.id.is_(None),
            _repositories.c.name.is_not(None),
            _repositories.c.deleted_at.is_not(None),
            _repositories.c.id.is_(None),
        )
    ),
    _kept.c.repository_id,
)
_OPERATIONS = sa.select(_operations.c.id, _operations.c.kind)
_EMPTY_OPERATIONS = pages(
    _OPERATIONS.where(
        ~sa.exists().where(_kept.c.operation_id == _operations.c.id),
        ~sa.exists().where(_deleted_tags.c.operation_id == _operations.c.id),
    ),
    _operations.c.id,
)
_OVERDUE_OPERATIONS = pages(
    _OPERATIONS.where(_operations.c.counts_from < bindparam("before")), _operations.c.id
)


def odd_kept(tx: Transaction, which: Which[int]) -> list[KeptFacts]:
    """Repositories that are kept for a restore, and are not only that."""
    rows = _ODD_KEPT.rows(tx, which)
    return [KeptFacts(row[0], row[1], row[2], bool(row[3]), row[4]) for row in rows]


def empty_operations(tx: Transaction, which: Which[str]) -> list[OperationFacts]:
    """Operations that keep nothing."""
    return [OperationFacts(*row) for row in _EMPTY_OPERATIONS.rows(tx, which)]


def overdue_operations(
    tx: Transaction, which: Which[str], before: datetime
) -> list[OperationFacts]:
    """Operations whose days are counted from before that time, and so should be over."""
    rows = _OVERDUE_OPERATIONS.rows(tx, which, before=to_micros(before))
    return [OperationFacts(*row) for row in rows]
