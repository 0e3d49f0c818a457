"""What keeps a manifest, and taking manifests away."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from ullage.database.schema import content
from ullage.database.statements import Statement, among, given
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag
from ullage.registry.queries.content.blobs import count_references
from ullage.registry.queries.content.manifests import ROW, ManifestRow, manifest_row
from ullage.registry.queries.content.repositories import add_to_repository
from ullage.registry.queries.counters import add_to_counters

_manifests = content.manifests
_tags = content.tags
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children

_PARENTS = Statement(
    sa.select(_children.c.child_id, _manifests.c.id, _manifests.c.digest)
    .join(_manifests, _manifests.c.id == _children.c.parent_id)
    .where(among(_children.c.child_id, "ids"))
)


def parents_of(tx: Transaction, ids: Collection[int]) -> dict[int, dict[int, Digest]]:
    """Which manifests list these as children: child id -> {parent id: parent digest}."""
    parents: dict[int, dict[int, Digest]] = {}
    for child, parent, digest in tx.rows(_PARENTS, ids=ids) if ids else ():
        parents.setdefault(child, {})[parent] = Digest(digest)
    return parents


_LISTED = sa.select(_children.c.child_id).where(among(_children.c.parent_id, "ids"))
_CHILDREN = Statement(sa.select(*ROW).where(_manifests.c.id.in_(_LISTED)))


def children_of(tx: Transaction, ids: Collection[int]) -> list[ManifestRow]:
    return [manifest_row(row) for row in tx.rows(_CHILDREN, ids=ids)]


_REFERRERS = Statement(
    sa.select(*ROW)
    .where(given(_manifests, "repository_id"))
    .where(among(_manifests.c.subject, "subjects"))
)


def referrers_of(
    tx: Transaction, repository_id: int, subjects: Collection[Digest]
) -> list[ManifestRow]:
    if not subjects:
        return []
    rows = tx.rows(_REFERRERS, repository_id=repository_id, subjects=subjects)
    return [manifest_row(row) for row in rows]


_TAGS = Statement(
    sa.select(_tags.c.name).where(among(_tags.c.manifest_id, "ids")).order_by(_tags.c.name)
)


def tags_of(tx: Transaction, ids: Collection[int]) -> list[Tag]:
    """The tags on these manifests, in byte order."""
    return [Tag(name) for name in tx.values(_TAGS, ids=ids)]


_REFERENCES = Statement(
    sa.select(_manifest_blobs.c.digest, sa.func.count())
    .where(among(_manifest_blobs.c.manifest_id, "ids"))
    .group_by(_manifest_blobs.c.digest)
)


def blobs_of(tx: Transaction, ids: Collection[int]) -> dict[Digest, int]:
    """The blobs these manifests refer to, each with how many of them do."""
    return {Digest(digest): count for digest, count in tx.rows(_REFERENCES, ids=ids)}


_DELETE_TAGS = Statement(_tags.delete().where(among(_tags.c.manifest_id, "ids")))
_DELETE_REFERENCES = Statement(
    _manifest_blobs.delete().where(among(_manifest_blobs.c.manifest_id, "ids"))
)
_DELETE_PLACES = Statement(
    _children.delete().where(
        sa.or_(among(_children.c.parent_id, "ids"), among(_children.c.child_id, "ids"))
    )
)
_DELETE_MANIFESTS = Statement(_manifests.delete().where(among(_manifests.c.id, "ids")))


def remove_manifests(
    tx: Transaction,
    repository_id: int,
    rows: Sequence[ManifestRow],
    references: Mapping[Digest, int],
) -> None:
    """Take manifests away with their tags and references; `references` is blobs_of() them.

    The caller has locked the rows of those blobs and decides afterwards about links left unused.
    """
    ids = [row.id for row in rows]
    tags_gone = tx.change(_DELETE_TAGS, ids=ids)
    for statement in (_DELETE_REFERENCES, _DELETE_PLACES, _DELETE_MANIFESTS):
        tx.change(statement, ids=ids)
    by_count: dict[int, list[Digest]] = {}
    for digest, count in references.items():
        by_count.setdefault(count, []).append(digest)
    for count, digests in by_count.items():
        count_references(tx, digests, -count)
    size = sum(row.size for row in rows)
    add_to_repository(
        tx, repository_id, manifest_count=-len(rows), manifest_bytes=-size, tag_count=-tags_gone
    )
    add_to_counters(tx, repository_id, manifest_count=-len(rows), manifest_bytes=-size)
