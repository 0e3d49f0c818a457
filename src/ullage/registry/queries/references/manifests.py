"""What keeps manifests: the tags on them and the indexes that list them."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from ullage.database.schema import content
from ullage.database.statements import Statement, among, given
from ullage.database.transaction import Transaction
from ullage.oci.reference import Tag
from ullage.registry.queries.content.manifests import ROW, ManifestRow, manifest_row

_manifests = content.manifests
_tags = content.tags
_children = content.manifest_children

_CHILDREN = Statement(
    sa.select(_children.c.parent_id, *ROW)
    .join(_manifests, _manifests.c.id == _children.c.child_id)
    .where(among(_children.c.parent_id, "ids"))
    .order_by(_children.c.parent_id, _children.c.child_id)
)


def children(tx: Transaction, ids: Collection[int]) -> list[tuple[int, ManifestRow]]:
    """Each of these manifests' children: (parent's id, child)."""
    if not ids:
        return []
    return [(row[0], manifest_row(row[1:])) for row in tx.rows(_CHILDREN, ids=ids)]


_TAGS_ON = Statement(
    sa.select(_tags.c.manifest_id, _tags.c.name)
    .where(among(_tags.c.manifest_id, "ids"))
    .order_by(_tags.c.name)
)


def tags_on(tx: Transaction, ids: Collection[int]) -> dict[int, list[Tag]]:
    """The tags of each of these manifests that has any, in byte order."""
    found: dict[int, list[Tag]] = {}
    for manifest_id, name in tx.rows(_TAGS_ON, ids=ids) if ids else ():
        found.setdefault(manifest_id, []).append(Tag(name))
    return found


_TAGGED = Statement(
    sa.select(_tags.c.name, *ROW)
    .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
    .where(given(_tags, "repository_id"), among(_tags.c.name, "tags"))
)


def tagged(tx: Transaction, repository_id: int, tags: Collection[Tag]) -> dict[Tag, ManifestRow]:
    """What those of these tags that exist point to."""
    rows = tx.rows(_TAGGED, repository_id=repository_id, tags=tags) if tags else ()
    return {Tag(row[0]): manifest_row(row[1:]) for row in rows}


_ALL_MANIFESTS = Statement(
    sa.select(*ROW).where(given(_manifests, "repository_id")).order_by(_manifests.c.id)
)


def all_manifests(tx: Transaction, repository_id: int) -> list[ManifestRow]:
    """Everything in the repository, in the order it was pushed."""
    return [manifest_row(row) for row in tx.rows(_ALL_MANIFESTS, repository_id=repository_id)]
