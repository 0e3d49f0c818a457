"""Repositories' links to blobs: whose each is, since when, and when it will be looked at again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space, undo
from ullage.database.statements import Statement, among, given, same
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.leases.lease import Link, Promised

_repositories = content.repositories
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_reviews = space.reviews
_kept = undo.kept_repositories


class LinkState(NamedTuple):
    """A repository's link to a blob. `name` is None while that repository is being erased.

    What was deleted softly has its name still, and is `hidden`.
    """

    link: Link
    name: str | None
    hidden: bool
    # When it will be looked at again; None if a manifest uses it.
    review_at: datetime | None


_LINKS_IN = Statement(
    sa.select(_repo_blobs.c.digest, _repo_blobs.c.linked_at).where(
        given(_repo_blobs, "repository_id"), among(_repo_blobs.c.digest, "digests")
    )
)


def links_in(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> list[Link]:
    """A repository's links to those of these blobs that it links."""
    rows = tx.rows(_LINKS_IN, repository_id=repository_id, digests=digests) if digests else ()
    return [Link(repository_id, Digest(row[0]), from_micros(row[1])) for row in rows]


_PROMISED = (
    sa.select(*_repo_blobs.c["digest", "linked_at"], *_blobs.c["size", "repository_count"])
    .join(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
    .where(given(_repo_blobs, "repository_id"), _blobs.c.damaged_at.is_(None))
)
_PROMISED_BY_NAME = Statement(_PROMISED.where(among(_repo_blobs.c.digest, "digests")))
_PROMISED_BEFORE = Statement(_PROMISED.where(_repo_blobs.c.linked_at <= bindparam("linked_until")))


class PromisedBlob(NamedTuple):
    """A blob that a link leads to, and how many repositories have such links."""

    size: int
    repository_count: int


def promised_links(
    tx: Transaction, repository_id: int, promised: Promised
) -> dict[Link, PromisedBlob]:
    """A repository's links that are promised to pushers, or may be: after a crash, for a while.

    Not those whose bytes are damaged: no promise of them can be kept.
    """
    rows = tx.rows(_PROMISED_BY_NAME, repository_id=repository_id, digests=promised.digests)
    if promised.linked_until is not None:
        until = to_micros(promised.linked_until)
        rows += tx.rows(_PROMISED_BEFORE, repository_id=repository_id, linked_until=until)
    return {
        Link(repository_id, Digest(digest), from_micros(linked_at)): PromisedBlob(size, count)
        for digest, linked_at, size, count in rows
    }


_BYTES_IN = Statement(
    sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0))
    .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
    .where(given(_repo_blobs, "repository_id"))
)


def bytes_in(tx: Transaction, repository_id: int) -> int:
    """Bytes of all blobs that a repository links, also of those that others link too."""
    return int(tx.value(_BYTES_IN, repository_id=repository_id))


_ERASING = Statement(sa.select(_repositories.c.id).where(_repositories.c.deleted_at.is_not(None)))
_LINKED_WITH_REFERENCES = Statement(
    sa.select(
        _repo_blobs.c.digest,
        sa.select(sa.func.count())
        .where(same(_manifest_blobs, _repo_blobs, "repository_id", "digest"))
        .correlate(_repo_blobs)
        .scalar_subquery(),
    ).where(given(_repo_blobs, "repository_id"), among(_repo_blobs.c.digest, "digests"))
)


def erasing(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, int]:
    """Which of these blobs repositories link that are deleted and not erased yet.

    With how many manifests of such repositories refer to them.
    """
    found: dict[Digest, int] = {}
    for repository_id in tx.values(_ERASING) if digests else ():
        rows = tx.rows(_LINKED_WITH_REFERENCES, repository_id=repository_id, digests=digests)
        for digest, count in rows:
            found[Digest(digest)] = found.get(Digest(digest), 0) + count
    return found


_LINKS_OF = Statement(
    sa.select(
        *_repo_blobs.c["repository_id", "digest", "linked_at"],
        sa.func.coalesce(_repositories.c.name, _kept.c.name),
        _kept.c.name.is_not(None),
        _reviews.c.due_at,
    )
    .join(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
    .outerjoin(_kept, _kept.c.repository_id == _repo_blobs.c.repository_id)
    .outerjoin(_reviews, same(_reviews, _repo_blobs, "repository_id", "digest"))
    .where(among(_repo_blobs.c.digest, "digests"))
    .order_by(_repo_blobs.c.digest, _repo_blobs.c.repository_id)
)


def links_of(tx: Transaction, digests: Collection[Digest]) -> dict[Digest, list[LinkState]]:
    """Every repository's link to these blobs. For blobs that few repositories link."""
    found: dict[Digest, list[LinkState]] = {}
    rows = tx.rows(_LINKS_OF, digests=digests) if digests else ()
    for repository_id, digest, linked_at, name, hidden, due_at in rows:
        link = Link(repository_id, Digest(digest), from_micros(linked_at))
        review_at = from_micros(due_at) if due_at is not None else None
        state = LinkState(link, name, bool(hidden), review_at)
        found.setdefault(Digest(digest), []).append(state)
    return found
