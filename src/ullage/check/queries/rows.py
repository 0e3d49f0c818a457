"""Repositories, tags, blobs, upload sessions and tombstones, with what each has to agree with."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from ullage.check.queries.paging import Pair, Which, pages
from ullage.check.queries.totals import sum_of
from ullage.database.schema import content, space, undo
from ullage.database.statements import same
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


def _of_repository(*counted: sa.Select[int]) -> list[sa.ScalarSelect[int]]:
    return [each.correlate(_repositories).scalar_subquery() for each in counted]


_REPOSITORIES = pages(
    sa.select(
        _repositories.c.id,
        NAME,
        *(_repositories.c[field] for field in Counts._fields),
        *_of_repository(
            sa.select(sa.func.count()).where(_manifests.c.repository_id == _repositories.c.id),
            sa.select(sa.func.count()).where(_tags.c.repository_id == _repositories.c.id),
            sa.select(sum_of(_manifests.c.size)).where(
                _manifests.c.repository_id == _repositories.c.id
            ),
            sa.select(sum_of(_blobs.c.size))
            .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
            .where(_repo_blobs.c.repository_id == _repositories.c.id),
        ),
    ).where(_repositories.c.deleted_at.is_(None)),
    _repositories.c.id,
)


def repositories(tx: Transaction, which: Which[int]) -> list[RepositoryFacts]:
    """Repositories with their counters, and with what those ought to be."""
    return [
        RepositoryFacts(row[0], row[1], Counts(*map(int, row[2:6])), Counts(*map(int, row[6:10])))
        for row in _REPOSITORIES.rows(tx, which)
    ]


class TagFacts(NamedTuple):
    key: Pair
    repository: str | None
    # The repository of the manifest it points to; None if there is no such manifest.
    manifest_repository_id: int | None


_TAGS = pages(
    sa.select(_tags.c.repository_id, _tags.c.name, NAME, _manifests.c.repository_id)
    .outerjoin(_repositories, _repositories.c.id == _tags.c.repository_id)
    .outerjoin(_manifests, _manifests.c.id == _tags.c.manifest_id)
    .where(_repositories.c.deleted_at.is_(None)),
    _tags.c.repository_id,
    _tags.c.name,
)


def tags(tx: Transaction, which: Which[Pair]) -> list[TagFacts]:
    return [TagFacts((row[0], row[1]), row[2], row[3]) for row in _TAGS.rows(tx, which)]


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


_COUNTED_LINKS = (
    sa.select(sa.func.count())
    .where(_repo_blobs.c.digest == _blobs.c.digest)
    .correlate(_blobs)
    .scalar_subquery()
)
_BLOBS = pages(
    sa.select(
        *_blobs.c["digest", "size", "storage_key"],
        _blobs.c.damaged_at.is_not(None),
        _COUNTED_LINKS > 0,
        _blobs.c.manifest_refs,
        # manifest_blobs has no index on the digest alone; the links lead there.
        sa.select(sa.func.count())
        .select_from(_repo_blobs)
        .join(_manifest_blobs, same(_manifest_blobs, _repo_blobs, "repository_id", "digest"))
        .where(_repo_blobs.c.digest == _blobs.c.digest)
        .correlate(_blobs)
        .scalar_subquery(),
        _blobs.c.repository_count,
        _COUNTED_LINKS,
    ),
    _blobs.c.digest,
)


def blobs(tx: Transaction, which: Which[str]) -> list[BlobFacts]:
    """Blobs, with the manifests that refer to them counted by way of the repositories' links."""
    return [
        BlobFacts(row[0], row[1], row[2], bool(row[3]), bool(row[4]), *row[5:])
        for row in _BLOBS.rows(tx, which)
    ]


class UploadFacts(NamedTuple):
    key: str
    repository_id: int
    repository: str | None
    storage_key: str
    offset: int
    state: str
    expires_at: int
    # A blob that claims the same bytes.
    same_key_blob: str | None


_UPLOADS = pages(
    sa.select(
        _uploads.c.id,
        _uploads.c.repository_id,
        NAME,
        *_uploads.c["storage_key", "offset", "state", "expires_at"],
        _blobs.c.digest,
    )
    .outerjoin(_repositories, _repositories.c.id == _uploads.c.repository_id)
    .outerjoin(_blobs, _blobs.c.storage_key == _uploads.c.storage_key)
    .where(_repositories.c.deleted_at.is_(None)),
    _uploads.c.id,
)


def uploads(tx: Transaction, which: Which[str]) -> list[UploadFacts]:
    return [UploadFacts(*row) for row in _UPLOADS.rows(tx, which)]


class TombstoneFacts(NamedTuple):
    key: str
    digest: str | None
    size: int
    due_at: int
    attempts: int
    # Until when it is a worker's, if it is one's now.
    claimed_until: int | None
    # A blob or an upload session that still uses the bytes.
    same_key_blob: str | None
    same_key_upload: str | None


_TOMBSTONES = pages(
    sa.select(
        *_tombstones.c["storage_key", "digest", "size", "due_at", "attempts"],
        sa.case((_tombstones.c.claim.is_not(None), _tombstones.c.claimed_until)),
        _blobs.c.digest,
        _uploads.c.id,
    )
    .outerjoin(_blobs, _blobs.c.storage_key == _tombstones.c.storage_key)
    .outerjoin(_uploads, _uploads.c.storage_key == _tombstones.c.storage_key),
    _tombstones.c.storage_key,
)


def tombstones(tx: Transaction, which: Which[str]) -> list[TombstoneFacts]:
    return [TombstoneFacts(*row) for row in _TOMBSTONES.rows(tx, which)]
