"""Repositories, tags, blobs, upload sessions and tombstones, with what each has to agree with."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from ullage.check.queries.paging import Pair, Which, choose
from ullage.check.queries.totals import sum_of
from ullage.database.schema import content, space, undo
from ullage.database.transaction import Transaction

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_uploads = space.uploads
_tombstones = space.tombstones
_kept = undo.kept_repositories

# What was deleted softly is looked at as if it was live, under its old name.
NAME = sa.func.coalesce(
    _repositories.c.name,
    sa.select(_kept.c.name)
    .where(_kept.c.repository_id == _repositories.c.id)
    .correlate(_repositories)
    .scalar_subquery(),
)


class Counts(NamedTuple):
    """A repository's counters; sizes in bytes."""

    manifest_count: int
    tag_count: int
    manifest_bytes: int
    blob_bytes: int


class RepositoryFacts(NamedTuple):
    key: int
    name: str | None
    stored: Counts
    counted: Counts


def repositories(tx: Transaction, which: Which[int]) -> list[RepositoryFacts]:
    """Repositories with their counters, and with what those ought to be."""
    id_ = _repositories.c.id
    manifests = sa.select(sa.func.count()).where(_manifests.c.repository_id == id_)
    manifest_bytes = sa.select(sum_of(_manifests.c.size)).where(_manifests.c.repository_id == id_)
    tags = sa.select(sa.func.count()).where(_tags.c.repository_id == id_)
    blob_bytes = (
        sa.select(sum_of(_blobs.c.size))
        .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
        .where(_repo_blobs.c.repository_id == id_)
    )
    query = sa.select(
        id_,
        NAME,
        *(_repositories.c[field] for field in Counts._fields),
        *(
            counted.correlate(_repositories).scalar_subquery()
            for counted in (manifests, tags, manifest_bytes, blob_bytes)
        ),
    ).where(_repositories.c.deleted_at.is_(None))
    return [
        RepositoryFacts(row[0], row[1], Counts(*map(int, row[2:6])), Counts(*map(int, row[6:10])))
        for row in tx.execute(choose(query, (id_,), which)).all()
    ]


class TagFacts(NamedTuple):
    key: Pair
    repository: str | None
    # The repository of the manifest it points to; None if there is no such manifest.
    manifest_repository_id: int | None


def tags(tx: Transaction, which: Which[Pair]) -> list[TagFacts]:
    query = (
        sa.select(_tags.c.repository_id, _tags.c.name, NAME, _manifests.c.repository_id)
        .outerjoin(_repositories, _repositories.c.id == _tags.c.repository_id)
        .outerjoin(_manifests, _manifests.c.id == _tags.c.manifest_id)
        .where(_repositories.c.deleted_at.is_(None))
    )
    chosen = choose(query, (_tags.c.repository_id, _tags.c.name), which)
    return [TagFacts((row[0], row[1]), row[2], row[3]) for row in tx.execute(chosen)]


class BlobFacts(NamedTuple):
    key: str
    size: int
    storage_key: str
    damaged: bool
    linked: bool
    stored_references: int
    counted_references: int
    stored_links: int
    counted_links: int


def blobs(tx: Transaction, which: Which[str]) -> list[BlobFacts]:
    """Blobs, with the manifests that refer to them counted by way of the repositories' links."""
    links = sa.select(sa.func.count()).where(_repo_blobs.c.digest == _blobs.c.digest)
    counted_links = links.correlate(_blobs).scalar_subquery()
    # manifest_blobs has no index on the digest alone; the links lead there.
    counted = (
        sa.select(sa.func.count())
        .select_from(_repo_blobs)
        .join(
            _manifest_blobs,
            sa.and_(
                _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
                _manifest_blobs.c.digest == _repo_blobs.c.digest,
            ),
        )
        .where(_repo_blobs.c.digest == _blobs.c.digest)
    )
    query = sa.select(
        _blobs.c.digest,
        _blobs.c.size,
        _blobs.c.storage_key,
        _blobs.c.damaged_at.is_not(None),
        counted_links > 0,
        _blobs.c.manifest_refs,
        counted.correlate(_blobs).scalar_subquery(),
        _blobs.c.repository_count,
        counted_links,
    )
    return [
        BlobFacts(row[0], row[1], row[2], bool(row[3]), bool(row[4]), *row[5:])
        for row in tx.execute(choose(query, (_blobs.c.digest,), which)).all()
    ]


class UploadFacts(NamedTuple):
    key: str
    repository_id: int
    repository: str | None
    storage_key: str
    offset: int
    expires_at: int
    # A blob that claims the same bytes.
    same_key_blob: str | None


def uploads(tx: Transaction, which: Which[str]) -> list[UploadFacts]:
    query = (
        sa.select(
            _uploads.c.id,
            _uploads.c.repository_id,
            NAME,
            _uploads.c.storage_key,
            _uploads.c.offset,
            _uploads.c.expires_at,
            _blobs.c.digest,
        )
        .outerjoin(_repositories, _repositories.c.id == _uploads.c.repository_id)
        .outerjoin(_blobs, _blobs.c.storage_key == _uploads.c.storage_key)
        .where(_repositories.c.deleted_at.is_(None))
    )
    return [UploadFacts(*row) for row in tx.execute(choose(query, (_uploads.c.id,), which))]


class TombstoneFacts(NamedTuple):
    key: str
    digest: str | None
    size: int
    due_at: int
    attempts: int
    # A blob or an upload session that still uses the bytes.
    same_key_blob: str | None
    same_key_upload: str | None


def tombstones(tx: Transaction, which: Which[str]) -> list[TombstoneFacts]:
    query = (
        sa.select(
            _tombstones.c.storage_key,
            _tombstones.c.digest,
            _tombstones.c.size,
            _tombstones.c.due_at,
            _tombstones.c.attempts,
            _blobs.c.digest,
            _uploads.c.id,
        )
        .outerjoin(_blobs, _blobs.c.storage_key == _tombstones.c.storage_key)
        .outerjoin(_uploads, _uploads.c.storage_key == _tombstones.c.storage_key)
    )
    chosen = choose(query, (_tombstones.c.storage_key,), which)
    return [TombstoneFacts(*row) for row in tx.execute(chosen)]
