"""Pages of tags and manifests with all that is shown of them, by name or by time of update.

A page is found by an index, from the place where the one before it ended: what it costs does not
depend on how much there is, nor on how far in it lies. The place need not exist any more. Hidden
rows are left out. All statements of one page have to see one moment (Database.snapshot).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

import sqlalchemy as sa

from ullage.database.schema import content
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction, chunks
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag
from ullage.registry.queries.attributes import Attributes, attribute_columns
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


# --- repositories ---------------------------------------------------------------------------------


def repository_details(tx: Transaction, repository_id: int) -> RepositoryDetails:
    """A repository that is there, hidden or not."""
    columns = ("name", "created_at", "updated_at", "manifest_count", "tag_count")
    query = sa.select(
        *(_repositories.c[column] for column in columns), *attribute_columns(_repositories)
    )
    row = tx.execute(query.where(_repositories.c.id == repository_id)).one()
    return RepositoryDetails(
        row[0], from_micros(row[1]), from_micros(row[2]), row[3], row[4], Attributes(*row[5:])
    )


# --- tags -----------------------------------------------------------------------------------------

_TAG = sa.select(
    _tags.c.name,
    _tags.c.manifest_id,
    _tags.c.created_at,
    _tags.c.updated_at,
    *attribute_columns(_tags),
)


def tag_details(tx: Transaction, repository_id: int, tag: Tag) -> TagDetails | None:
    """One tag, hidden or not."""
    query = _TAG.where(_tags.c.repository_id == repository_id, _tags.c.name == tag)
    return next(iter(_with_digests(tx, query)), None)


def tag_page(
    tx: Transaction,
    repository_id: int,
    order: Order,
    after: Position | None,
    n: int,
    digest: Digest | None = None,
) -> list[TagDetails]:
    """Up to `n` tags behind a place; with `digest` only those of that manifest."""
    query = tag_page_query(repository_id, order, after, n)
    if digest is not None:
        manifest_id = _manifest_id(tx, repository_id, digest)
        if manifest_id is None:
            return []
        query = query.where(_tags.c.manifest_id == manifest_id)
    return _with_digests(tx, query)


def tag_page_query(
    repository_id: int, order: Order, after: Position | None, n: int
) -> sa.Select[*tuple[Any, ...]]:
    query = _TAG.where(_tags.c.repository_id == repository_id, _tags.c.list_enabled)
    return _paged(query, _tags.c.name, _tags.c.updated_at, order, after, n)


def tag_updated_at(tx: Transaction, repository_id: int, name: str) -> datetime | None:
    """Where a tag stands among others by time; None if there is no such tag."""
    query = sa.select(_tags.c.updated_at).where(
        _tags.c.repository_id == repository_id, _tags.c.name == name
    )
    return _moment_or_none(tx.execute(query).scalar())


def _with_digests(tx: Transaction, query: sa.Select[*tuple[Any, ...]]) -> list[TagDetails]:
    rows = tx.execute(query).all()
    digests: dict[int, Digest] = {}
    for some in chunks(sorted({row.manifest_id for row in rows})):
        named = sa.select(_manifests.c.id, _manifests.c.digest).where(_manifests.c.id.in_(some))
        digests.update((row.id, Digest(row.digest)) for row in tx.execute(named))
    return [
        TagDetails(
            Tag(row[0]),
            digests[row[1]],
            from_micros(row[2]),
            from_micros(row[3]),
            Attributes(*row[4:]),
        )
        for row in rows
    ]


# --- manifests ------------------------------------------------------------------------------------

_MANIFEST = sa.select(
    _manifests.c.id,
    _manifests.c.digest,
    _manifests.c.media_type,
    _manifests.c.config_media_type,
    _manifests.c.architecture,
    _manifests.c.os,
    _manifests.c.image_size,
    _manifests.c.pushed_at,
    _manifests.c.updated_at,
    _manifests.c.subject,
    *attribute_columns(_manifests),
)


def manifest_details(tx: Transaction, repository_id: int, digest: Digest) -> ManifestDetails | None:
    """One manifest, hidden or not."""
    here = (_manifests.c.repository_id == repository_id, _manifests.c.digest == digest)
    return next(iter(_with_tags(tx, repository_id, _MANIFEST.where(*here))), None)


def manifest_bytes(tx: Transaction, manifest_id: int) -> bytes:
    query = sa.select(_manifests.c.raw).where(_manifests.c.id == manifest_id)
    return bytes(tx.execute(query).scalar_one())


def manifest_page(
    tx: Transaction, repository_id: int, order: Order, after: Position | None, n: int
) -> list[ManifestDetails]:
    """Up to `n` manifests behind a place."""
    return _with_tags(tx, repository_id, manifest_page_query(repository_id, order, after, n))


def manifest_page_query(
    repository_id: int, order: Order, after: Position | None, n: int
) -> sa.Select[*tuple[Any, ...]]:
    query = _MANIFEST.where(_manifests.c.repository_id == repository_id, _manifests.c.list_enabled)
    return _paged(query, _manifests.c.digest, _manifests.c.updated_at, order, after, n)


def manifest_updated_at(tx: Transaction, repository_id: int, digest: str) -> datetime | None:
    """Where a manifest stands among others by time; None if there is no such manifest."""
    query = sa.select(_manifests.c.updated_at).where(
        _manifests.c.repository_id == repository_id, _manifests.c.digest == digest
    )
    return _moment_or_none(tx.execute(query).scalar())


def _with_tags(
    tx: Transaction, repository_id: int, query: sa.Select[*tuple[Any, ...]]
) -> list[ManifestDetails]:
    rows = tx.execute(query).all()
    tags = _tags_on(tx, [row.id for row in rows])
    untagged = {row.id: row.subject for row in rows if row.id not in tags}
    held = _listed_by_an_index(tx, untagged) | _with_subject(tx, repository_id, untagged)
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
            attributes=Attributes(*row[10:]),
            tags=tags.get(row[0], () if row[0] in held else None),
        )
        for row in rows
    ]


def _tags_on(tx: Transaction, ids: Collection[int]) -> dict[int, tuple[Tag, ...]]:
    """The visible tags of those manifests that have any tag."""
    found: dict[int, list[Tag]] = {}
    for some in chunks(sorted(ids)):
        query = sa.select(_tags.c.manifest_id, _tags.c.name, _tags.c.list_enabled)
        for manifest_id, name, visible in tx.execute(query.where(_tags.c.manifest_id.in_(some))):
            found.setdefault(manifest_id, []).extend([Tag(name)] if visible else [])
    return {manifest_id: tuple(sorted(names)) for manifest_id, names in found.items()}


def _listed_by_an_index(tx: Transaction, ids: Collection[int]) -> set[int]:
    listed: set[int] = set()
    for some in chunks(sorted(ids)):
        query = sa.select(_children.c.child_id).where(_children.c.child_id.in_(some))
        listed.update(tx.execute(query.distinct()).scalars())
    return listed


def _with_subject(tx: Transaction, repository_id: int, subjects: dict[int, str | None]) -> set[int]:
    """Which of these manifests refer to a subject that is there."""
    there: set[str] = set()
    for some in chunks(sorted({subject for subject in subjects.values() if subject})):
        query = sa.select(_manifests.c.digest).where(
            _manifests.c.repository_id == repository_id, _manifests.c.digest.in_(some)
        )
        there.update(tx.execute(query).scalars())
    return {manifest_id for manifest_id, subject in subjects.items() if subject in there}


# --- pages ----------------------------------------------------------------------------------------


def _paged(
    query: sa.Select[*tuple[Any, ...]],
    name: sa.Column[str],
    updated_at: sa.Column[int],
    order: Order,
    after: Position | None,
    n: int,
) -> sa.Select[*tuple[Any, ...]]:
    if order is Order.NAME:
        if after is not None:
            query = query.where(name > after.name)
        return query.order_by(name).limit(n)
    if after is not None:
        assert after.updated_at is not None, "a place among times has one"
        here = sa.tuple_(updated_at, name)
        there = sa.tuple_(sa.literal(to_micros(after.updated_at)), sa.literal(after.name))
        query = query.where(here > there if order is Order.OLDEST_FIRST else here < there)
    if order is Order.NEWEST_FIRST:
        return query.order_by(updated_at.desc(), name.desc()).limit(n)
    return query.order_by(updated_at, name).limit(n)


def _manifest_id(tx: Transaction, repository_id: int, digest: Digest) -> int | None:
    query = sa.select(_manifests.c.id).where(
        _manifests.c.repository_id == repository_id, _manifests.c.digest == digest
    )
    return tx.execute(query).scalar()


def _moment_or_none(stored: int | None) -> datetime | None:
    return None if stored is None else from_micros(stored)
