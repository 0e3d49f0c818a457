"""What sparse indexes and images name and their repository does not have, until it comes.

A part that comes, by a push, a mount or a restore, becomes a child or a reference as if it had been
there first: from then on it is kept for what names it. The caller has locked the repository's row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement, among, given, same
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.manifest.descriptor import Descriptor
from ullage.registry.queries.content.blobs import count_references

_manifests = content.manifests
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_absent_children = content.absent_children
_absent_blobs = content.absent_blobs

# --- absent ---------------------------------------------------------------------------------------


def _add(table: sa.Table) -> Statement:
    return Statement.insert(table, ("manifest_id", "digest", "size"))


_ADD_CHILD, _ADD_BLOB = _add(_absent_children), _add(_absent_blobs)


def add_absent(
    tx: Transaction,
    manifest_id: int,
    *,
    blobs: Sequence[Descriptor],
    children: Sequence[Descriptor],
) -> None:
    """Record what a new manifest names and its repository does not have."""
    for statement, parts in ((_ADD_BLOB, blobs), (_ADD_CHILD, children)):
        if parts:
            rows = [
                {"manifest_id": manifest_id, "digest": part.digest, "size": part.size}
                for part in parts
            ]
            tx.many(statement, rows)


_OF_MANIFEST = Statement(
    sa.union_all(
        *(
            sa.select(table.c.digest).where(given(table, "manifest_id"))
            for table in (_absent_blobs, _absent_children)
        )
    )
)


def absent_of(tx: Transaction, manifest_id: int) -> set[Digest]:
    """What a stored manifest does without."""
    return {Digest(digest) for digest in tx.values(_OF_MANIFEST, manifest_id=manifest_id)}


_originals = _manifests.alias()


def _copy(table: sa.Table) -> Statement:
    return Statement(
        table.insert().from_select(
            ["manifest_id", "digest", "size"],
            sa.select(_manifests.c.id, table.c.digest, table.c.size)
            .select_from(_originals)
            .join(table, table.c.manifest_id == _originals.c.id)
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


_COPIES = (_copy(_absent_children), _copy(_absent_blobs))


def copy_absent(tx: Transaction, target_id: int, ids: Sequence[int]) -> None:
    """Let the copies of these manifests in another repository do without the same."""
    for statement in _COPIES:
        tx.change(statement, target=target_id, ids=ids)


# --- there ----------------------------------------------------------------------------------------


def _found(table: sa.Table, query: sa.Select[*tuple[int, ...]]) -> tuple[Statement, Statement]:
    """What of some manifests is there by now, and which of some parts are missed."""
    here = query.where(given(_manifests, "repository_id"))
    return (
        Statement(here.where(among(table.c.manifest_id, "ids"))),
        Statement(here.where(among(table.c.digest, "digests"))),
    )


_coming = _manifests.alias()
_CHILDREN_OF, _CHILDREN_AMONG = _found(
    _absent_children,
    sa.select(*_absent_children.c["manifest_id", "digest"], _coming.c.id)
    .join(_manifests, _manifests.c.id == _absent_children.c.manifest_id)
    .join(
        _coming,
        sa.and_(
            same(_coming, _manifests, "repository_id"),
            same(_coming, _absent_children, "digest", "size"),
        ),
    ),
)
_LIST_CHILD = Statement.insert(
    content.manifest_children,
    ("parent_id", "child_id"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["parent_id", "child_id"]),
)


def _drop(table: sa.Table) -> Statement:
    return Statement(table.delete().where(given(table, "manifest_id", "digest")))


_DROP_CHILD, _DROP_BLOB = _drop(_absent_children), _drop(_absent_blobs)


def find_children(
    tx: Transaction, repository_id: int, came: Collection[Digest], of: Collection[int] = ()
) -> None:
    """Make children of what `of` these indexes is there, and of what `came` and is missed."""
    rows = tx.rows(_CHILDREN_AMONG, repository_id=repository_id, digests=came) if came else []
    rows += tx.rows(_CHILDREN_OF, repository_id=repository_id, ids=of) if of else []
    if rows:
        tx.many(_LIST_CHILD, [{"parent_id": row[0], "child_id": row[2]} for row in rows])
        tx.many(_DROP_CHILD, [{"manifest_id": row[0], "digest": row[1]} for row in rows])


_BLOBS_OF, _BLOBS_AMONG = _found(
    _absent_blobs,
    sa.select(
        *_absent_blobs.c["manifest_id", "digest"],
        # A restore may have brought the reference along.
        _manifest_blobs.c.manifest_id.is_not(None),
    )
    .join(_manifests, _manifests.c.id == _absent_blobs.c.manifest_id)
    .join(
        _repo_blobs,
        sa.and_(
            same(_repo_blobs, _manifests, "repository_id"),
            same(_repo_blobs, _absent_blobs, "digest"),
        ),
    )
    .join(_blobs, same(_blobs, _absent_blobs, "digest", "size"))
    .outerjoin(_manifest_blobs, same(_manifest_blobs, _absent_blobs, "manifest_id", "digest")),
)
_REFER = Statement.insert(_manifest_blobs, ("manifest_id", "digest", "repository_id"))


def find_blobs(
    tx: Transaction, repository_id: int, came: Collection[Digest], of: Collection[int] = ()
) -> set[Digest]:
    """As find_children, of blobs that the repository links; those that are needed from now on."""
    rows = tx.rows(_BLOBS_AMONG, repository_id=repository_id, digests=came) if came else []
    rows += tx.rows(_BLOBS_OF, repository_id=repository_id, ids=of) if of else []
    if not rows:
        return set()
    new = {(row[0], Digest(row[1])) for row in rows if not row[2]}
    references = [
        {"manifest_id": id_, "digest": digest, "repository_id": repository_id}
        for id_, digest in sorted(new)
    ]
    if references:
        tx.many(_REFER, references)
    for digest, count in sorted(Counter(digest for _, digest in new).items()):
        count_references(tx, [digest], count)
    dropped = {(row[0], row[1]) for row in rows}
    tx.many(_DROP_BLOB, [{"manifest_id": id_, "digest": digest} for id_, digest in sorted(dropped)])
    return {digest for _, digest in new}
