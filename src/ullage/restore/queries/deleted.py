"""What was deleted softly, by repository: for Azure's listings (azure.md section 2.9)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ullage.database.schema import base, content, undo
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries.content.repositories import named_like

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_operations = undo.operations
_kept = undo.kept_repositories
_deleted_tags = undo.deleted_tags


class DeletedRepository(NamedTuple):
    """A repository of which nothing is left but what was deleted softly."""

    name: RepositoryName
    created_at: datetime
    deleted_at: datetime
    counts_from: datetime


class DeletedManifest(NamedTuple):
    """A manifest that was deleted softly. `place` is where it is in the list."""

    digest: Digest
    created_at: datetime
    deleted_at: datetime
    counts_from: datetime
    # Where it is kept, under which id.
    repository_id: int
    manifest_id: int

    @property
    def place(self) -> tuple[int, int]:
        return to_micros(self.deleted_at), self.manifest_id


class DeletedTag(NamedTuple):
    """A tag that was deleted softly, alone or with its manifest."""

    name: Tag
    digest: Digest
    created_at: datetime
    deleted_at: datetime
    counts_from: datetime
    operation_id: str
    # Where its manifest is kept; None if the tag was taken away from one that stayed.
    repository_id: int | None

    @property
    def place(self) -> tuple[int, str, str]:
        return to_micros(self.deleted_at), self.name, self.operation_id


def repositories(
    tx: Transaction, n: int, last: str | None, patterns: Collection[str]
) -> list[DeletedRepository]:
    """Names in byte order, of those that match a pattern and that no live repository has."""
    live = sa.exists().where(
        _repositories.c.name == _kept.c.name, _repositories.c.manifest_count > 0
    )
    hidden = _repositories.alias()
    query = (
        sa.select(
            _kept.c.name,
            sa.func.min(hidden.c.created_at),
            sa.func.max(_operations.c.deleted_at),
            sa.func.max(_operations.c.counts_from),
        )
        .join(hidden, hidden.c.id == _kept.c.repository_id)
        .join(_operations, _operations.c.id == _kept.c.operation_id)
        .where(~live, sa.or_(sa.false(), *(named_like(_kept.c.name, p) for p in sorted(patterns))))
        .group_by(_kept.c.name)
        .order_by(_kept.c.name)
        .limit(n)
    )
    if last is not None:
        query = query.where(_kept.c.name > last)
    return [
        DeletedRepository(RepositoryName(row[0]), *_times(row[1:4])) for row in tx.execute(query)
    ]


def anything_of(tx: Transaction, name: RepositoryName) -> bool:
    """Whether anything of the repository was deleted softly."""
    for table, column in ((_kept, _kept.c.name), (_deleted_tags, _deleted_tags.c.repository)):
        if tx.execute(sa.select(sa.literal(1)).select_from(table).where(column == name)).first():
            return True
    return False


_MANIFESTS = (
    sa.select(
        _manifests.c.digest,
        _manifests.c.pushed_at,
        _operations.c.deleted_at,
        _operations.c.counts_from,
        _manifests.c.repository_id,
        _manifests.c.id,
    )
    .join(_kept, _kept.c.repository_id == _manifests.c.repository_id)
    .join(_operations, _operations.c.id == _kept.c.operation_id)
)


def manifests(
    tx: Transaction, name: RepositoryName, n: int, after: tuple[int, int] | None
) -> list[DeletedManifest]:
    """The manifests of a repository that are not there now, the first deleted first."""
    live = _manifests.alias()
    there = sa.exists().where(
        live.c.repository_id == _repositories.c.id,
        _repositories.c.name == name,
        live.c.digest == _manifests.c.digest,
    )
    query = _MANIFESTS.where(_kept.c.name == name, ~there)
    if after is not None:
        place = sa.tuple_(sa.literal(after[0]), sa.literal(after[1]))
        query = query.where(sa.tuple_(_operations.c.deleted_at, _manifests.c.id) > place)
    query = query.order_by(_operations.c.deleted_at, _manifests.c.id).limit(n)
    return [_manifest(row) for row in tx.execute(query)]


def manifest(tx: Transaction, name: RepositoryName, digest: Digest) -> DeletedManifest | None:
    """Where a manifest of the repository is kept; the one that was deleted last."""
    query = _MANIFESTS.where(_kept.c.name == name, _manifests.c.digest == digest)
    query = query.order_by(_operations.c.deleted_at.desc(), _manifests.c.id.desc()).limit(1)
    for row in tx.execute(query):
        return _manifest(row)
    return None


def _manifest(row: Sequence[Any]) -> DeletedManifest:
    return DeletedManifest(Digest(row[0]), *_times(row[1:4]), row[4], row[5])


def _times(row: Sequence[Any]) -> tuple[datetime, datetime, datetime]:
    first, second, third = map(from_micros, row)
    return first, second, third


def tags(
    tx: Transaction,
    name: RepositoryName,
    n: int,
    after: tuple[int, str, str] | None = None,
    *,
    only: tuple[Tag, Digest] | None = None,
) -> list[DeletedTag]:
    """The tags of a repository that were deleted, the first one first, or `only` these.

    `after` is a place: when deleted, tag, operation. One that was deleted twice is there twice.
    """
    with_manifests = (
        sa.select(
            _tags.c.name.label("tag"),
            _manifests.c.digest.label("digest"),
            _tags.c.created_at.label("created_at"),
            _operations.c.deleted_at.label("deleted_at"),
            _operations.c.counts_from.label("counts_from"),
            _operations.c.id.label("operation_id"),
            _kept.c.repository_id.label("repository_id"),
        )
        .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
        .join(_kept, _kept.c.repository_id == _tags.c.repository_id)
        .join(_operations, _operations.c.id == _kept.c.operation_id)
        .where(_kept.c.name == name)
    )
    alone = (
        sa.select(
            _deleted_tags.c.name,
            _deleted_tags.c.digest,
            _deleted_tags.c.created_at,
            _operations.c.deleted_at,
            _operations.c.counts_from,
            _operations.c.id,
            sa.cast(sa.null(), base.Id),
        )
        .join(_operations, _operations.c.id == _deleted_tags.c.operation_id)
        .where(_deleted_tags.c.repository == name)
    )
    if only is not None:
        with_manifests = with_manifests.where(
            _tags.c.name == only[0], _manifests.c.digest == only[1]
        )
        alone = alone.where(_deleted_tags.c.name == only[0], _deleted_tags.c.digest == only[1])
    both = sa.union_all(with_manifests, alone).subquery()
    order = (both.c.deleted_at, both.c.tag, both.c.operation_id, both.c.digest)
    query = sa.select(both)
    if after is not None:
        place = sa.tuple_(*map(sa.literal, after))
        query = query.where(sa.tuple_(*order[:3]) > place)
    return [
        DeletedTag(Tag(row[0]), Digest(row[1]), *_times(row[2:5]), row[5], row[6])
        for row in tx.execute(query.order_by(*order).limit(n))
    ]
