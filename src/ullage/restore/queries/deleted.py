"""What was deleted softly, by repository: for Azure's listings (azure.md section 2.9)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import base, content, undo
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries.content.repositories import names_and_ranges

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


_hidden = _repositories.alias()
_GONE = (
    sa.select(
        _kept.c.name,
        sa.func.min(_hidden.c.created_at),
        sa.func.max(_operations.c.deleted_at),
        sa.func.max(_operations.c.counts_from),
    )
    .join(_hidden, _hidden.c.id == _kept.c.repository_id)
    .join(_operations, _operations.c.id == _kept.c.operation_id)
    .where(
        _kept.c.name > bindparam("last"),
        ~sa.exists().where(
            _repositories.c.name == _kept.c.name, _repositories.c.manifest_count > 0
        ),
    )
    .group_by(_kept.c.name)
    .order_by(_kept.c.name)
    .limit(LIMIT)
)
_GONE_NAMED = Statement(_GONE.where(among(_kept.c.name, "names")))
_GONE_BETWEEN = Statement(
    _GONE.where(_kept.c.name > bindparam("low"), _kept.c.name < bindparam("high"))
)
_ANYTHING_OF = tuple(
    Statement(sa.select(column).where(column == bindparam("name")).limit(1))
    for column in (_kept.c.name, _deleted_tags.c.repository)
)


def repositories(
    tx: Transaction, n: int, last: str | None, patterns: Collection[str]
) -> list[DeletedRepository]:
    """Names in byte order, of those that match a pattern and that no live repository has."""
    names, ranges = names_and_ranges(patterns)
    place = {"last": last or "", "limit": n}
    rows = tx.rows(_GONE_NAMED, names=names, **place) if names else []
    for low, high in ranges:
        rows += tx.rows(_GONE_BETWEEN, low=low, high=high, **place)
    return [
        DeletedRepository(RepositoryName(row[0]), *_times(row[1:4])) for row in sorted({*rows})[:n]
    ]


def anything_of(tx: Transaction, name: RepositoryName) -> bool:
    """Whether anything of the repository was deleted softly."""
    return any(tx.row(statement, name=name) for statement in _ANYTHING_OF)


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


_OF_REPOSITORY = given(_kept, "name")
_live = _manifests.alias()
_MANIFEST_PAGE = Statement(
    _MANIFESTS.where(
        _OF_REPOSITORY,
        ~sa.exists().where(
            _live.c.repository_id == _repositories.c.id,
            given(_repositories, "name"),
            _live.c.digest == _manifests.c.digest,
        ),
        sa.tuple_(_operations.c.deleted_at, _manifests.c.id)
        > sa.tuple_(
            bindparam("deleted_at", type_=sa.BigInteger), bindparam("id", type_=sa.BigInteger)
        ),
    )
    .order_by(_operations.c.deleted_at, _manifests.c.id)
    .limit(LIMIT)
)
_MANIFEST = Statement(
    _MANIFESTS.where(_OF_REPOSITORY, given(_manifests, "digest"))
    .order_by(_operations.c.deleted_at.desc(), _manifests.c.id.desc())
    .limit(1)
)


def manifests(
    tx: Transaction, name: RepositoryName, n: int, after: tuple[int, int] | None
) -> list[DeletedManifest]:
    """The manifests of a repository that are not there now, the first deleted first."""
    deleted_at, id_ = after or (-1, -1)
    rows = tx.rows(_MANIFEST_PAGE, name=name, deleted_at=deleted_at, id=id_, limit=n)
    return [_manifest(row) for row in rows]


def manifest(tx: Transaction, name: RepositoryName, digest: Digest) -> DeletedManifest | None:
    """Where a manifest of the repository is kept; the one that was deleted last."""
    row = tx.row(_MANIFEST, name=name, digest=digest)
    return None if row is None else _manifest(row)


def _manifest(row: Sequence[Any]) -> DeletedManifest:
    return DeletedManifest(Digest(row[0]), *_times(row[1:4]), row[4], row[5])


def _times(row: Sequence[Any]) -> tuple[datetime, datetime, datetime]:
    first, second, third = map(from_micros, row)
    return first, second, third


def _tag_page(*, of_one: bool) -> Statement:
    """Tags behind a place, first deleted first; or those of one name and digest."""
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
        .where(_OF_REPOSITORY)
    )
    alone = (
        sa.select(
            *_deleted_tags.c["name", "digest", "created_at"],
            *_operations.c["deleted_at", "counts_from", "id"],
            sa.cast(sa.null(), base.Id),
        )
        .join(_operations, _operations.c.id == _deleted_tags.c.operation_id)
        .where(_deleted_tags.c.repository == bindparam("name"))
    )
    if of_one:
        tag, digest = bindparam("only_tag", type_=sa.Text), bindparam("only_digest", type_=sa.Text)
        with_manifests = with_manifests.where(_tags.c.name == tag, _manifests.c.digest == digest)
        alone = alone.where(_deleted_tags.c.name == tag, _deleted_tags.c.digest == digest)
    both = sa.union_all(with_manifests, alone).subquery()
    order = tuple(both.c["deleted_at", "tag", "operation_id", "digest"])
    place = sa.tuple_(
        bindparam("deleted_at", type_=sa.BigInteger),
        bindparam("tag", type_=sa.Text),
        bindparam("operation_id", type_=sa.Text),
    )
    page = sa.select(both).where(sa.tuple_(*order[:3]) > place)
    return Statement(page.order_by(*order).limit(LIMIT))


_TAG_PAGE, _TAG_PAGE_OF_ONE = _tag_page(of_one=False), _tag_page(of_one=True)


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
    place = dict(zip(("deleted_at", "tag", "operation_id"), after or (-1, "", ""), strict=True))
    wanted = {"name": name, "limit": n, **place}
    if only is None:
        rows = tx.rows(_TAG_PAGE, **wanted)
    else:
        rows = tx.rows(_TAG_PAGE_OF_ONE, only_tag=only[0], only_digest=only[1], **wanted)
    return [
        DeletedTag(Tag(row[0]), Digest(row[1]), *_times(row[2:5]), row[5], row[6]) for row in rows
    ]
