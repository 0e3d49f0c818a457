"""Rows that ought not to be there, or not any more: broken, forgotten, overdue."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ullage.check.queries.paging import Ids, Pair, Which, choose
from ullage.check.queries.rows import NAME
from ullage.database.schema import cleaning, content, space, undo
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction

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


class LinkFacts(NamedTuple):
    key: Pair
    repository: str | None
    # None if there is no such blob.
    size: int | None


def broken_links(tx: Transaction, which: Which[Pair]) -> list[LinkFacts]:
    """Links without a repository or without a blob."""
    where = sa.or_(_repositories.c.id.is_(None), _blobs.c.digest.is_(None))
    return _links(tx, which, where)


def forgotten_links(tx: Transaction, which: Which[Pair]) -> list[LinkFacts]:
    """Links that no manifest of their repository needs and that no review will look at again."""
    referenced = sa.exists().where(
        _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
        _manifest_blobs.c.digest == _repo_blobs.c.digest,
    )
    reviewed = sa.exists().where(
        _reviews.c.repository_id == _repo_blobs.c.repository_id,
        _reviews.c.digest == _repo_blobs.c.digest,
    )
    return _links(tx, which, sa.and_(~referenced, ~reviewed))


def _links(tx: Transaction, which: Which[Pair], where: sa.ColumnElement[bool]) -> list[LinkFacts]:
    query = (
        sa.select(
            _repo_blobs.c.repository_id,
            _repo_blobs.c.digest,
            NAME,
            _blobs.c.size,
        )
        .outerjoin(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
        .outerjoin(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
        .where(_repositories.c.deleted_at.is_(None), where)
    )
    chosen = choose(query, (_repo_blobs.c.repository_id, _repo_blobs.c.digest), which)
    return [LinkFacts((row[0], row[1]), row[2], row[3]) for row in tx.execute(chosen)]


def overdue_reviews(tx: Transaction, which: Which[Pair], before: datetime) -> list[LinkFacts]:
    """Reviews that should have happened before that time."""
    query = (
        sa.select(_reviews.c.repository_id, _reviews.c.digest, NAME, _blobs.c.size)
        .outerjoin(_repositories, _repositories.c.id == _reviews.c.repository_id)
        .outerjoin(_blobs, _blobs.c.digest == _reviews.c.digest)
        .where(_repositories.c.deleted_at.is_(None), _reviews.c.due_at < to_micros(before))
    )
    chosen = choose(query, (_reviews.c.repository_id, _reviews.c.digest), which)
    return [LinkFacts((row[0], row[1]), row[2], row[3]) for row in tx.execute(chosen)]


class Ownerless(NamedTuple):
    """Something recorded for a manifest that does not exist: its id, and what it would hold."""

    key: tuple[int, str | int]


def ownerless_references(tx: Transaction, which: Which[Pair]) -> list[Ownerless]:
    """Blobs held by manifests that do not exist."""
    return _ownerless(tx, which, _manifest_blobs.c.manifest_id, _manifest_blobs.c.digest)


def ownerless_children(tx: Transaction, which: Which[Ids]) -> list[Ownerless]:
    """Manifests held by indexes that do not exist."""
    return _ownerless(tx, which, _children.c.parent_id, _children.c.child_id)


def _ownerless(
    tx: Transaction, which: Which[Any], owner: sa.Column[Any], held: sa.Column[Any]
) -> list[Ownerless]:
    query = (
        sa.select(owner, held)
        .outerjoin(_manifests, _manifests.c.id == owner)
        .where(_manifests.c.id.is_(None))
    )
    return [Ownerless((row[0], row[1])) for row in tx.execute(choose(query, (owner, held), which))]


class JoblessItem(NamedTuple):
    """What a job was about that does not exist: the job's id, and the item's position."""

    key: tuple[str, int]


class JobFacts(NamedTuple):
    """A job that something is wrong with."""

    key: str
    kind: str


def jobless_items(tx: Transaction, which: Which[tuple[str, int]]) -> list[JoblessItem]:
    """What jobs were about that do not exist."""
    items, jobs = cleaning.job_items, cleaning.jobs
    query = (
        sa.select(items.c.job_id, items.c.position)
        .outerjoin(jobs, jobs.c.id == items.c.job_id)
        .where(jobs.c.id.is_(None))
    )
    chosen = choose(query, (items.c.job_id, items.c.position), which)
    return [JoblessItem((row[0], row[1])) for row in tx.execute(chosen)]


def stalled_jobs(tx: Transaction, which: Which[str], before: datetime) -> list[JobFacts]:
    """Jobs that were asked for before that time and that nobody has worked on since."""
    jobs = cleaning.jobs
    left = sa.or_(jobs.c.claimed_until.is_(None), jobs.c.claimed_until < to_micros(before))
    query = sa.select(jobs.c.id, jobs.c.kind).where(
        jobs.c.finished_at.is_(None), jobs.c.created_at < to_micros(before), left
    )
    return [JobFacts(*row) for row in tx.execute(choose(query, (jobs.c.id,), which))]


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


def odd_kept(tx: Transaction, which: Which[int]) -> list[KeptFacts]:
    """Repositories that are kept for a restore, and are not only that."""
    query = (
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
        )
    )
    chosen = choose(query, (_kept.c.repository_id,), which)
    return [KeptFacts(row[0], row[1], row[2], bool(row[3]), row[4]) for row in tx.execute(chosen)]


def empty_operations(tx: Transaction, which: Which[str]) -> list[OperationFacts]:
    """Operations that keep nothing."""
    query = sa.select(_operations.c.id, _operations.c.kind).where(
        ~sa.exists().where(_kept.c.operation_id == _operations.c.id),
        ~sa.exists().where(_deleted_tags.c.operation_id == _operations.c.id),
    )
    chosen = choose(query, (_operations.c.id,), which)
    return [OperationFacts(*row) for row in tx.execute(chosen)]


def overdue_operations(
    tx: Transaction, which: Which[str], before: datetime
) -> list[OperationFacts]:
    """Operations whose days are counted from before that time, and so should be over."""
    query = sa.select(_operations.c.id, _operations.c.kind).where(
        _operations.c.counts_from < to_micros(before)
    )
    chosen = choose(query, (_operations.c.id,), which)
    return [OperationFacts(*row) for row in tx.execute(chosen)]
