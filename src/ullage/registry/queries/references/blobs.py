"""What needs blobs: how many repositories link them, and how many manifests refer to them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from ullage.database.schema import content
from ullage.database.statements import LIMIT, Statement, among, given, same
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest

_repositories = content.repositories
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs


class ReferencedBlob(NamedTuple):
    """A blob, and how many manifests and repositories there are that need it."""

    size: int
    manifest_refs: int
    repository_count: int


_FACTS = tuple(_blobs.c["digest", "size", "manifest_refs", "repository_count"])
_REFERENCED_BLOBS = Statement(sa.select(*_FACTS).where(among(_blobs.c.digest, "digests")))


def referenced_blobs(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, ReferencedBlob]:
    """Size, and numbers of references and links, of those of these blobs that exist."""
    rows = tx.rows(_REFERENCED_BLOBS, digests=digests) if digests else ()
    return {Digest(row[0]): ReferencedBlob(row[1], row[2], row[3]) for row in rows}


_BLOBS_OF = (
    sa.select(*_FACTS)
    .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
    .where(given(_repo_blobs, "repository_id"))
)
_SHARED_IN = Statement(_BLOBS_OF.where(_blobs.c.repository_count > 1))
_ALONE_IN = Statement(
    _BLOBS_OF.where(_blobs.c.repository_count <= 1).with_only_columns(
        sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)
    )
)


def shared_in(tx: Transaction, repository_id: int) -> list[tuple[Digest, ReferencedBlob]]:
    """Everything that a repository links and others link too."""
    rows = tx.rows(_SHARED_IN, repository_id=repository_id)
    return [(Digest(row[0]), ReferencedBlob(row[1], row[2], row[3])) for row in rows]


def alone_in(tx: Transaction, repository_id: int) -> int:
    """Bytes of everything that only this repository links."""
    return int(tx.value(_ALONE_IN, repository_id=repository_id))


_REFERENCES_AMONG = Statement(
    sa.select(_manifest_blobs.c.digest, sa.func.count())
    .where(given(_manifest_blobs, "repository_id"), among(_manifest_blobs.c.digest, "digests"))
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


_SOME_REPOSITORIES = Statement(
    sa.select(_repositories.c.name)
    .join(_repo_blobs, _repo_blobs.c.repository_id == _repositories.c.id)
    .where(
        given(_repo_blobs, "digest"),
        _repositories.c.name.is_not(None),
        sa.exists().where(same(_manifest_blobs, _repo_blobs, "repository_id", "digest")),
    )
    .order_by(_repo_blobs.c.repository_id)
    .limit(LIMIT)
)
_COUNT_SOME = Statement(
    sa.select(sa.func.count()).select_from(
        sa.select(_manifest_blobs.c.manifest_id)
        .where(given(_manifest_blobs, "repository_id", "digest"))
        .limit(LIMIT)
        .subquery()
    )
)


def some_repositories_with(tx: Transaction, digest: Digest, limit: int) -> list[str]:
    """Up to `limit` repositories, by name, with a manifest that refers to the blob."""
    return sorted(tx.values(_SOME_REPOSITORIES, digest=digest, limit=limit))


def refers_more_often(tx: Transaction, repository_id: int, digest: Digest, than: int) -> bool:
    """Whether more than `than` manifests of the repository refer to the blob."""
    counted = tx.value(_COUNT_SOME, repository_id=repository_id, digest=digest, limit=than + 1)
    return int(counted) > than
