"""How many bytes there are, and whose: sums for the bill (docs/design/accounting.md).

A repository's sums cost what it holds; the registry's come from counters where that is possible,
and from one pass over everything where it is not, as said at each.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from ullage.database.schema import content, space, undo
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs
_children = content.manifest_children
_uploads = space.uploads
_reviews = space.reviews
_kept = undo.kept_repositories


class RepositoryRow(NamedTuple):
    """A repository's own numbers; `name` is None while it is being erased.

    What an `operation` keeps, deleted softly, has its name still.
    """

    id: int
    name: str | None
    operation: str | None
    manifest_count: int
    tag_count: int
    manifest_bytes: int
    blob_bytes: int


class Portion(NamedTuple):
    """What a repository has in common with `holders` - 1 others: so many bytes."""

    repository_id: int
    holders: int
    bytes: int


class Space(NamedTuple):
    """What the repositories of a namespace share with any others: the bytes of these blobs, each
    once, and those that stay within the namespace."""

    name: str
    bytes: int
    own_bytes: int


def repository_rows(tx: Transaction, repository_id: int | None = None) -> list[RepositoryRow]:
    """Every repository that holds anything, or the one."""
    query = sa.select(
        _repositories.c.id,
        sa.func.coalesce(_repositories.c.name, _kept.c.name),
        _kept.c.operation_id,
        _repositories.c.manifest_count,
        _repositories.c.tag_count,
        _repositories.c.manifest_bytes,
        _repositories.c.blob_bytes,
    ).outerjoin(_kept, _kept.c.repository_id == _repositories.c.id)
    if repository_id is not None:
        query = query.where(_repositories.c.id == repository_id)
    return [RepositoryRow(*row) for row in tx.execute(query.order_by(_repositories.c.id))]


def shared_portions(tx: Transaction, repository_id: int | None = None) -> list[Portion]:
    """What repositories link that others link too, by how many do.

    What a repository links alone is the rest of its bytes, so blobs of one repository, which are
    most, are passed over: for all repositories this is one look at each blob and at shared links.
    """
    if repository_id is None:
        query = sa.text(_SHARED + _PORTIONS)
        rows = tx.execute(query)
    else:
        query = sa.text(_SHARED_OF_ONE + _PORTIONS)
        rows = tx.execute(query, {"repository_id": repository_id})
    return [Portion(row[0], row[1], int(row[2])) for row in rows]


# SQLite joins in the order in which a CROSS JOIN is written: first the shared blobs, or first the
# links of the one repository. PostgreSQL takes the order that its statistics advise.
_SHARED = """
    WITH shared AS MATERIALIZED (
        SELECT digest, size, repository_count AS holders FROM blobs WHERE repository_count > 1
    ), links AS (
        SELECT l.repository_id, s.digest, s.size, s.holders
        FROM shared s CROSS JOIN repo_blobs l WHERE l.digest = s.digest
    )"""
_SHARED_OF_ONE = """
    WITH links AS (
        SELECT l.repository_id, b.digest, b.size, b.repository_count AS holders
        FROM repo_blobs l CROSS JOIN blobs b
        WHERE l.repository_id = :repository_id AND b.digest = l.digest AND b.repository_count > 1
    )"""
_PORTIONS = """
    SELECT repository_id, holders, sum(size) FROM links
    GROUP BY repository_id, holders ORDER BY repository_id, holders"""


def spaces(tx: Transaction) -> list[Space]:
    """What each namespace shares; costs as shared_portions of all.

    A namespace is what a name has before its first slash, or all of it. What was deleted softly is
    one of its own, named "".
    """
    query = sa.text(_SHARED + _SPACES.format(namespace=_NAMESPACE[tx.dialect]))
    return [Space(row[0], int(row[1]), int(row[2])) for row in tx.execute(query).all()]


_NAMESPACE = {
    "sqlite": "substr(o.name, 1, instr(o.name || '/', '/') - 1)",
    "postgresql": "split_part(o.name, '/', 1)",
}
_SPACES = """, spaces AS (
        SELECT coalesce({namespace}, '') AS name, l.digest, l.size, l.holders, count(*) AS members
        FROM links l CROSS JOIN repositories o
        WHERE o.id = l.repository_id AND o.deleted_at IS NULL
        GROUP BY coalesce({namespace}, ''), l.digest, l.size, l.holders
    )
    SELECT name, sum(size), sum(CASE WHEN members = holders THEN size ELSE 0 END)
    FROM spaces GROUP BY name ORDER BY name"""


# --- tagged and not -------------------------------------------------------------------------------

# Everything a tag leads to: its manifest, what that lists, what refers to any of these. SQLite
# takes several recursive terms, PostgreSQL one with a lateral join.
_HELD = {
    "sqlite": """
        WITH RECURSIVE held(id) AS (
            SELECT t.manifest_id FROM repositories o CROSS JOIN tags t
            WHERE t.repository_id = o.id AND o.name IS NOT NULL {one}
            UNION
            SELECT c.child_id FROM held CROSS JOIN manifest_children c WHERE c.parent_id = held.id
            UNION
            SELECT r.id FROM held CROSS JOIN manifests s CROSS JOIN manifests r
            WHERE s.id = held.id AND r.repository_id = s.repository_id AND r.subject = s.digest
        )""",
    "postgresql": """
        WITH RECURSIVE held(id) AS (
            SELECT t.manifest_id FROM repositories o JOIN tags t ON t.repository_id = o.id
            WHERE o.name IS NOT NULL {one}
            UNION
            SELECT edge.id FROM held CROSS JOIN LATERAL (
                SELECT c.child_id AS id FROM manifest_children c WHERE c.parent_id = held.id
                UNION ALL
                SELECT r.id FROM manifests s JOIN manifests r
                ON r.repository_id = s.repository_id AND r.subject = s.digest
                WHERE s.id = held.id
            ) edge
        )""",
}
_TAGGED = """
    SELECT coalesce(sum(size), 0) FROM blobs WHERE digest IN
    (SELECT digest FROM manifest_blobs WHERE manifest_id IN (SELECT id FROM held))"""


def tagged_bytes(tx: Transaction, repository_id: int | None = None) -> int:
    """Bytes of blobs that a tag leads to. For the whole registry: one pass over what tags hold."""
    one = "" if repository_id is None else "AND o.id = :repository_id"
    query = sa.text(_HELD[tx.dialect].format(one=one) + _TAGGED)
    values = {} if repository_id is None else {"repository_id": repository_id}
    return int(tx.execute(query, values).scalar_one())


def leased_bytes(tx: Transaction, repository_id: int | None = None) -> int:
    """Bytes of blobs that no manifest (of the repository) refers to: a review is planned of each.

    Promises to pushers keep them, or the worker is about to look.
    """
    if repository_id is None:
        planned = sa.select(_reviews.c.digest)
        query = sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)).where(
            _blobs.c.manifest_refs == 0, _blobs.c.digest.in_(planned)
        )
        return int(tx.execute(query).scalar_one())
    referenced = sa.exists().where(
        _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
        _manifest_blobs.c.digest == _repo_blobs.c.digest,
    )
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0))
        .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
        .join(
            _reviews,
            sa.and_(
                _reviews.c.repository_id == _repo_blobs.c.repository_id,
                _reviews.c.digest == _repo_blobs.c.digest,
            ),
        )
        .where(_reviews.c.repository_id == repository_id, ~referenced)
    )
    return int(tx.execute(query).scalar_one())


def soft_deleted_bytes(tx: Transaction) -> int:
    """Bytes of blobs that only what was deleted softly refers to; costs what that holds."""
    links, live = _repo_blobs.alias(), _repo_blobs.alias()
    kept = sa.select(links.c.digest).join(_kept, _kept.c.repository_id == links.c.repository_id)
    hidden = sa.exists().where(_kept.c.repository_id == live.c.repository_id)
    referenced = sa.exists().where(
        _manifest_blobs.c.repository_id == live.c.repository_id,
        _manifest_blobs.c.digest == live.c.digest,
    )
    held = sa.exists().where(live.c.digest == _blobs.c.digest, ~hidden, referenced)
    query = sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)).where(
        _blobs.c.digest.in_(kept), _blobs.c.manifest_refs > 0, ~held
    )
    return int(tx.execute(query).scalar_one())


def upload_keys(tx: Transaction) -> list[tuple[int, str, int]]:
    """(repository's id, storage key, bytes that count) of every open session."""
    query = sa.select(_uploads.c.repository_id, _uploads.c.storage_key, _uploads.c.offset)
    return [(row[0], row[1], row[2]) for row in tx.execute(query.order_by(_uploads.c.id))]


# --- one repository, whole ------------------------------------------------------------------------


class BlobRow(NamedTuple):
    """A blob that a repository links, and how many hold it over all repositories."""

    digest: Digest
    size: int
    manifest_refs: int
    repository_count: int


def blobs_linked(tx: Transaction, repository_id: int) -> list[BlobRow]:
    query = (
        sa.select(_blobs.c.digest, _blobs.c.size, _blobs.c.manifest_refs, _blobs.c.repository_count)
        .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
        .where(_repo_blobs.c.repository_id == repository_id)
    )
    return [BlobRow(Digest(row[0]), *row[1:]) for row in tx.execute(query).all()]


def references_in(tx: Transaction, repository_id: int) -> list[tuple[int, Digest]]:
    """(manifest's id, blob) for each reference in the repository."""
    query = sa.select(_manifest_blobs.c.manifest_id, _manifest_blobs.c.digest).where(
        _manifest_blobs.c.repository_id == repository_id
    )
    return [(row[0], Digest(row[1])) for row in tx.execute(query).all()]


def listings_in(tx: Transaction, repository_id: int) -> list[tuple[int, int]]:
    """(index's id, child's id) for each child in the repository."""
    query = (
        sa.select(_children.c.parent_id, _children.c.child_id)
        .join(_manifests, _manifests.c.id == _children.c.parent_id)
        .where(_manifests.c.repository_id == repository_id)
        .order_by(_children.c.parent_id, _children.c.child_id)
    )
    return [(row[0], row[1]) for row in tx.execute(query).all()]


def tags_in(tx: Transaction, repository_id: int) -> list[tuple[int, Tag]]:
    """(manifest's id, tag) for each tag in the repository, in byte order."""
    query = sa.select(_tags.c.manifest_id, _tags.c.name).where(
        _tags.c.repository_id == repository_id
    )
    return [(row[0], Tag(row[1])) for row in tx.execute(query.order_by(_tags.c.name)).all()]
