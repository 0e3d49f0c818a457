"""Moving manifests from one repository to another, with all that hangs on them.

This is how a deletion is kept and how it is taken back (deletion.md section 7):
one of the two repositories is hidden. References, tags and places in indexes move along as rows, so
the foreign keys are satisfied at every step, and no blob is ever without a link.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import base, content
from ullage.database.statements import Statement, among
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.content.absent_parts import (
    copy_absent,
    find_blobs,
    find_children,
)
from ullage.registry.queries.content.blobs import count_links, count_references, linked_among
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests
from ullage.registry.queries.content.remove_manifests import blobs_of
from ullage.registry.queries.content.repositories import add_to_repository
from ullage.registry.queries.counters import add_to_counters

_manifests = content.manifests
_tags = content.tags
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children


def move_manifests(
    tx: Transaction,
    source_id: int,
    target_id: int,
    rows: Sequence[ManifestRow],
    copies: Sequence[ManifestRow],
    now: datetime,
    *,
    touch: bool,
) -> None:
    """Move `rows` to the target with their tags, and put `copies` there too, which also stay.

    Everything that `rows` and `copies` list is among them. What the target has already stays as it
    is there, and takes over tags and places. `touch` says of what moved that it was updated now.

    The caller has locked both repositories' rows and the rows of all blobs (lock_blobs, to_drop),
    has made sure that no tag of `rows` is in the target, and decides afterwards about links of the
    source that are left unused.
    """
    both = [*rows, *copies]
    ids = [row.id for row in both]
    linked = _link_all(tx, target_id, blobs_of(tx, ids).keys(), now)
    there = find_manifests(tx, target_id, [row.digest for row in both])
    moved = [row for row in rows if row.digest not in there]
    merged = [row for row in rows if row.digest in there]
    copied = [row for row in copies if row.digest not in there]
    edges = _edges(tx, ids)
    if copied:
        _copy(tx, target_id, [row.id for row in copied])
        there |= find_manifests(tx, target_id, [row.digest for row in copied])
    place = {row.id: there[row.digest].id if row.digest in there else row.id for row in both}
    _replace_edges(tx, edges, {row.id for row in rows}, place)
    tags = tx.change(_MOVE_TAGS, target=target_id, ids=[row.id for row in rows])
    _merge(tx, target_id, merged, place)
    moved_ids = [row.id for row in moved]
    tx.change(_MOVE_REFERENCES, target=target_id, ids=moved_ids)
    if touch:
        tx.change(_MOVE_AND_TOUCH, target=target_id, ids=moved_ids, at=to_micros(now))
    else:
        tx.change(_MOVE, target=target_id, ids=moved_ids)
    # One of them may have missed the other.
    find_children(tx, target_id, [row.digest for row in both], of=place.values())
    find_blobs(tx, target_id, linked, of=place.values())
    _count(tx, source_id, rows, -1, -tags)
    _count(tx, target_id, [*moved, *copied], +1, +tags)
    add_to_counters(
        tx,
        target_id,
        manifest_count=len(copied) - len(merged),
        manifest_bytes=sum(row.size for row in copied) - sum(row.size for row in merged),
    )


def _moved(table: sa.Table, column: sa.Column[int], **more: object) -> Statement:
    return Statement(
        table.update()
        .where(among(column, "ids"))
        .values({"repository_id": bindparam("target"), **more})
    )


_MOVE = _moved(_manifests, _manifests.c.id)
_MOVE_AND_TOUCH = _moved(_manifests, _manifests.c.id, updated_at=bindparam("at"))
_MOVE_REFERENCES = _moved(_manifest_blobs, _manifest_blobs.c.manifest_id)
_MOVE_TAGS = _moved(_tags, _tags.c.manifest_id)


def _count(
    tx: Transaction, repository_id: int, rows: Sequence[ManifestRow], by: int, tags: int
) -> None:
    size = sum(row.size for row in rows)
    add_to_repository(
        tx, repository_id, manifest_count=by * len(rows), manifest_bytes=by * size, tag_count=tags
    )


# --- links ----------------------------------------------------------------------------------------


_LINK = Statement(
    _repo_blobs.insert().from_select(
        ["repository_id", "digest", "linked_at"],
        sa.select(
            sa.cast(bindparam("target"), base.Id),
            _blobs.c.digest,
            sa.cast(bindparam("at"), base.Moment),
        ).where(among(_blobs.c.digest, "digests")),
    )
)
_SIZE = Statement(
    sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)).where(
        among(_blobs.c.digest, "digests")
    )
)


def _link_all(
    tx: Transaction, target_id: int, digests: Collection[Digest], now: datetime
) -> set[Digest]:
    """Link these blobs in the target too; which it did not link before."""
    new = set(digests) - linked_among(tx, target_id, digests)
    if new:
        tx.change(_LINK, target=target_id, at=to_micros(now), digests=new)
        count_links(tx, new, +1)
        add_to_repository(tx, target_id, blob_bytes=int(tx.value(_SIZE, digests=new)))
    return new


# --- copies ---------------------------------------------------------------------------------------


# All there is to know about a manifest, but for its id and where it is.
_COPIED = [column for column in _manifests.c if column.name not in ("id", "repository_id")]
_COPY = Statement(
    _manifests.insert().from_select(
        ["repository_id", *(column.name for column in _COPIED)],
        sa.select(sa.cast(bindparam("target"), base.Id), *_COPIED).where(
            among(_manifests.c.id, "ids")
        ),
    )
)
_originals = _manifests.alias()
_COPY_REFERENCES = Statement(
    _manifest_blobs.insert().from_select(
        ["manifest_id", "digest", "repository_id"],
        sa.select(_manifests.c.id, _manifest_blobs.c.digest, _manifests.c.repository_id)
        .select_from(_originals)
        .join(_manifest_blobs, _manifest_blobs.c.manifest_id == _originals.c.id)
        .join(
            _manifests,
            sa.and_(
                _manifests.c.repository_id == bindparam("target"),
                _manifests.c.digest == _originals.c.digest,
            ),
        )
        .where(among(_originals.c.id, "ids")),
    )
)


def _copy(tx: Transaction, target_id: int, ids: Sequence[int]) -> None:
    tx.change(_COPY, target=target_id, ids=ids)
    tx.change(_COPY_REFERENCES, target=target_id, ids=ids)
    copy_absent(tx, target_id, ids)
    _count_references(tx, blobs_of(tx, ids), +1)


def _count_references(tx: Transaction, references: Mapping[Digest, int], by: int) -> None:
    by_count: dict[int, list[Digest]] = {}
    for digest, count in references.items():
        by_count.setdefault(count, []).append(digest)
    for count, digests in by_count.items():
        count_references(tx, digests, by * count)


# --- places in indexes ----------------------------------------------------------------------------


_EDGES = Statement(
    sa.select(_children.c.parent_id, _children.c.child_id).where(
        among(_children.c.parent_id, "ids")
    )
)
_DROP_EDGE = Statement(
    _children.delete().where(
        _children.c.parent_id == bindparam("parent"), _children.c.child_id == bindparam("child")
    )
)
_ADD_EDGE = Statement.insert(
    _children,
    ("parent_id", "child_id"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["parent_id", "child_id"]),
)


def _edges(tx: Transaction, ids: Sequence[int]) -> list[tuple[int, int]]:
    return [(row[0], row[1]) for row in tx.rows(_EDGES, ids=ids)]


def _replace_edges(
    tx: Transaction,
    edges: Iterable[tuple[int, int]],
    going: Collection[int],
    place: Mapping[int, int],
) -> None:
    """In the target every index lists what is there; what is only copied keeps its own children."""
    wrong = [edge for edge in edges if (place[edge[0]], place[edge[1]]) != edge]
    left_over = [edge for edge in wrong if edge[0] in going]
    tx.many(_DROP_EDGE, [{"parent": parent, "child": child} for parent, child in left_over])
    tx.many(
        _ADD_EDGE,
        [{"parent_id": place[parent], "child_id": place[child]} for parent, child in wrong],
    )


# --- what is there already ------------------------------------------------------------------------


_TAKE_TAGS = Statement(
    _tags.update()
    .where(_tags.c.manifest_id == bindparam("old"))
    .values(manifest_id=bindparam("new"))
)
_more = _manifest_blobs.alias()
_TAKE_REFERENCES = Statement(
    _manifest_blobs.update()
    .where(
        _manifest_blobs.c.manifest_id == bindparam("old"),
        _manifest_blobs.c.digest.not_in(
            sa.select(_more.c.digest).where(_more.c.manifest_id == bindparam("new"))
        ),
    )
    .values(manifest_id=bindparam("new"), repository_id=bindparam("target"))
)
_DROP_REFERENCES = Statement(
    _manifest_blobs.delete().where(among(_manifest_blobs.c.manifest_id, "ids"))
)
_DROP = Statement(_manifests.delete().where(among(_manifests.c.id, "ids")))


def _merge(
    tx: Transaction, target_id: int, merged: Sequence[ManifestRow], place: Mapping[int, int]
) -> None:
    """Let what is there already take over what `merged` have that it has not, and drop them."""
    if not merged:
        return
    ids = [row.id for row in merged]
    tx.many(_TAKE_TAGS, [{"old": old, "new": place[old]} for old in ids])
    # Optional layers that only this one was pushed with (oci/manifest/parsing.py).
    tx.many(_TAKE_REFERENCES, [{"old": old, "new": place[old], "target": target_id} for old in ids])
    left = blobs_of(tx, ids)
    tx.change(_DROP_REFERENCES, ids=ids)
    _count_references(tx, left, -1)
    tx.change(_DROP, ids=ids)
