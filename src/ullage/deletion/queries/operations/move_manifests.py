"""Between a repository and its hidden one: tag names that both have, and what to move next."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag
from ullage.registry.queries.content.manifests import ROW, ManifestRow, manifest_row

_manifests = content.manifests
_tags = content.tags


class Clash(NamedTuple):
    """A tag that is to come back, and what a live tag of that name points to."""

    name: Tag
    digest: Digest
    live_digest: Digest


_live = _tags.alias()
_live_manifests = _manifests.alias()


_CLASHES = Statement(
    sa.select(_tags.c.name, _manifests.c.digest, _live_manifests.c.digest)
    .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
    .join(_live, _live.c.name == _tags.c.name)
    .join(_live_manifests, _live_manifests.c.id == _live.c.manifest_id)
    .where(
        _tags.c.repository_id == bindparam("hidden_id"),
        _live.c.repository_id == bindparam("live_id"),
        _live_manifests.c.digest != _manifests.c.digest,
    )
    .order_by(_tags.c.name)
    .limit(LIMIT)
)


def clashes(tx: Transaction, hidden_id: int, live_id: int, limit: int) -> list[Clash]:
    """Tags of a hidden repository that a live one has too, on other manifests."""
    rows = tx.rows(_CLASHES, hidden_id=hidden_id, live_id=live_id, limit=limit)
    return [Clash(Tag(row[0]), Digest(row[1]), Digest(row[2])) for row in rows]


_others = _tags.alias()
_TAGS_THERE = Statement(
    sa.select(_tags.c.name)
    .join(_others, _others.c.name == _tags.c.name)
    .where(among(_tags.c.manifest_id, "ids"), _others.c.repository_id == bindparam("there"))
    .order_by(_tags.c.name)
)


def tags_there(tx: Transaction, ids: Collection[int], repository_id: int) -> list[Tag]:
    """Which tags of these manifests are names of tags in that other repository too."""
    return [Tag(name) for name in tx.values(_TAGS_THERE, ids=ids, there=repository_id)]


_DROP_TAGS = Statement(
    _tags.delete().where(given(_tags, "repository_id"), among(_tags.c.name, "tags"))
)


def drop_tags(tx: Transaction, repository_id: int, tags: Collection[Tag]) -> int:
    """Remove tags and nothing else; how many there were. The caller counts."""
    return tx.change(_DROP_TAGS, repository_id=repository_id, tags=tags) if tags else 0


_SUBJECTS = _manifests.alias()
_ROOTS = Statement(
    sa.select(*ROW)
    .where(
        given(_manifests, "repository_id"),
        ~sa.exists().where(content.manifest_children.c.child_id == _manifests.c.id),
        ~sa.exists().where(
            _SUBJECTS.c.repository_id == _manifests.c.repository_id,
            _SUBJECTS.c.digest == _manifests.c.subject,
        ),
    )
    # The order of an index, so that what comes behind the limit is not looked at.
    .order_by(_manifests.c.digest)
    .limit(LIMIT)
)


def some_roots(tx: Transaction, repository_id: int, limit: int) -> list[ManifestRow]:
    """Manifests that no index lists and that refer to nothing in the repository."""
    return [manifest_row(row) for row in tx.rows(_ROOTS, repository_id=repository_id, limit=limit)]


_ROWS = Statement(sa.select(*ROW).where(among(_manifests.c.id, "ids")))


def rows_of(tx: Transaction, ids: Collection[int]) -> list[ManifestRow]:
    return [manifest_row(row) for row in tx.rows(_ROWS, ids=ids)] if ids else []
