"""Blobs, and the links by which repositories read and refer to them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement, among, given, same
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Ask, Question, Row, Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName
from ullage.registry.queries.content.repositories import add_blob_bytes

_repositories = content.repositories
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Where a blob's bytes are. A repository that is not `readable` hands none of them out."""

    digest: Digest
    size: int
    key: str
    repository_id: int
    readable: bool = True


_SOUND_HERE = (
    sa.select(
        _blobs.c.size,
        _blobs.c.storage_key,
        _repo_blobs.c.repository_id,
        _repositories.c.read_enabled,
    )
    .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
    .join(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
    .where(given(_repositories, "name"))
    .where(given(_repo_blobs, "digest"))
    .where(_blobs.c.damaged_at.is_(None))
)
_FIND = Statement(_SOUND_HERE)
_FIND_OF_NEW = Statement(
    _SOUND_HERE.where(
        ~sa.exists().where(
            content.manifests.c.repository_id == _repositories.c.id,
            content.manifests.c.digest == bindparam("manifest"),
        )
    )
)


def find_blob(tx: Transaction, name: RepositoryName, digest: Digest) -> StoredBlob | None:
    """The blob as this repository may read it: linked here, and its bytes sound."""
    return _stored_blob(digest, tx.row(_FIND, name=name, digest=digest))


def find_blob_of_new(
    tx: Transaction, name: RepositoryName, digest: Digest, manifest: Digest
) -> StoredBlob | None:
    """As find_blob; also None if the repository has this manifest."""
    return _stored_blob(digest, tx.row(_FIND_OF_NEW, name=name, digest=digest, manifest=manifest))


def _stored_blob(digest: Digest, row: Row | None) -> StoredBlob | None:
    if row is None:
        return None
    size, key, repository_id, readable = row
    return StoredBlob(digest, size, key, repository_id, bool(readable))


_FIND_ALL = """
    SELECT asked.repository, asked.digest, blobs.size, blobs.storage_key, repo_blobs.repository_id
    FROM {asked} JOIN repositories ON repositories.name = asked.repository
    JOIN repo_blobs ON repo_blobs.repository_id = repositories.id
    AND repo_blobs.digest = asked.digest
    JOIN blobs ON blobs.digest = asked.digest
    WHERE repositories.read_enabled AND blobs.damaged_at IS NULL
"""
# What is asked comes as JSON, a list of [repository, digest].
_ASKED_IN_SQLITE = """(SELECT json_extract(value, '$[0]') AS repository,
    json_extract(value, '$[1]') AS digest FROM json_each(:asked)) AS asked"""
_ASKED_IN_POSTGRESQL = """(SELECT pair ->> 0 AS repository, pair ->> 1 AS digest
    FROM json_array_elements(CAST(:asked AS json)) AS pair) AS asked"""
_FIND_MANY = Statement.text(
    _FIND_ALL.format(asked=_ASKED_IN_SQLITE), _FIND_ALL.format(asked=_ASKED_IN_POSTGRESQL)
)


def find_blobs(
    asked: Iterable[tuple[RepositoryName, Digest]],
) -> Question[dict[tuple[str, str], StoredBlob]]:
    """As find_blob, of many at once: those whose repository hands them out, by what was asked."""
    rows = yield Ask(_FIND_MANY, {"asked": json.dumps([*asked])})
    return {(name, digest): StoredBlob(Digest(digest), *row) for name, digest, *row in rows}


_SOUND = (
    sa.select(_blobs.c.digest, _blobs.c.size)
    .where(among(_blobs.c.digest, "digests"), _blobs.c.damaged_at.is_(None))
    .order_by(_blobs.c.digest)
)
_LOCK_TO_KEEP = Statement(_SOUND.with_for_update(key_share=True))
_LOCK_TO_DROP = Statement(_SOUND.with_for_update())


def lock_blobs(
    tx: Transaction, digests: Collection[Digest], *, to_drop: bool = False
) -> dict[Digest, int]:
    """Lock the sound ones among these blobs in digest order; their sizes.

    `to_drop` keeps out all others, also those that would promise a blob; otherwise only those that
    would drop or recount it. What a *later* statement (deletion.md section 5) sees of these blobs'
    links and references cannot change until the transaction ends.
    """
    if not digests:
        return {}
    rows = tx.rows(_LOCK_TO_DROP if to_drop else _LOCK_TO_KEEP, digests=digests)
    return {Digest(digest): size for digest, size in rows}


def is_missed(absent: sa.Table) -> sa.ColumnElement[bool]:
    """For RETURNING: whether a sparse manifest anywhere lacks what `came`, the new row's digest.

    So that a push, which makes such rows, need not ask. `came` is given once more because SQLite
    would read a whole index to compare with a column of the new row.
    """
    return sa.exists().where(absent.c.digest == bindparam("came"))


_LINKED = (
    sa.select(_repo_blobs.c.digest)
    .where(given(_repo_blobs, "repository_id"))
    .where(among(_repo_blobs.c.digest, "digests"))
)
_LINKED_AMONG = Statement(_LINKED)


def linked_among(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> set[Digest]:
    """Which of these blobs the repository links."""
    if not digests:
        return set()
    found = tx.values(_LINKED_AMONG, repository_id=repository_id, digests=digests)
    return {Digest(digest) for digest in found}


# One reference is enough to know: what a million manifests share is looked at once. They all go by
# way of the repository's link (the foreign key says so).
_REFERENCED_AMONG = Statement(
    _LINKED.where(sa.exists().where(same(_manifest_blobs, _repo_blobs, "repository_id", "digest")))
)


def referenced_among(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> set[Digest]:
    """Which of these blobs a manifest of the repository refers to."""
    if not digests:
        return set()
    found = tx.values(_REFERENCED_AMONG, repository_id=repository_id, digests=digests)
    return {Digest(digest) for digest in found}


_INSERT_LINK = Statement.text(
    """INSERT INTO repo_blobs (repository_id, digest, linked_at)
    VALUES (:repository_id, :digest, :linked_at)
    ON CONFLICT (repository_id, digest) DO NOTHING
    RETURNING repository_id, digest,
        EXISTS (SELECT 1 FROM absent_blobs WHERE absent_blobs.digest = :digest)""",
    in_sets="""INSERT INTO repo_blobs (repository_id, digest, linked_at)
    SELECT * FROM unnest(
        CAST(:repository_id AS bigint[]), CAST(:digest AS text[]), CAST(:linked_at AS bigint[])
    )
    ON CONFLICT (repository_id, digest) DO NOTHING
    RETURNING repository_id, digest,
        EXISTS (SELECT 1 FROM absent_blobs WHERE absent_blobs.digest = repo_blobs.digest)""",
)


class NewBlobLink(NamedTuple):
    """A blob of so many bytes that a repository is to have.

    `counted`: the blob's row was made for this link, and says already that there is one.
    """

    repository_id: int
    digest: Digest
    size: int
    counted: bool = False


def link_blobs(
    tx: Transaction, links: Sequence[NewBlobLink], now: datetime
) -> dict[tuple[int, Digest], bool]:
    """Let repositories read and refer to blobs, of which no two are the same.

    The links that were not there before, and whether a sparse image somewhere lacks the blob.
    """
    at = to_micros(now)
    rows = [
        {"repository_id": link.repository_id, "digest": link.digest, "linked_at": at}
        for link in links
    ]
    made = {
        (repository_id, Digest(digest)): bool(missed)
        for repository_id, digest, missed in tx.rows_of_many(_INSERT_LINK, rows)
    }
    new = [link for link in links if (link.repository_id, link.digest) in made]
    uncounted = sorted(link.digest for link in new if not link.counted)
    if uncounted:
        count_links(tx, uncounted, +1)
    sizes: Counter[int] = Counter()
    for link in new:
        sizes[link.repository_id] += link.size
    add_blob_bytes(tx, sizes)
    return made


_COUNT_LINKS = Statement(
    _blobs.update()
    .where(among(_blobs.c.digest, "digests"))
    .values(repository_count=_blobs.c.repository_count + bindparam("by"))
)


def count_links(tx: Transaction, digests: Collection[Digest], by: int) -> None:
    """That many more repositories link these blobs; the caller has locked their rows."""
    tx.change(_COUNT_LINKS, digests=digests, by=by)


_COUNT_REFERENCES = Statement(
    _blobs.update()
    .where(among(_blobs.c.digest, "digests"))
    .values(manifest_refs=_blobs.c.manifest_refs + bindparam("by"))
)


def count_references(tx: Transaction, digests: Collection[Digest], by: int) -> None:
    """That many more manifests refer to these blobs; the caller has locked their rows."""
    if digests:
        tx.change(_COUNT_REFERENCES, digests=digests, by=by)
