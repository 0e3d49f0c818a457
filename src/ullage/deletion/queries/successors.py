"""A repository's next incarnation: what pushers count on goes from the one to the other."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import base, content, space
from ullage.database.statements import Statement, among, given
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.content.absent_parts import find_blobs
from ullage.registry.queries.content.blobs import count_links, linked_among, lock_blobs
from ullage.registry.queries.content.repositories import add_to_repository

_repo_blobs = content.repo_blobs
_uploads = space.uploads

# Since when counts for promises that a crash may have made forgotten, so it stays.
_COPY_LINKS = Statement(
    _repo_blobs.insert().from_select(
        ["repository_id", "digest", "linked_at"],
        sa.select(
            sa.cast(bindparam("target"), base.Id), *_repo_blobs.c["digest", "linked_at"]
        ).where(
            _repo_blobs.c.repository_id == bindparam("source"),
            among(_repo_blobs.c.digest, "digests"),
        ),
    )
)


def copy_links(
    tx: Transaction, source_id: int, target_id: int, digests: Collection[Digest]
) -> None:
    """Link what one repository links in another one too. The caller has locked both."""
    sizes = lock_blobs(tx, digests)
    new = sizes.keys() - linked_among(tx, target_id, digests)
    if new:
        tx.change(_COPY_LINKS, source=source_id, target=target_id, digests=new)
        count_links(tx, new, +1)
        add_to_repository(tx, target_id, blob_bytes=sum(sizes[digest] for digest in new))
        find_blobs(tx, target_id, new)


_ANY_UPLOAD = Statement(sa.select(_uploads.c.id).where(given(_uploads, "repository_id")).limit(1))
_MOVE_UPLOADS = Statement(
    _uploads.update()
    .where(_uploads.c.repository_id == bindparam("source"))
    .values(repository_id=bindparam("target"))
)


def has_uploads(tx: Transaction, repository_id: int) -> bool:
    """Whether upload sessions of a repository have rows."""
    return tx.row(_ANY_UPLOAD, repository_id=repository_id) is not None


def move_uploads(tx: Transaction, source_id: int, target_id: int) -> None:
    """Let upload sessions go on in another repository."""
    tx.change(_MOVE_UPLOADS, source=source_id, target=target_id)
