"""Which images need what is damaged."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import base, content
from ullage.database.statements import LIMIT, Statement, given, same
from ullage.database.transaction import Row, Transaction

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children


def _images(damaged: sa.Select[tuple[int]]) -> tuple[Statement, Statement]:
    """Manifests and the indexes above them: how many images that is, and some of them by name."""
    affected = damaged.cte("affected", recursive=True)
    affected = affected.union(
        sa.select(_children.c.parent_id).join(affected, affected.c.id == _children.c.child_id)
    )
    rows = (
        sa.select(_repositories.c.name, _tags.c.name, _manifests.c.digest)
        .select_from(affected)
        .join(_manifests, _manifests.c.id == affected.c.id)
        .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
        .outerjoin(_tags, _tags.c.manifest_id == _manifests.c.id)
        .where(_repositories.c.name.is_not(None))
    )
    order = (_repositories.c.name, _tags.c.name.is_(None), _tags.c.name, _manifests.c.digest)
    count = sa.select(sa.func.count()).select_from(rows.subquery())
    return Statement(count), Statement(rows.order_by(*order).limit(LIMIT))


_WITH_BLOB = _images(
    sa.select(_manifest_blobs.c.manifest_id.label("id"))
    .join(_repo_blobs, same(_manifest_blobs, _repo_blobs, "repository_id", "digest"))
    .where(given(_repo_blobs, "digest"))
)
_WITH_MANIFEST = _images(sa.select(bindparam("manifest_id", type_=base.Id).label("id")))


def images_with_blob(tx: Transaction, digest: str, limit: int) -> tuple[list[str], int]:
    """The images that need a blob: up to `limit` of them by name, and how many there are.

    Each is repository:tag, or repository@digest if it has no tag.
    """
    count, some = _WITH_BLOB
    return _named(tx.rows(some, digest=digest, limit=limit)), int(tx.value(count, digest=digest))


def images_with_manifest(tx: Transaction, manifest_id: int, limit: int) -> tuple[list[str], int]:
    """As images_with_blob: those that a manifest is, or is a part of."""
    count, some = _WITH_MANIFEST
    rows = tx.rows(some, manifest_id=manifest_id, limit=limit)
    return _named(rows), int(tx.value(count, manifest_id=manifest_id))


def _named(rows: Sequence[Row]) -> list[str]:
    return [
        f"{name}:{tag}" if tag is not None else f"{name}@{digest}" for name, tag, digest in rows
    ]
