"""Pages of tags and manifests with all that is shown of them, by name or by time of update.

A page is found by an index, from the place where the one before it ended: what it costs does not
depend on how much there is, nor on how far in it lies. The place need not exist any more. Hidden
rows are left out. All statements of one page have to see one moment (Database.snapshot).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Row, Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag
from ullage.registry.queries.attributes import Attributes, attribute_columns, attributes_of
from ullage.registry.queries.content.manifests import Platform

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_children = content.manifest_children


class Order(Enum):
    """azure.md section 2.2, `orderby`."""

    NAME = "name"
    OLDEST_FIRST = "timeasc"
    NEWEST_FIRST = "timedesc"


class Position(NamedTuple):
    """A place in a listing: a tag or digest, and the time of update it had there.

    Without the time it is a place among names only.
    """

    name: str
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RepositoryDetails:
    name: str
    created_at: datetime
    updated_at: datetime
    manifest_count: int
    tag_count: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class TagDetails:
    name: Tag
    digest: Digest
    created_at: datetime
    updated_at: datetime
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class ManifestDetails:
    """A manifest as listings show it. Sizes in bytes.

    `tags`: those on it that are not hidden, in byte order. None for an orphan: it has no tag at
    all, no index lists it, and its subject, if it names one, is not there (deletion.md section 2).
    """

    id: int
    digest: Digest
    media_type: str
    config_media_type: str | None
    platform: Platform
    image_size: int
    created_at: datetime
    updated_at: datetime
    attributes: Attributes
    tags: tuple[Tag, ...] | None
    # Of an index: bytes of all that its platforms hold, each blob once; None if it lists nothing.
    content_size: int | None = None


# --- pages ----------------------------------------------------------------------------------------


def _pages(
    query: sa.Select[*tuple[Any, ...]], name: sa.Column[str], updated_at: sa.Column[int]
) -> dict[Order, Statement]:
    """Up to :limit rows behind the place :name, or :at and :name, in each order."""
    here = sa.tuple_(updated_at, name)
    there = sa.tuple_(bindparam("at", type_=sa.BigInteger), bindparam("name", type_=sa.Text))
    pages = {
        Order.NAME: query.where(name > bindparam("name")).order_by(name),
        Order.OLDEST_FIRST: query.where(here > there).order_by(updated_at, name),
        Order.NEWEST_FIRST: query.where(here < there).order_by(updated_at.desc(), name.desc()),
    }
    return {order: Statement(page.limit(LIMIT)) for order, page in pages.items()}


# No name is empty, and no time is this early, or this late.
_STARTS: dict[Order, dict[str, Any]] = {
    Order.NAME: {"name": ""},
    Order.OLDEST_FIRST: {"at": -1, "name": ""},
    Order.NEWEST_FIRST: {"at": 2**62, "name": ""},
}


def place_of(order: Order, after: Position | None) -> dict[str, Any]:
    """The parameters of a page that starts behind a place."""
    if after is None:
        return _STARTS[order]
    if order is Order.NAME:
        return {"name": after.name}
    assert after.updated_at is not None, "a place among times has one"
    return {"at": to_micros(after.updated_at), "name": after.name}


# --- repositories ---------------------------------------------------------------------------------

_REPOSITORY = Statement(
    sa.select(
        *_repositories.c["name", "created_at", "updated_at", "manifest_count", "tag_count"],
        *attribute_columns(_repositories),
    ).where(given(_repositories, "id"))
)


def repository_details(tx: Transaction, repository_id: int) -> RepositoryDetails:
    """A repository that is there, hidden or not."""
    (row,) = tx.rows(_REPOSITORY, id=repository_id)
    return RepositoryDetails(
        row[0], from_micros(row[1]), from_micros(row[2]), row[3], row[4], attributes_of(row[5:])
    )


# --- tags -----------------------------------------------------------------------------------------

_TAGS = sa.select(
    *_tags.c["name", "manifest_id", "created_at", "updated_at"], *attribute_columns(_tags)
).where(given(_tags, "repository_id"))
_TAG = Statement(_TAGS.where(given(_tags, "name")))
_VISIBLE_TAGS = _TAGS.where(_tags.c.list_enabled)
TAG_PAGES = _pages(_VISIBLE_TAGS, _tags.c.name, _tags.c.updated_at)
_TAG_PAGES_OF_ONE = _pages(
    _VISIBLE_TAGS.where(given(_tags, "manifest_id")), _tags.c.name, _tags.c.updated_at
)


def tag_details(tx: Transaction, repository_id: int, tag: Tag) -> TagDetails | None:
    """One tag, hidden or not."""
    rows = tx.rows(_TAG, repository_id=repository_id, name=tag)
    return next(iter(_with_digests(tx, rows)), None)


_MANIFEST_ID = Statement(
    sa.select(_manifests.c.id).where(given(_manifests, "repository_id", "digest"))
)


def tag_page(
    tx: Transaction,
    repository_id: int,
    order: Order,
    after: Position | None,
    n: int,
    digest: Digest | None = None,
) -> list[TagDetails]:
    """Up to `n` tags behind a place; with `digest` only those of that manifest."""
    wanted = {"repository_id": repository_id, "limit": n, **place_of(order, after)}
    if digest is None:
        return _with_digests(tx, tx.rows(TAG_PAGES[order], **wanted))
    manifest_id = tx.value(_MANIFEST_ID, repository_id=repository_id, digest=digest)
    if manifest_id is None:
        return []
    return _with_digests(tx, tx.rows(_TAG_PAGES_OF_ONE[order], manifest_id=manifest_id, **wanted))


_TAG_UPDATED_AT = Statement(
    sa.select(_tags.c.updated_at).where(given(_tags, "repository_id", "name"))
)


def tag_updated_at(tx: Transaction, repository_id: int, name: str) -> datetime | None:
    """Where a tag stands among others by time; None if there is no such tag."""
    return _moment_or_none(tx.value(_TAG_UPDATED_AT, repository_id=repository_id, name=name))


_DIGESTS = Statement(
    sa.select(_manifests.c.id, _manifests.c.digest).where(among(_manifests.c.id, "ids"))
)


def _with_digests(tx: Transaction, rows: Sequence[Row]) -> list[TagDetails]:
    digests: dict[int, str] = {}
    if rows:
        digests.update(tx.rows(_DIGESTS, ids={row[1] for row in rows}))
    return [
        TagDetails(
            Tag(row[0]),
            Digest(digests[row[1]]),
            from_micros(row[2]),
            from_micros(row[3]),
            attributes_of(row[4:]),
        )
        for row in rows
    ]


# --- manifests ------------------------------------------------------------------------------------

_MANIFESTS = sa.select(
    *_manifests.c["id", "digest", "media_type", "config_media_type", "architecture", "os"],
    *_manifests.c["image_size", "pushed_at", "updated_at", "subject"],
    *attribute_columns(_manifests),
).where(given(_manifests, "repository_id"))
_MANIFEST = Statement(_MANIFESTS.where(given(_manifests, "digest")))
MANIFEST_PAGES = _pages(
    _MANIFESTS.where(_manifests.c.list_enabled), _manifests.c.digest, _manifests.c.updated_at
)


def manifest_details(tx: Transaction, repository_id: int, digest: Digest) -> ManifestDetails | None:
    """One manifest, hidden or not."""
    rows = tx.rows(_MANIFEST, repository_id=repository_id, digest=digest)
    return next(iter(_with_tags(tx, repository_id, rows)), None)


_MANIFESTS_NAMED = Statement(_MANIFESTS.where(among(_manifests.c.digest, "digests")))


def manifests_named(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> dict[Digest, ManifestDetails]:
    """Those of these manifests that are there, hidden or not."""
    rows = tx.rows(_MANIFESTS_NAMED, repository_id=repository_id, digests=digests)
    return {each.digest: each for each in _with_tags(tx, repository_id, rows)} if rows else {}


_RAW = Statement(sa.select(_manifests.c.raw).where(given(_manifests, "id")))


def manifest_bytes(tx: Transaction, manifest_id: int) -> bytes:
    return bytes(tx.value(_RAW, id=manifest_id))


def manifest_page(
    tx: Transaction, repository_id: int, order: Order, after: Position | None, n: int
) -> list[ManifestDetails]:
    """Up to `n` manifests behind a place."""
    place = place_of(order, after)
    rows = tx.rows(MANIFEST_PAGES[order], repository_id=repository_id, limit=n, **place)
    return _with_tags(tx, repository_id, rows)


_MANIFEST_UPDATED_AT = Statement(
    sa.select(_manifests.c.updated_at).where(given(_manifests, "repository_id", "digest"))
)


def manifest_updated_at(tx: Transaction, repository_id: int, digest: str) -> datetime | None:
    """Where a manifest stands among others by time; None if there is no such manifest."""
    found = tx.value(_MANIFEST_UPDATED_AT, repository_id=repository_id, digest=digest)
    return _moment_or_none(found)


def _with_tags(tx: Transaction, repository_id: int, rows: Sequence[Row]) -> list[ManifestDetails]:
    tags = _tags_on(tx, [row[0] for row in rows])
    subjects = {row[0]: row[9] for row in rows if row[0] not in tags}
    held = _content_of(tx, [row[0] for row in rows])
    referenced = _listed_by_an_index(tx, subjects) | _with_subject(tx, repository_id, subjects)
    return [
        ManifestDetails(
            id=row[0],
            digest=Digest(row[1]),
            media_type=row[2],
            config_media_type=row[3],
            platform=Platform(row[4], row[5]),
            image_size=row[6],
            created_at=from_micros(row[7]),
            updated_at=from_micros(row[8]),
            attributes=attributes_of(row[10:]),
            tags=tags.get(row[0], () if row[0] in referenced else None),
            content_size=held.get(row[0]),
        )
        for row in rows
    ]


_CONTENT = Statement.text("""
    WITH RECURSIVE listed(root, id) AS (
        SELECT parent_id, child_id FROM manifest_children WHERE parent_id AMONG :ids
        UNION
        SELECT l.root, c.child_id FROM listed l JOIN manifest_children c ON c.parent_id = l.id
    ), held AS (
        SELECT DISTINCT l.root, m.digest FROM listed l JOIN manifest_blobs m ON m.manifest_id = l.id
    )
    SELECT h.root, CAST(sum(b.size) AS bigint) FROM held h JOIN blobs b ON b.digest = h.digest
    GROUP BY h.root""")


def _content_of(tx: Transaction, ids: Collection[int]) -> dict[int, int]:
    """The bytes that indexes among these hold with all that they list, each blob once."""
    return {root: int(count) for root, count in tx.rows(_CONTENT, ids=ids)} if ids else {}


_TAGS_ON = Statement(
    sa.select(*_tags.c["manifest_id", "name", "list_enabled"])
    .where(among(_tags.c.manifest_id, "ids"))
    .order_by(_tags.c.name)
)
_LISTED = Statement(
    sa.select(_children.c.child_id).where(among(_children.c.child_id, "ids")).distinct()
)
_THERE = Statement(
    sa.select(_manifests.c.digest).where(
        given(_manifests, "repository_id"), among(_manifests.c.digest, "digests")
    )
)


def _tags_on(tx: Transaction, ids: Collection[int]) -> dict[int, tuple[Tag, ...]]:
    """The visible tags of those manifests that have any tag, in byte order."""
    found: dict[int, tuple[Tag, ...]] = {}
    for manifest_id, name, visible in tx.rows(_TAGS_ON, ids=ids) if ids else ():
        found[manifest_id] = found.get(manifest_id, ()) + ((Tag(name),) if visible else ())
    return found


def _listed_by_an_index(tx: Transaction, ids: Collection[int]) -> set[int]:
    return set(tx.values(_LISTED, ids=ids)) if ids else set()


def _with_subject(tx: Transaction, repository_id: int, subjects: dict[int, str | None]) -> set[int]:
    """Which of these manifests refer to a subject that is there."""
    wanted = {subject for subject in subjects.values() if subject}
    if not wanted:
        return set()
    there = set(tx.values(_THERE, repository_id=repository_id, digests=wanted))
    return {manifest_id for manifest_id, subject in subjects.items() if subject in there}


def _moment_or_none(stored: int | None) -> datetime | None:
    return None if stored is None else from_micros(stored)
