"""What holds what: the questions that decide, before a deletion, what it takes and what it frees.

Every answer costs what it is about, never what the registry holds: indexes lead everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ullage.metadata import schema
from ullage.metadata.content import ManifestRow
from ullage.metadata.database import Transaction, chunks
from ullage.metadata.leases import Link
from ullage.metadata.moments import from_moment
from ullage.metadata.statements import Statement, among
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag

_repositories = schema.repositories
_manifests = schema.manifests
_tags = schema.tags
_blobs = schema.blobs
_repo_blobs = schema.repo_blobs
_manifest_blobs = schema.manifest_blobs
_children = schema.manifest_children
_reviews = schema.reviews


_ROW = (_manifests.c.id, _manifests.c.digest, _manifests.c.size, _manifests.c.subject)


class HeldBlob(NamedTuple):
    """A blob, and how many manifests and repositories there are that hold it."""

    size: int
    manifest_refs: int
    repository_count: int


class LinkState(NamedTuple):
    """A repository's link to a blob. `name` is None while that repository is being erased."""

    link: Link
    name: str | None
    # When it will be looked at again; None if a manifest uses it.
    review_at: datetime | None


class Share(NamedTuple):
    """How much of a repository there is, for judging how much of it a deletion would take."""

    manifests: int
    tags: int
    # The tag that was set last, and the manifest it points to.
    newest_tag: Tag | None
    newest_manifest_id: int | None


# --- manifests ------------------------------------------------------------------------------------


_CHILDREN = Statement(
    sa.select(_children.c.parent_id, *_ROW)
    .join(_manifests, _manifests.c.id == _children.c.child_id)
    .where(among(_children.c.parent_id, "ids"))
    .order_by(_children.c.parent_id, _children.c.child_id)
)


def children(tx: Transaction, ids: Collection[int]) -> list[tuple[int, ManifestRow]]:
    """Each of these manifests' children: (parent's id, child)."""
    if not ids:
        return []
    return [(row[0], _manifest_row(row[1:])) for row in tx.rows(_CHILDREN, ids=ids)]


_TAGS_ON = Statement(
    sa.select(_tags.c.manifest_id, _tags.c.name)
    .where(among(_tags.c.manifest_id, "ids"))
    .order_by(_tags.c.name)
)


def tags_on(tx: Transaction, ids: Collection[int]) -> dict[int, list[Tag]]:
    """The tags of each of these manifests that has any, in byte order."""
    found: dict[int, list[Tag]] = {}
    for manifest_id, name in tx.rows(_TAGS_ON, ids=ids) if ids else ():
        found.setdefault(manifest_id, []).append(Tag(name))
    return found


def tagged(tx: Transaction, repository_id: int, tags: Collection[Tag]) -> dict[Tag, ManifestRow]:
    """What those of these tags that exist point to."""
    found: dict[Tag, ManifestRow] = {}
    for some in chunks(sorted(tags)):
        query = (
            sa.select(_tags.c.name, *_ROW)
            .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
            .where(_tags.c.repository_id == repository_id, _tags.c.name.in_(some))
        )
        found.update((Tag(row[0]), _manifest_row(row[1:])) for row in tx.execute(query))
    return found


def all_manifests(tx: Transaction, repository_id: int) -> list[ManifestRow]:
    """Everything in the repository, in the order it was pushed."""
    query = sa.select(*_ROW).where(_manifests.c.repository_id == repository_id)
    return [_manifest_row(row) for row in tx.execute(query.order_by(_manifests.c.id))]


def _manifest_row(row: Sequence[Any]) -> ManifestRow:
    manifest_id, digest, size, subject = row
    return ManifestRow(manifest_id, Digest(digest), size, Digest(subject) if subject else None)


def share(tx: Transaction, repository_id: int) -> Share:
    """How much there is in a repository, by its counters."""
    row = tx.execute(
        sa.select(_repositories.c.manifest_count, _repositories.c.tag_count).where(
            _repositories.c.id == repository_id
        )
    ).one()
    newest = tx.execute(
        sa.select(_tags.c.name, _tags.c.manifest_id)
        .where(_tags.c.repository_id == repository_id)
        .order_by(_tags.c.updated_at.desc(), _tags.c.name)
        .limit(1)
    ).first()
    if newest is None:
        return Share(row[0], row[1], None, None)
    return Share(row[0], row[1], Tag(newest[0]), newest[1])


# --- blobs ----------------------------------------------------------------------------------------


def held_blobs(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, HeldBlob]:
    """Size and numbers of holders of those of these blobs that exist."""
    found: dict[Digest, HeldBlob] = {}
    for some in chunks(sorted(digests)):
        query = sa.select(
            _blobs.c.digest, _blobs.c.size, _blobs.c.manifest_refs, _blobs.c.repository_count
        ).where(_blobs.c.digest.in_(some))
        found.update((Digest(row[0]), HeldBlob(*row[1:])) for row in tx.execute(query))
    return found


def blobs_in(tx: Transaction, repository_ids: Collection[int]) -> dict[Digest, tuple[int, int]]:
    """What these repositories link: how many of them do, and how many of their manifests refer."""
    found: dict[Digest, tuple[int, int]] = {}
    for repository_id in sorted(repository_ids):
        links = sa.select(_repo_blobs.c.digest).where(_repo_blobs.c.repository_id == repository_id)
        for digest in tx.execute(links).scalars():
            count, references = found.get(Digest(digest), (0, 0))
            found[Digest(digest)] = (count + 1, references)
        counts = (
            sa.select(_manifest_blobs.c.digest, sa.func.count())
            .where(_manifest_blobs.c.repository_id == repository_id)
            .group_by(_manifest_blobs.c.digest)
        )
        for digest, referring in tx.execute(counts):
            count, references = found[Digest(digest)]
            found[Digest(digest)] = (count, references + referring)
    return found


def erasing(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, tuple[int, int]]:
    """As blobs_in, for these blobs and the repositories that are deleted and not erased yet."""
    query = sa.select(_repositories.c.id).where(_repositories.c.deleted_at.is_not(None))
    ids = list(tx.execute(query).scalars())
    found: dict[Digest, tuple[int, int]] = {}
    for repository_id in ids:
        for some in chunks(sorted(digests)):
            references = (
                sa.select(sa.func.count())
                .where(
                    _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
                    _manifest_blobs.c.digest == _repo_blobs.c.digest,
                )
                .correlate(_repo_blobs)
                .scalar_subquery()
            )
            links = sa.select(_repo_blobs.c.digest, references).where(
                _repo_blobs.c.repository_id == repository_id, _repo_blobs.c.digest.in_(some)
            )
            for digest, referring in tx.execute(links):
                count, known = found.get(Digest(digest), (0, 0))
                found[Digest(digest)] = (count + 1, known + referring)
    return found


def links_of(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, list[LinkState]]:
    """Every repository's link to these blobs. For blobs that hardly anybody links."""
    found: dict[Digest, list[LinkState]] = {}
    for some in chunks(sorted(digests)):
        query = (
            sa.select(
                _repo_blobs.c.repository_id,
                _repo_blobs.c.digest,
                _repo_blobs.c.linked_at,
                _repositories.c.name,
                _reviews.c.due_at,
            )
            .join(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
            .outerjoin(
                _reviews,
                sa.and_(
                    _reviews.c.repository_id == _repo_blobs.c.repository_id,
                    _reviews.c.digest == _repo_blobs.c.digest,
                ),
            )
            .where(_repo_blobs.c.digest.in_(some))
            .order_by(_repo_blobs.c.digest, _repo_blobs.c.repository_id)
        )
        for repository_id, digest, linked_at, name, due_at in tx.execute(query):
            link = Link(repository_id, Digest(digest), from_moment(linked_at))
            review_at = from_moment(due_at) if due_at is not None else None
            found.setdefault(Digest(digest), []).append(LinkState(link, name, review_at))
    return found


def some_holders(tx: Transaction, digest: Digest, limit: int) -> list[str]:
    """Up to `limit` repositories, by name, with a manifest that refers to the blob."""
    referenced = sa.exists().where(
        _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
        _manifest_blobs.c.digest == _repo_blobs.c.digest,
    )
    query = (
        sa.select(_repositories.c.name)
        .join(_repo_blobs, _repo_blobs.c.repository_id == _repositories.c.id)
        .where(_repo_blobs.c.digest == digest, _repositories.c.name.is_not(None), referenced)
        .order_by(_repo_blobs.c.repository_id)
        .limit(limit)
    )
    return sorted(tx.execute(query).scalars())


def refers_more_often(tx: Transaction, repository_id: int, digest: Digest, than: int) -> bool:
    """Whether more than `than` manifests of the repository refer to the blob."""
    some = (
        sa.select(_manifest_blobs.c.manifest_id)
        .where(_manifest_blobs.c.repository_id == repository_id, _manifest_blobs.c.digest == digest)
        .limit(than + 1)
    )
    count = tx.execute(sa.select(sa.func.count()).select_from(some.subquery())).scalar_one()
    return int(count) > than
