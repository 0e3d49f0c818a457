"""Manifests: read as they were pushed, and stored with all they refer to."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Ask, Question, Row, Transaction
from ullage.oci.digest import Digest
from ullage.oci.manifest.parsing import Manifest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries.attributes import Kind, Lock
from ullage.registry.queries.content.absent_parts import find_children
from ullage.registry.queries.content.blobs import count_references, is_missed

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was pushed: exactly these bytes, served as exactly this type.

    `unreadable` says which lock keeps it from being pulled, if any.
    """

    id: int
    digest: Digest
    media_type: str
    raw: bytes
    unreadable: Lock | None = None


class Platform(NamedTuple):
    """What an image's config says it runs on, as far as that is known."""

    architecture: str | None = None
    os: str | None = None


NO_PLATFORM = Platform()


class ManifestRow(NamedTuple):
    id: int
    digest: Digest
    size: int
    subject: Digest | None


ROW = tuple(_manifests.c["id", "digest", "size", "subject"])


def manifest_row(row: Row) -> ManifestRow:
    """The columns of `ROW`."""
    return ManifestRow(row[0], Digest(row[1]), row[2], Digest(row[3]) if row[3] else None)


class ReferrerRow(NamedTuple):
    digest: Digest
    media_type: str
    size: int
    artifact_type: str | None
    annotations: dict[str, str]


# --- reading --------------------------------------------------------------------------------------

# What locks say comes with the row: pulling stays one query.
_STORED = sa.select(
    *_manifests.c["id", "digest", "media_type", "raw"],
    _repositories.c.read_enabled,
    _manifests.c.read_enabled,
)
_BY_DIGEST = Statement(
    _STORED.add_columns(sa.true())
    .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
    .where(given(_repositories, "name"))
    .where(_manifests.c.digest == bindparam("reference"))
)
_BY_TAG = Statement(
    _STORED.add_columns(_tags.c.read_enabled)
    .join(_tags, _tags.c.manifest_id == _manifests.c.id)
    .join(_repositories, _repositories.c.id == _tags.c.repository_id)
    .where(given(_repositories, "name"))
    .where(_tags.c.name == bindparam("reference"))
)


def get_manifest(
    tx: Transaction, name: RepositoryName, reference: Tag | Digest
) -> StoredManifest | None:
    statement = _BY_DIGEST if isinstance(reference, Digest) else _BY_TAG
    row = tx.row(statement, name=name, reference=reference)
    if row is None:
        return None
    manifest_id, digest, media_type, raw, *enabled = row
    if all(enabled):
        return StoredManifest(manifest_id, Digest(digest), media_type, raw)
    names: tuple[tuple[Kind, str], ...] = (
        ("repository", name),
        ("manifest", digest),
        ("tag", reference),
    )
    kind, named = names[[bool(each) for each in enabled].index(False)]
    lock = Lock(kind, named, "read_enabled")
    return StoredManifest(manifest_id, Digest(digest), media_type, raw, lock)


# What is asked about many at once comes as JSON, a list of [repository, reference] each for digests
# and tags.
_ASKED_IN_SQLITE = """(SELECT json_extract(value, '$[0]') AS repository,
    json_extract(value, '$[1]') AS reference FROM json_each(:{those})) AS asked"""
_ASKED_IN_POSTGRESQL = """(SELECT pair ->> 0 AS repository, pair ->> 1 AS reference
    FROM json_array_elements(CAST(:{those} AS json)) AS pair) AS asked"""
_FIND_TO_PULL = """
    SELECT asked.repository, asked.reference, manifests.id, manifests.digest, manifests.media_type
    FROM {digests} JOIN repositories ON repositories.name = asked.repository
    JOIN manifests ON manifests.repository_id = repositories.id
    AND manifests.digest = asked.reference
    WHERE repositories.read_enabled AND manifests.read_enabled
    UNION ALL
    SELECT asked.repository, asked.reference, manifests.id, manifests.digest, manifests.media_type
    FROM {tags} JOIN repositories ON repositories.name = asked.repository
    JOIN tags ON tags.repository_id = repositories.id AND tags.name = asked.reference
    JOIN manifests ON manifests.id = tags.manifest_id
    WHERE repositories.read_enabled AND manifests.read_enabled AND tags.read_enabled
"""
_FIND_MANY = Statement.text(
    *(
        _FIND_TO_PULL.format(digests=asked.format(those="digests"), tags=asked.format(those="tags"))
        for asked in (_ASKED_IN_SQLITE, _ASKED_IN_POSTGRESQL)
    )
)


class FoundManifest(NamedTuple):
    """A manifest without its bytes."""

    id: int
    digest: Digest
    media_type: str


def find_to_pull(
    asked: Iterable[tuple[RepositoryName, Tag | Digest]],
) -> Question[dict[tuple[str, str], FoundManifest]]:
    """Those that no lock keeps from being pulled, by what was asked."""
    pairs = [*asked]
    digests = [at for at in pairs if isinstance(at[1], Digest)]
    tags = [at for at in pairs if not isinstance(at[1], Digest)]
    rows = yield Ask(_FIND_MANY, {"digests": json.dumps(digests), "tags": json.dumps(tags)})
    return {
        (name, reference): FoundManifest(manifest_id, Digest(digest), media_type)
        for name, reference, manifest_id, digest, media_type in rows
    }


_RAW = Statement(sa.select(*_manifests.c["id", "raw"]).where(among(_manifests.c.id, "ids")))


def raw_manifests(ids: Collection[int]) -> Question[dict[int, bytes]]:
    """The bytes of those of these manifests that exist."""
    return dict((yield Ask(_RAW, {"ids": ids}))) if ids else {}


_ALL = Statement(
    sa.select(_manifests.c.digest)
    .where(given(_manifests, "repository_id"))
    .order_by(_manifests.c.digest)
)


def all_digests(tx: Transaction, repository_id: int) -> list[Digest]:
    """Every manifest of a repository, in byte order."""
    return [Digest(each) for each in tx.values(_ALL, repository_id=repository_id)]


_REFERRERS = Statement(
    sa.select(*_manifests.c["digest", "media_type", "size", "artifact_type", "annotations"])
    .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
    .where(
        given(_repositories, "name"),
        given(_manifests, "subject"),
        _manifests.c.digest > bindparam("last"),
        _manifests.c.list_enabled,
        sa.or_(
            bindparam("artifact_type", type_=sa.Text).is_(None), given(_manifests, "artifact_type")
        ),
    )
    .order_by(_manifests.c.digest)
    .limit(LIMIT)
)


def list_referrers(
    tx: Transaction,
    name: RepositoryName,
    subject: Digest,
    artifact_type: str | None,
    n: int,
    last: str | None,
) -> list[ReferrerRow]:
    # Every digest comes after the empty one.
    rows = tx.rows(
        _REFERRERS,
        name=name,
        subject=subject,
        artifact_type=artifact_type,
        last=last or "",
        limit=n,
    )
    return [
        ReferrerRow(Digest(row[0]), row[1], row[2], row[3], json.loads(row[4]) if row[4] else {})
        for row in rows
    ]


_FIND = Statement(
    sa.select(*ROW)
    .where(given(_manifests, "repository_id"))
    .where(among(_manifests.c.digest, "digests"))
)


def find_manifests(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> dict[Digest, ManifestRow]:
    if not digests:
        return {}
    rows = tx.rows(_FIND, repository_id=repository_id, digests=digests)
    return {row.digest: row for row in map(manifest_row, rows)}


_THIS_ONE = given(_manifests, "id")
_MEDIA_TYPE = Statement(sa.select(_manifests.c.media_type).where(_THIS_ONE))


def media_type_of(tx: Transaction, manifest_id: int) -> str:
    return str(tx.value(_MEDIA_TYPE, id=manifest_id))


# --- writing --------------------------------------------------------------------------------------

_INSERT = Statement.insert(
    _manifests,
    (
        "repository_id",
        "digest",
        "media_type",
        "artifact_type",
        "annotations",
        "subject",
        "size",
        "pushed_at",
        "updated_at",
        "raw",
        "image_size",
        "config_media_type",
        "architecture",
        "os",
    ),
    lambda insert: insert.returning(_manifests.c.id, is_missed(content.absent_children)),
)


def insert_manifest(
    tx: Transaction,
    repository_id: int,
    digest: Digest,
    manifest: Manifest,
    raw: bytes,
    *,
    blobs: Sequence[Digest],
    children: Iterable[int],
    platform: Platform = NO_PLATFORM,
    now: datetime,
) -> int:
    """Store a manifest and all it refers to; returns its id. The blobs' rows are locked.

    It is still to be counted (count_push). It becomes a child of the indexes that came before it.
    """
    manifest_id, missed = tx.rows(
        _INSERT,
        repository_id=repository_id,
        digest=digest,
        media_type=manifest.media_type,
        artifact_type=manifest.artifact_type,
        annotations=json.dumps(manifest.annotations) if manifest.annotations else None,
        subject=manifest.subject.digest if manifest.subject else None,
        size=len(raw),
        pushed_at=to_micros(now),
        updated_at=to_micros(now),
        raw=raw,
        image_size=manifest.image_size,
        config_media_type=manifest.config.media_type if manifest.config else None,
        architecture=platform.architecture,
        os=platform.os,
        came=digest,
    )[0]
    add_references(tx, repository_id, manifest_id, blobs=blobs, children=children)
    if missed:
        find_children(tx, repository_id, [digest])
    return int(manifest_id)


_REFER = Statement.insert(_manifest_blobs, ("manifest_id", "digest", "repository_id"), in_sets=True)
_LIST_CHILD = Statement.insert(_children, ("parent_id", "child_id"), in_sets=True)


def add_references(
    tx: Transaction,
    repository_id: int,
    manifest_id: int,
    *,
    blobs: Sequence[Digest],
    children: Iterable[int],
) -> None:
    """Record what a manifest refers to; the caller has locked the rows of `blobs`."""
    references = [
        {"manifest_id": manifest_id, "digest": blob, "repository_id": repository_id}
        for blob in blobs
    ]
    tx.many(_REFER, references)
    count_references(tx, blobs, +1)
    tx.many(_LIST_CHILD, [{"parent_id": manifest_id, "child_id": child} for child in children])


_TOUCH = Statement(_manifests.update().where(_THIS_ONE).values(updated_at=bindparam("updated_at")))


def touch_manifest(tx: Transaction, manifest_id: int, now: datetime) -> None:
    """It was pushed again, or its tags or attributes changed."""
    tx.change(_TOUCH, id=manifest_id, updated_at=to_micros(now))
