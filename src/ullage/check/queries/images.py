"""Which images need what is damaged."""

from __future__ import annotations

import sqlalchemy as sa

from ullage.database.schema import base, content
from ullage.database.transaction import Transaction

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children


def images_with_blob(tx: Transaction, digest: str, limit: int) -> tuple[list[str], int]:
    """The images that need a blob: up to `limit` of them by name, and how many there are."""
    holders = (
        sa.select(_manifest_blobs.c.manifest_id.label("id"))
        .join(
            _repo_blobs,
            sa.and_(
                _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
                _manifest_blobs.c.digest == _repo_blobs.c.digest,
            ),
        )
        .where(_repo_blobs.c.digest == digest)
    )
    return _images(tx, holders, limit)


def images_with_manifest(tx: Transaction, manifest_id: int, limit: int) -> tuple[list[str], int]:
    """The images that a manifest is, or is a part of."""
    return _images(tx, sa.select(sa.literal(manifest_id, base.Id).label("id")), limit)


def _images(tx: Transaction, holders: sa.Select[tuple[int]], limit: int) -> tuple[list[str], int]:
    """Manifests and the indexes above them, as repository:tag, or repository@digest if untagged."""
    affected = holders.cte("affected", recursive=True)
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
    count = tx.execute(sa.select(sa.func.count()).select_from(rows.subquery())).scalar_one()
    order = (_repositories.c.name, _tags.c.name.is_(None), _tags.c.name, _manifests.c.digest)
    named = [
        f"{name}:{tag}" if tag is not None else f"{name}@{digest}"
        for name, tag, digest in tx.execute(rows.order_by(*order).limit(limit)).all()
    ]
    return named, int(count)
