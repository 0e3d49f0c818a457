"""Manifests, with their bytes and all they are recorded to refer to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from ullage.check.queries.paging import After, Which, pages
from ullage.check.queries.rows import NAME
from ullage.database.schema import content
from ullage.database.statements import Statement, among, same
from ullage.database.transaction import Transaction, chunks

_repositories = content.repositories
_manifests = content.manifests
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children
_absent_blobs = content.absent_blobs
_absent_children = content.absent_children

# Manifests are judged by their bytes, so a page of them is limited in bytes as well.
_MANIFEST_PAGE = 200
_MANIFEST_PAGE_BYTES = 8 * 1024 * 1024


class Reference(NamedTuple):
    """A blob that a manifest is recorded to refer to."""

    digest: str
    repository_id: int
    linked: bool
    # None if there is no such blob.
    size: int | None


class Child(NamedTuple):
    """A manifest that an index is recorded to list; the rest is None if there is none."""

    id: int
    digest: str | None
    size: int | None
    repository_id: int | None


class Absent(NamedTuple):
    """What a manifest is recorded to do without; `there` if the repository has it after all."""

    digest: str
    size: int
    there: bool


class ManifestFacts(NamedTuple):
    key: int
    repository_id: int
    # None if there is no such repository.
    repository: str | None
    digest: str
    media_type: str
    artifact_type: str | None
    annotations: str | None
    subject: str | None
    size: int
    raw: bytes
    image_size: int
    config_media_type: str | None
    references: tuple[Reference, ...] = ()
    children: tuple[Child, ...] = ()
    absent_blobs: tuple[Absent, ...] = ()
    absent_children: tuple[Absent, ...] = ()


def manifests(tx: Transaction, which: Which[int]) -> list[ManifestFacts]:
    """Manifests with their bytes and all they are recorded to refer to.

    A page ends early when its manifests are large. Raises nothing for damaged bytes.
    """
    ids = _manifest_page(tx, which) if isinstance(which, After) else which.keys
    found: list[ManifestFacts] = []
    for some in chunks(ids, _MANIFEST_PAGE):
        references = _references(tx, some)
        children = _recorded_children(tx, some)
        absent_blobs = _absent(tx, _ABSENT_BLOBS, some)
        absent_children = _absent(tx, _ABSENT_CHILDREN, some)
        for row in tx.rows(_MANIFESTS, ids=some):
            facts = ManifestFacts(*row)
            found.append(
                facts._replace(
                    references=tuple(references.get(facts.key, ())),
                    children=tuple(children.get(facts.key, ())),
                    absent_blobs=tuple(absent_blobs.get(facts.key, ())),
                    absent_children=tuple(absent_children.get(facts.key, ())),
                )
            )
    return found


_MANIFESTS = Statement(
    sa.select(
        _manifests.c.id,
        _manifests.c.repository_id,
        NAME,
        *_manifests.c["digest", "media_type", "artifact_type", "annotations", "subject", "size"],
        *_manifests.c["raw", "image_size", "config_media_type"],
    )
    .outerjoin(_repositories, _repositories.c.id == _manifests.c.repository_id)
    .where(_repositories.c.deleted_at.is_(None), among(_manifests.c.id, "ids"))
    .order_by(_manifests.c.id)
)
_LENGTHS = pages(
    sa.select(_manifests.c.id, sa.func.length(_manifests.c.raw))
    .outerjoin(_repositories, _repositories.c.id == _manifests.c.repository_id)
    .where(_repositories.c.deleted_at.is_(None)),
    _manifests.c.id,
)
_REFERENCES = Statement(
    sa.select(
        *_manifest_blobs.c["manifest_id", "digest", "repository_id"],
        _repo_blobs.c.digest.is_not(None),
        _blobs.c.size,
    )
    .outerjoin(_repo_blobs, same(_repo_blobs, _manifest_blobs, "repository_id", "digest"))
    .outerjoin(_blobs, _blobs.c.digest == _manifest_blobs.c.digest)
    .where(among(_manifest_blobs.c.manifest_id, "ids"))
    .order_by(_manifest_blobs.c.manifest_id, _manifest_blobs.c.digest)
)
_RECORDED_CHILDREN = Statement(
    sa.select(
        _children.c.parent_id,
        _children.c.child_id,
        *_manifests.c["digest", "size", "repository_id"],
    )
    .outerjoin(_manifests, _manifests.c.id == _children.c.child_id)
    .where(among(_children.c.parent_id, "ids"))
    .order_by(_children.c.parent_id, _children.c.child_id)
)
_there = _manifests.alias()
_ABSENT_CHILDREN = Statement(
    sa.select(*_absent_children.c["manifest_id", "digest", "size"], _there.c.id.is_not(None))
    .join(_manifests, _manifests.c.id == _absent_children.c.manifest_id)
    .outerjoin(
        _there,
        sa.and_(
            same(_there, _manifests, "repository_id"),
            same(_there, _absent_children, "digest", "size"),
        ),
    )
    .where(among(_absent_children.c.manifest_id, "ids"))
    .order_by(*_absent_children.c["manifest_id", "digest"])
)
_ABSENT_BLOBS = Statement(
    sa.select(
        *_absent_blobs.c["manifest_id", "digest", "size"],
        sa.and_(_repo_blobs.c.digest.is_not(None), _blobs.c.digest.is_not(None)),
    )
    .join(_manifests, _manifests.c.id == _absent_blobs.c.manifest_id)
    .outerjoin(
        _repo_blobs,
        sa.and_(
            same(_repo_blobs, _manifests, "repository_id"),
            same(_repo_blobs, _absent_blobs, "digest"),
        ),
    )
    .outerjoin(_blobs, same(_blobs, _absent_blobs, "digest", "size"))
    .where(among(_absent_blobs.c.manifest_id, "ids"))
    .order_by(*_absent_blobs.c["manifest_id", "digest"])
)


def _manifest_page(tx: Transaction, after: After[int]) -> list[int]:
    page: list[int] = []
    room = _MANIFEST_PAGE_BYTES
    limit = min(after.limit, _MANIFEST_PAGE)
    for id_, size in _LENGTHS.rows(tx, After(after.key, limit)):
        room -= size
        if page and room < 0:
            break
        page.append(id_)
    return page


def _references(tx: Transaction, manifest_ids: Sequence[int]) -> dict[int, list[Reference]]:
    found: dict[int, list[Reference]] = {}
    for manifest_id, digest, repository_id, linked, size in tx.rows(_REFERENCES, ids=manifest_ids):
        reference = Reference(digest, repository_id, bool(linked), size)
        found.setdefault(manifest_id, []).append(reference)
    return found


def _recorded_children(tx: Transaction, manifest_ids: Sequence[int]) -> dict[int, list[Child]]:
    found: dict[int, list[Child]] = {}
    for parent_id, *rest in tx.rows(_RECORDED_CHILDREN, ids=manifest_ids):
        found.setdefault(parent_id, []).append(Child(*rest))
    return found


def _absent(
    tx: Transaction, statement: Statement, manifest_ids: Sequence[int]
) -> dict[int, list[Absent]]:
    found: dict[int, list[Absent]] = {}
    for manifest_id, digest, size, there in tx.rows(statement, ids=manifest_ids):
        found.setdefault(manifest_id, []).append(Absent(digest, size, bool(there)))
    return found
