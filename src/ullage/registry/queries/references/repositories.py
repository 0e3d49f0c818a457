"""How much there is in a repository, and a stamp that shows that anything in it has changed."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement, given
from ullage.database.transaction import Transaction
from ullage.oci.reference import Tag
from ullage.registry.queries.references.attached import ATTACHED_TO

_repositories = content.repositories
_tags = content.tags


class Share(NamedTuple):
    """How much of a repository there is, for judging how much of it a deletion would take."""

    manifests: int
    tags: int
    # The tag that was set last, and the manifest it points to; signatures in tags are no images.
    newest_tag: Tag | None
    newest_manifest_id: int | None


_COUNTS = Statement(
    sa.select(_repositories.c.manifest_count, _repositories.c.tag_count).where(
        _repositories.c.id == bindparam("repository_id")
    )
)
_NEWEST_TAG = Statement(
    sa.select(_tags.c.name, _tags.c.manifest_id)
    .where(given(_tags, "repository_id"), ATTACHED_TO.is_(None))
    .order_by(_tags.c.updated_at.desc(), _tags.c.name)
    .limit(1)
)


def share(tx: Transaction, repository_id: int) -> Share:
    """How much there is in a repository, by its counters."""
    ((manifests, tags),) = tx.rows(_COUNTS, repository_id=repository_id)
    newest = tx.row(_NEWEST_TAG, repository_id=repository_id)
    if newest is None:
        return Share(manifests, tags, None, None)
    return Share(manifests, tags, Tag(newest[0]), newest[1])


class Stamp(NamedTuple):
    """What is different once anything in a repository is."""

    repository_id: int
    updated_at: int
    manifests: int
    tags: int
    blob_bytes: int


_STAMP = Statement(
    sa.select(
        *_repositories.c["id", "updated_at", "manifest_count", "tag_count", "blob_bytes"]
    ).where(given(_repositories, "name"))
)


def stamp(tx: Transaction, name: str) -> Stamp | None:
    """How the repository is now, to see later whether it is still so; None if it is not there."""
    row = tx.row(_STAMP, name=name)
    return None if row is None else Stamp(*row)
