"""How many bytes there are, and whose: sums for the bill (docs/design/accounting.md).

A repository's sums cost what is in it; the registry's come from counters where that is possible,
and from one pass over everything where it is not, as said at each.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import base, content, space, undo
from ullage.database.statements import Statement, among, given, same
from ullage.database.transaction import Row, Transaction
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
    """What a repository has in common with `repositories` - 1 others: so many bytes."""

    repository_id: int
    repositories: int
    bytes: int


class Space(NamedTuple):
    """What the repositories of a namespace share with any others: the bytes of these blobs, each
    once, and those that stay within the namespace."""

    name: str
    bytes: int
    own_bytes: int


_ROWS = (
    sa.select(
        _repositories.c.id,
        sa.func.coalesce(_repositories.c.name, _kept.c.name),
        _kept.c.operation_id,
        *_repositories.c["manifest_count", "tag_count", "manifest_bytes", "blob_bytes"],
    )
    .outerjoin(_kept, _kept.c.repository_id == _repositories.c.id)
    .order_by(_repositories.c.id)
)
_ALL_ROWS = Statement(_ROWS)
_ONE_ROW = Statement(_ROWS.where(_repositories.c.id == bindparam("repository_id")))


def repository_rows(tx: Transaction, repository_id: int | None = None) -> list[RepositoryRow]:
    """Every repository, or the one."""
    return [RepositoryRow(*row) for row in _of_all_or_one(tx, _ALL_ROWS, _ONE_ROW, repository_id)]


def _of_all_or_one(
    tx: Transaction, of_all: Statement, of_one: Statement, repository_id: int | None
) -> list[Row]:
    if repository_id is None:
        return tx.rows(of_all)
    return tx.rows(of_one, repository_id=repository_id)


# SQLite joins in the order in which a CROSS JOIN is written: first the shared blobs, or first the
# links of the one repository. PostgreSQL takes the order that its statistics advise.
_SHARED = """
    WITH shared AS MATERIALIZED (
        SELECT digest, size, repository_count FROM blobs WHERE repository_count > 1
    ), links AS (
        SELECT l.repository_id, s.digest, s.size, s.repository_count
        FROM shared s CROSS JOIN repo_blobs l WHERE l.digest = s.digest
    )"""
_SHARED_OF_ONE = """
    WITH links AS (
        SELECT l.repository_id, b.digest, b.size, b.repository_count
        FROM repo_blobs l CROSS JOIN blobs b
        WHERE l.repository_id = :repository_id AND b.digest = l.digest AND b.repository_count > 1
    )"""
_PORTIONS = """
    SELECT repository_id, repository_count, sum(size) FROM links
    GROUP BY repository_id, repository_count ORDER BY repository_id, repository_count"""


_ALL_PORTIONS = Statement.text(_SHARED + _PORTIONS)
_PORTIONS_OF_ONE = Statement.text(_SHARED_OF_ONE + _PORTIONS)


def shared_portions(tx: Transaction, repository_id: int | None = None) -> list[Portion]:
    """What repositories link that others link too, by how many do.

    What a repository links alone is the rest of its bytes, so blobs of one repository, which are
    most, are passed over: for all repositories this is one look at each blob and at shared links.
    """
    rows = _of_all_or_one(tx, _ALL_PORTIONS, _PORTIONS_OF_ONE, repository_id)
    return [Portion(row[0], row[1], int(row[2])) for row in rows]


_SPACES_BY = """, spaces AS (
        SELECT coalesce({namespace}, '') AS name, l.digest, l.size, l.repository_count,
            count(*) AS members
        FROM links l CROSS JOIN repositories o
        WHERE o.id = l.repository_id AND o.deleted_at IS NULL
        GROUP BY coalesce({namespace}, ''), l.digest, l.size, l.repository_count
    )
    SELECT name, sum(size), sum(CASE WHEN members = repository_count THEN size ELSE 0 END)
    FROM spaces GROUP BY name ORDER BY name"""
_SPACES = Statement.text(
    sqlite=_SHARED
    + _SPACES_BY.format(namespace="substr(o.name, 1, instr(o.name || '/', '/') - 1)"),
    postgresql=_SHARED + _SPACES_BY.format(namespace="split_part(o.name, '/', 1)"),
)


def spaces(tx: Transaction) -> list[Space]:
    """What each namespace shares; costs as shared_portions of all.

    A namespace is what a name has before its first slash, or all of it. What was deleted softly is
    one of its own, named "".
    """
    return [Space(row[0], int(row[1]), int(row[2])) for row in tx.rows(_SPACES)]


# --- tagged and not -------------------------------------------------------------------------------

# Everything a tag leads to: its manifest, what that lists, what refers to any of these. SQLite
# takes several recursive terms, PostgreSQL one with a lateral join.
TAGGED_ON_SQLITE = """
    WITH RECURSIVE tagged(id) AS (
        SELECT t.manifest_id FROM repositories o CROSS JOIN tags t
        WHERE t.repository_id = o.id AND o.name IS NOT NULL {one}
        UNION
        SELECT c.child_id FROM tagged CROSS JOIN manifest_children c WHERE c.parent_id = tagged.id
        UNION
        SELECT r.id FROM tagged CROSS JOIN manifests s CROSS JOIN manifests r
        WHERE s.id = tagged.id AND r.repository_id = s.repository_id AND r.subject = s.digest
    )"""
TAGGED_ON_POSTGRESQL = """
    WITH RECURSIVE tagged(id) AS (
        SELECT t.manifest_id FROM repositories o JOIN tags t ON t.repository_id = o.id
        WHERE o.name IS NOT NULL {one}
        UNION
        SELECT edge.id FROM tagged CROSS JOIN LATERAL (
            SELECT c.child_id AS id FROM manifest_children c WHERE c.parent_id = tagged.id
            UNION ALL
            SELECT r.id FROM manifests s JOIN manifests r
            ON r.repository_id = s.repository_id AND r.subject = s.digest
            WHERE s.id = tagged.id
        ) edge
    )"""
_TAGGED = """
    SELECT coalesce(sum(size), 0) FROM blobs WHERE digest IN
    (SELECT digest FROM manifest_blobs WHERE manifest_id IN (SELECT id FROM tagged))"""


def _tagged(one: str) -> Statement:
    sqlite, postgresql = (
        tagged.format(one=one) + _TAGGED for tagged in (TAGGED_ON_SQLITE, TAGGED_ON_POSTGRESQL)
    )
    return Statement.text(sqlite, postgresql)


_TAGGED_ANYWHERE, _TAGGED_IN_ONE = _tagged(""), _tagged("AND o.id = :repository_id")


def tagged_bytes(tx: Transaction, repository_id: int | None = None) -> int:
    """Bytes of blobs that a tag leads to. For the whole registry: one pass over all that is."""
    ((found,),) = _of_all_or_one(tx, _TAGGED_ANYWHERE, _TAGGED_IN_ONE, repository_id)
    return int(found)


_SUM = sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0))
_LEASED_ANYWHERE = Statement(
    _SUM.where(_blobs.c.manifest_refs == 0, _blobs.c.digest.in_(sa.select(_reviews.c.digest)))
)
_LEASED_IN_ONE = Statement(
    _SUM.join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
    .join(_reviews, same(_reviews, _repo_blobs, "repository_id", "digest"))
    .where(
        given(_reviews, "repository_id"),
        ~sa.exists().where(same(_manifest_blobs, _repo_blobs, "repository_id", "digest")),
    )
)


def leased_bytes(tx: Transaction, repository_id: int | None = None) -> int:
    """Bytes of blobs that no manifest (of the repository) refers to: a review is planned of each.

    Promises to pushers keep them, or the worker is about to look.
    """
    ((found,),) = _of_all_or_one(tx, _LEASED_ANYWHERE, _LEASED_IN_ONE, repository_id)
    return int(found)


_links, _live = _repo_blobs.alias(), _repo_blobs.alias()
_SOFT_DELETED = Statement(
    _SUM.where(
        # An expression, or SQLite asks of each link in the registry whether its repository is kept.
        _blobs.c.digest.in_(
            sa.select(_links.c.digest).join(
                _kept, _kept.c.repository_id + 0 == _links.c.repository_id
            )
        ),
        _blobs.c.manifest_refs > 0,
        # No manifest of a live repository refers to it.
        ~sa.exists().where(
            _live.c.digest == _blobs.c.digest,
            ~sa.exists().where(_kept.c.repository_id == _live.c.repository_id),
            sa.exists().where(same(_manifest_blobs, _live, "repository_id", "digest")),
        ),
    )
)
_SESSIONS = Statement(sa.select(*_uploads.c["storage_key", "stored"]).order_by(_uploads.c.id))


def soft_deleted_bytes(tx: Transaction) -> int:
    """Bytes of blobs that only what was deleted softly refers to; costs what that is."""
    return int(tx.value(_SOFT_DELETED))


def sessions(tx: Transaction) -> list[tuple[str, int]]:
    """(storage key, bytes in the store as far as was recorded) of every upload session's row."""
    return [(row[0], row[1]) for row in tx.rows(_SESSIONS)]


# --- one repository, whole ------------------------------------------------------------------------


class BlobRow(NamedTuple):
    """A blob that a repository links, and how much needs it over all repositories."""

    digest: Digest
    size: int
    manifest_refs: int
    repository_count: int


_ID = bindparam("repository_id", type_=base.Id)
_BLOBS_LINKED = Statement(
    sa.select(*_blobs.c["digest", "size", "manifest_refs", "repository_count"])
    .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
    .where(_repo_blobs.c.repository_id == _ID)
)
_REFERENCES_IN = Statement(
    sa.select(_manifest_blobs.c.manifest_id, _manifest_blobs.c.digest).where(
        _manifest_blobs.c.repository_id == _ID
    )
)
_LISTINGS_IN = Statement(
    sa.select(_children.c.parent_id, _children.c.child_id)
    .join(_manifests, _manifests.c.id == _children.c.parent_id)
    .where(_manifests.c.repository_id == _ID)
    .order_by(_children.c.parent_id, _children.c.child_id)
)
_TAGS_IN = Statement(
    sa.select(_tags.c.manifest_id, _tags.c.name)
    .where(_tags.c.repository_id == _ID)
    .order_by(_tags.c.name)
)


def blobs_linked(tx: Transaction, repository_id: int) -> list[BlobRow]:
    rows = tx.rows(_BLOBS_LINKED, repository_id=repository_id)
    return [BlobRow(Digest(row[0]), *row[1:]) for row in rows]


def references_in(tx: Transaction, repository_id: int) -> list[tuple[int, Digest]]:
    """(manifest's id, blob) for each reference in the repository."""
    rows = tx.rows(_REFERENCES_IN, repository_id=repository_id)
    return [(manifest_id, Digest(digest)) for manifest_id, digest in rows]


def listings_in(tx: Transaction, repository_id: int) -> list[tuple[int, int]]:
    """(index's id, child's id) for each child in the repository."""
    return [(row[0], row[1]) for row in tx.rows(_LISTINGS_IN, repository_id=repository_id)]


def tags_in(tx: Transaction, repository_id: int) -> list[tuple[int, Tag]]:
    """(manifest's id, tag) for each tag in the repository, in byte order."""
    return [(row[0], Tag(row[1])) for row in tx.rows(_TAGS_IN, repository_id=repository_id)]


# --- some manifests -------------------------------------------------------------------------------

_BLOBS_OF = Statement(
    sa.select(
        _manifest_blobs.c.manifest_id,
        *_blobs.c["digest", "size", "manifest_refs", "repository_count"],
    )
    .join(_blobs, _blobs.c.digest == _manifest_blobs.c.digest)
    .where(among(_manifest_blobs.c.manifest_id, "ids"))
)


def blobs_of_manifests(tx: Transaction, ids: Collection[int]) -> dict[int, list[BlobRow]]:
    """The blobs that each of these manifests refers to."""
    found: dict[int, list[BlobRow]] = {}
    for manifest_id, digest, *numbers in tx.rows(_BLOBS_OF, ids=ids) if ids else ():
        found.setdefault(manifest_id, []).append(BlobRow(Digest(digest), *numbers))
    return found
