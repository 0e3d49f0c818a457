"""What blobs lose when manifests go: bytes that nothing else needs, and references to the rest."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content
from ullage.database.statements import Statement, among, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.leases.lease import Promised
from ullage.registry.queries.references.blobs import (
    ReferencedBlob,
    referenced_blobs,
    references_among,
    shared_in,
)
from ullage.registry.queries.references.links import links_in

_repositories = content.repositories
_manifests = content.manifests
_blobs = content.blobs
_repo_blobs = content.repo_blobs
_manifest_blobs = content.manifest_blobs


class Losing(NamedTuple):
    """What blobs lose when manifests go."""

    # Bytes of those that nothing else needs anywhere; and of those of them that were linked so long
    # ago that a promise of them may have been forgotten.
    alone_bytes: int
    doubted_bytes: int
    # The others, each with how many references it loses.
    others: dict[Digest, tuple[int, ReferencedBlob]]


_LOSING = """
    WITH lost AS MATERIALIZED (
        SELECT digest, count(*) AS number FROM manifest_blobs WHERE manifest_id AMONG :ids
        GROUP BY digest
    ), facts AS MATERIALIZED (
        SELECT l.digest, l.number, b.size, b.manifest_refs, b.repository_count,
            b.repository_count = 1 AND b.manifest_refs <= l.number
            AND NOT l.digest AMONG :promised AS alone
        FROM lost l JOIN blobs b ON b.digest = l.digest
    )
    SELECT NULL AS digest, 0 AS number, coalesce(sum(size), 0), 0, 0 FROM facts
    WHERE alone AND NOT {doubted}
    UNION ALL
    SELECT NULL, 1, coalesce(sum(size), 0), 0, 0 FROM facts WHERE alone AND {doubted}
    UNION ALL
    SELECT digest, number, size, manifest_refs, repository_count FROM facts WHERE NOT alone"""
_LINKED_LONG_AGO = """EXISTS (SELECT 1 FROM repo_blobs r WHERE r.repository_id = :repository_id
    AND r.digest = facts.digest AND r.linked_at <= :linked_until)"""
_LOSING_ALL_KNOWN = Statement.text(_LOSING.format(doubted="(1 = 0)"))
_LOSING_SOME_DOUBTED = Statement.text(_LOSING.format(doubted=_LINKED_LONG_AGO))


def losing(tx: Transaction, repository_id: int, ids: Collection[int], promised: Promised) -> Losing:
    """What the blobs of these manifests of a repository lose with them.

    One pass over the references of these manifests, or, where most of a repository goes, over its
    links and the references of those that stay.
    """
    if len(ids) * 2 > _count_in(tx, repository_id):
        return _losing_most(tx, repository_id, ids, promised)
    if promised.linked_until is None:
        rows = tx.rows(_LOSING_ALL_KNOWN, ids=ids, promised=promised.digests)
    else:
        rows = tx.rows(
            _LOSING_SOME_DOUBTED,
            ids=ids,
            promised=promised.digests,
            repository_id=repository_id,
            linked_until=to_micros(promised.linked_until),
        )
    sums = {row[1]: int(row[2]) for row in rows if row[0] is None}
    others = {
        Digest(row[0]): (int(row[1]), ReferencedBlob(int(row[2]), row[3], row[4]))
        for row in rows
        if row[0] is not None
    }
    return Losing(sums[0], sums[1], others)


def _count_in(tx: Transaction, repository_id: int) -> int:
    return int(tx.value(_COUNT_IN, repository_id=repository_id) or 0)


_COUNT_IN = Statement(
    sa.select(_repositories.c.manifest_count).where(
        _repositories.c.id == bindparam("repository_id")
    )
)
_STAYING = Statement(
    sa.select(_manifests.c.id).where(
        given(_manifests, "repository_id"), sa.not_(among(_manifests.c.id, "ids"))
    )
)
_ALONE_BUT = Statement(
    sa.select(
        _repo_blobs.c.linked_at <= bindparam("linked_until", type_=sa.BigInteger),
        sa.func.sum(_blobs.c.size),
    )
    .join(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
    .where(
        given(_repo_blobs, "repository_id"),
        _blobs.c.repository_count == 1,
        _blobs.c.manifest_refs > 0,
        sa.not_(among(_blobs.c.digest, "digests")),
    )
    .group_by(_repo_blobs.c.linked_at <= bindparam("linked_until", type_=sa.BigInteger))
)


def _losing_most(
    tx: Transaction, repository_id: int, ids: Collection[int], promised: Promised
) -> Losing:
    """As losing: what a repository alone links goes, unless a manifest that stays refers to it."""
    staying = tx.values(_STAYING, repository_id=repository_id, ids=ids)
    kept = {Digest(row[0]): int(row[1]) for row in tx.rows(_REFERENCES_OF, ids=staying)}
    apart = kept.keys() | promised.digests
    until = -1 if promised.linked_until is None else to_micros(promised.linked_until)
    rows = tx.rows(_ALONE_BUT, repository_id=repository_id, linked_until=until, digests=apart)
    sums = {bool(row[0]): int(row[1]) for row in rows}
    linked = links_in(tx, repository_id, apart)
    blobs = dict(shared_in(tx, repository_id)) | referenced_blobs(
        tx, [link.digest for link in linked]
    )
    shared = [digest for digest, blob in blobs.items() if blob.repository_count > 1]
    here = references_among(tx, [repository_id], shared)
    others: dict[Digest, tuple[int, ReferencedBlob]] = {}
    for digest, blob in blobs.items():
        references = here.get(digest, 0) if blob.repository_count > 1 else blob.manifest_refs
        lost = references - kept.get(digest, 0)
        if lost > 0:
            others[digest] = (lost, blob)
    return Losing(sums.get(False, 0), sums.get(True, 0), others)


_REFERENCES_OF = Statement(
    sa.select(_manifest_blobs.c.digest, sa.func.count())
    .where(among(_manifest_blobs.c.manifest_id, "ids"))
    .group_by(_manifest_blobs.c.digest)
)
