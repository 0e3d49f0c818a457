"""What holds what: the questions that decide, before a deletion, what it takes and what it frees.

Every answer costs what it is about, never what the registry holds: indexes lead everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.metadata import schema
from ullage.metadata.content import ManifestRow
from ullage.metadata.database import Transaction
from ullage.metadata.leases import Link, Promised
from ullage.metadata.moments import from_moment, moment
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
_kept = schema.kept_repositories


_ROW = (_manifests.c.id, _manifests.c.digest, _manifests.c.size, _manifests.c.subject)


class HeldBlob(NamedTuple):
    """A blob, and how many manifests and repositories there are that hold it."""

    size: int
    manifest_refs: int
    repository_count: int


class LinkState(NamedTuple):
    """A repository's link to a blob. `name` is None while that repository is being erased.

    What was deleted softly has its name still, and is `hidden`.
    """

    link: Link
    name: str | None
    hidden: bool
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


_TAGGED = Statement(
    sa.select(_tags.c.name, *_ROW)
    .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
    .where(_tags.c.repository_id == bindparam("repository_id"), among(_tags.c.name, "tags"))
)


def tagged(tx: Transaction, repository_id: int, tags: Collection[Tag]) -> dict[Tag, ManifestRow]:
    """What those of these tags that exist point to."""
    rows = tx.rows(_TAGGED, repository_id=repository_id, tags=tags) if tags else ()
    return {Tag(row[0]): _manifest_row(row[1:]) for row in rows}


_ALL_MANIFESTS = Statement(
    sa.select(*_ROW)
    .where(_manifests.c.repository_id == bindparam("repository_id"))
    .order_by(_manifests.c.id)
)


def all_manifests(tx: Transaction, repository_id: int) -> list[ManifestRow]:
    """Everything in the repository, in the order it was pushed."""
    return [_manifest_row(row) for row in tx.rows(_ALL_MANIFESTS, repository_id=repository_id)]


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


class Stamp(NamedTuple):
    """What is different once anything in a repository is."""

    repository_id: int
    updated_at: int
    manifests: int
    tags: int
    blob_bytes: int


_STAMP = Statement(
    sa.select(
        _repositories.c.id,
        _repositories.c.updated_at,
        _repositories.c.manifest_count,
        _repositories.c.tag_count,
        _repositories.c.blob_bytes,
    ).where(_repositories.c.name == bindparam("name"))
)


def stamp(tx: Transaction, name: str) -> Stamp | None:
    """How the repository is now, to see later whether it is still so; None if it is not there."""
    row = tx.row(_STAMP, name=name)
    return None if row is None else Stamp(*row)


# --- blobs ----------------------------------------------------------------------------------------


_FACTS = (_blobs.c.digest, _blobs.c.size, _blobs.c.manifest_refs, _blobs.c.repository_count)
_HELD_BLOBS = Statement(sa.select(*_FACTS).where(among(_blobs.c.digest, "digests")))


def held_blobs(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, HeldBlob]:
    """Size and numbers of holders of those of these blobs that exist."""
    rows = tx.rows(_HELD_BLOBS, digests=digests) if digests else ()
    return {Digest(row[0]): HeldBlob(row[1], row[2], row[3]) for row in rows}


_BLOBS_OF = (
    sa.select(*_FACTS)
    .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
    .where(_repo_blobs.c.repository_id == bindparam("repository_id"))
)
_SHARED_IN = Statement(_BLOBS_OF.where(_blobs.c.repository_count > 1))
_ALONE_IN = Statement(
    _BLOBS_OF.where(_blobs.c.repository_count <= 1).with_only_columns(
        sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)
    )
)


def shared_in(tx: Transaction, repository_id: int) -> list[tuple[Digest, HeldBlob]]:
    """Everything that a repository links and others link too."""
    rows = tx.rows(_SHARED_IN, repository_id=repository_id)
    return [(Digest(row[0]), HeldBlob(row[1], row[2], row[3])) for row in rows]


def alone_in(tx: Transaction, repository_id: int) -> int:
    """Bytes of everything that only this repository links."""
    return int(tx.value(_ALONE_IN, repository_id=repository_id))


class Losing(NamedTuple):
    """What blobs lose when manifests go."""

    # Bytes of those that nothing else holds anywhere; and of those of them that were linked so long
    # ago that a promise of them may have been forgotten.
    alone_bytes: int
    doubted_bytes: int
    # The others, each with how many references it loses.
    others: dict[Digest, tuple[int, HeldBlob]]


_LOSING = """
    WITH lost AS MATERIALIZED (
        SELECT digest, count(*) AS number FROM manifest_blobs WHERE manifest_id {ids}
        GROUP BY digest
    ), facts AS MATERIALIZED (
        SELECT l.digest, l.number, b.size, b.manifest_refs, b.repository_count,
            b.repository_count = 1 AND b.manifest_refs <= l.number AND NOT l.digest {promised}
            AS alone
        FROM lost l JOIN blobs b ON b.digest = l.digest
    )
    SELECT NULL AS digest, 0 AS number, coalesce(sum(size), 0), 0, 0 FROM facts
    WHERE alone AND NOT {doubted}
    UNION ALL
    SELECT NULL, 1, coalesce(sum(size), 0), 0, 0 FROM facts WHERE alone AND {doubted}
    UNION ALL
    SELECT digest, number, size, manifest_refs, repository_count FROM facts WHERE NOT alone"""
_LIST = {
    "sqlite": "IN (SELECT value FROM json_each(:{name}))",
    "postgresql": "= ANY (:{name})",
}
_NOBODY_DOUBTS = "(1 = 0)"
_LINKED_LONG_AGO = """EXISTS (SELECT 1 FROM repo_blobs r WHERE r.repository_id = :repository_id
    AND r.digest = facts.digest AND r.linked_at <= :linked_until)"""


def losing(tx: Transaction, repository_id: int, ids: Collection[int], promised: Promised) -> Losing:
    """What the blobs of these manifests of a repository lose with them.

    One pass over the references of these manifests, or, where most of a repository goes, over its
    links and the references of those that stay.
    """
    if len(ids) * 2 > _count_in(tx, repository_id):
        return _losing_most(tx, repository_id, ids, promised)
    lists: dict[str, Any] = {"ids": [*ids], "promised": [*promised.digests]}
    if tx.dialect == "sqlite":
        lists = {name: json.dumps(values) for name, values in lists.items()}
    parts = {name: _LIST[tx.dialect].format(name=name) for name in lists}
    values = dict(lists)
    if promised.linked_until is None:
        parts["doubted"] = _NOBODY_DOUBTS
    else:
        parts["doubted"] = _LINKED_LONG_AGO
        values |= {
            "repository_id": repository_id,
            "linked_until": moment(promised.linked_until),
        }
    rows = tx.execute(sa.text(_LOSING.format(**parts)), values).all()
    sums = {row[1]: int(row[2]) for row in rows if row[0] is None}
    others = {
        Digest(row[0]): (int(row[1]), HeldBlob(int(row[2]), row[3], row[4]))
        for row in rows
        if row[0] is not None
    }
    return Losing(sums[0], sums[1], others)


def _count_in(tx: Transaction, repository_id: int) -> int:
    return int(tx.value(_COUNT_IN, repository_id=repository_id) or 0)


_COUNT_IN = Statement(
    sa.select(_repositories.c.manifest_count).where(
        _repositories.c.id == bindparam("repository_id")
    )
)
_STAYING = Statement(
    sa.select(_manifests.c.id).where(
        _manifests.c.repository_id == bindparam("repository_id"),
        sa.not_(among(_manifests.c.id, "ids")),
    )
)
_ALONE_BUT = Statement(
    sa.select(
        _repo_blobs.c.linked_at <= bindparam("linked_until", type_=sa.BigInteger),
        sa.func.sum(_blobs.c.size),
    )
    .join(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
    .where(
        _repo_blobs.c.repository_id == bindparam("repository_id"),
        _blobs.c.repository_count == 1,
        _blobs.c.manifest_refs > 0,
        sa.not_(among(_blobs.c.digest, "digests")),
    )
    .group_by(_repo_blobs.c.linked_at <= bindparam("linked_until", type_=sa.BigInteger))
)


def _losing_most(
    tx: Transaction, repository_id: int, ids: Collection[int], promised: Promised
) -> Losing:
    """As losing: what a repository alone links goes, unless a manifest that stays refers to it."""
    staying = tx.values(_STAYING, repository_id=repository_id, ids=ids)
    kept = {Digest(row[0]): int(row[1]) for row in tx.rows(_REFERENCES_OF, ids=staying)}
    apart = kept.keys() | promised.digests
    until = -1 if promised.linked_until is None else moment(promised.linked_until)
    rows = tx.rows(_ALONE_BUT, repository_id=repository_id, linked_until=until, digests=apart)
    sums = {bool(row[0]): int(row[1]) for row in rows}
    linked = links_in(tx, repository_id, apart)
    blobs = dict(shared_in(tx, repository_id)) | held_blobs(tx, [link.digest for link in linked])
    shared = [digest for digest, blob in blobs.items() if blob.repository_count > 1]
    here = references_among(tx, [repository_id], shared)
    others: dict[Digest, tuple[int, HeldBlob]] = {}
    for digest, blob in blobs.items():
        references = here.get(digest, 0) if blob.repository_count > 1 else blob.manifest_refs
        lost = references - kept.get(digest, 0)
        if lost > 0:
            others[digest] = (lost, blob)
    return Losing(sums.get(False, 0), sums.get(True, 0), others)


_REFERENCES_OF = Statement(
    sa.select(_manifest_blobs.c.digest, sa.func.count())
    .where(among(_manifest_blobs.c.manifest_id, "ids"))
    .group_by(_manifest_blobs.c.digest)
)
_REFERENCES_AMONG = Statement(
    sa.select(_manifest_blobs.c.digest, sa.func.count())
    .where(
        _manifest_blobs.c.repository_id == bindparam("repository_id"),
        among(_manifest_blobs.c.digest, "digests"),
    )
    .group_by(_manifest_blobs.c.digest)
)


def references_among(
    tx: Transaction, repository_ids: Collection[int], digests: Collection[Digest]
) -> dict[Digest, int]:
    """How many manifests of these repositories refer to each of these blobs."""
    found: dict[Digest, int] = {}
    for repository_id in sorted(repository_ids) if digests else ():
        rows = tx.rows(_REFERENCES_AMONG, repository_id=repository_id, digests=digests)
        for digest, count in rows:
            found[Digest(digest)] = found.get(Digest(digest), 0) + count
    return found


_LINKS_IN = Statement(
    sa.select(_repo_blobs.c.digest, _repo_blobs.c.linked_at).where(
        _repo_blobs.c.repository_id == bindparam("repository_id"),
        among(_repo_blobs.c.digest, "digests"),
    )
)


def links_in(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> list[Link]:
    """A repository's links to those of these blobs that it links."""
    rows = tx.rows(_LINKS_IN, repository_id=repository_id, digests=digests) if digests else ()
    return [Link(repository_id, Digest(row[0]), from_moment(row[1])) for row in rows]


_ERASING = Statement(sa.select(_repositories.c.id).where(_repositories.c.deleted_at.is_not(None)))
_LINKED_WITH_REFERENCES = Statement(
    sa.select(
        _repo_blobs.c.digest,
        sa.select(sa.func.count())
        .where(
            _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
            _manifest_blobs.c.digest == _repo_blobs.c.digest,
        )
        .correlate(_repo_blobs)
        .scalar_subquery(),
    ).where(
        _repo_blobs.c.repository_id == bindparam("repository_id"),
        among(_repo_blobs.c.digest, "digests"),
    )
)


def erasing(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, int]:
    """Which of these blobs repositories link that are deleted and not erased yet.

    With how many manifests of such repositories refer to them.
    """
    found: dict[Digest, int] = {}
    for repository_id in tx.values(_ERASING) if digests else ():
        rows = tx.rows(_LINKED_WITH_REFERENCES, repository_id=repository_id, digests=digests)
        for digest, count in rows:
            found[Digest(digest)] = found.get(Digest(digest), 0) + count
    return found


_LINKS_OF = Statement(
    sa.select(
        _repo_blobs.c.repository_id,
        _repo_blobs.c.digest,
        _repo_blobs.c.linked_at,
        sa.func.coalesce(_repositories.c.name, _kept.c.name),
        _kept.c.name.is_not(None),
        _reviews.c.due_at,
    )
    .join(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
    .outerjoin(_kept, _kept.c.repository_id == _repo_blobs.c.repository_id)
    .outerjoin(
        _reviews,
        sa.and_(
            _reviews.c.repository_id == _repo_blobs.c.repository_id,
            _reviews.c.digest == _repo_blobs.c.digest,
        ),
    )
    .where(among(_repo_blobs.c.digest, "digests"))
    .order_by(_repo_blobs.c.digest, _repo_blobs.c.repository_id)
)


def links_of(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, list[LinkState]]:
    """Every repository's link to these blobs. For blobs that hardly anybody links."""
    found: dict[Digest, list[LinkState]] = {}
    rows = tx.rows(_LINKS_OF, digests=digests) if digests else ()
    for repository_id, digest, linked_at, name, hidden, due_at in rows:
        link = Link(repository_id, Digest(digest), from_moment(linked_at))
        review_at = from_moment(due_at) if due_at is not None else None
        state = LinkState(link, name, bool(hidden), review_at)
        found.setdefault(Digest(digest), []).append(state)
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
