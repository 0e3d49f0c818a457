"""How much of each repository and namespace a tag leads to, or only promises keep.

Of all of them at once; a namespace has each of its blobs once.
"""

from __future__ import annotations

from typing import NamedTuple

from ullage.database.statements import Statement
from ullage.database.transaction import Transaction
from ullage.usage.queries.usage import TAGGED_ON_POSTGRESQL, TAGGED_ON_SQLITE


class Sums(NamedTuple):
    """Bytes by repository's id, and by namespace's name."""

    of_repositories: dict[int, int]
    of_namespaces: dict[str, int]


_SPACE_ON_SQLITE = "substr({0}.name, 1, instr({0}.name || '/', '/') - 1)"
_SPACE_ON_POSTGRESQL = "split_part({0}.name, '/', 1)"
_SUMS = """
    SELECT f.repository_id, '', sum(b.size) FROM found f CROSS JOIN blobs b
    WHERE b.digest = f.digest GROUP BY f.repository_id
    UNION ALL
    SELECT 0, own.space, sum(b.size) FROM (
        SELECT DISTINCT {space} AS space, f.digest FROM found f CROSS JOIN repositories o
        WHERE o.id = f.repository_id {also}
    ) own CROSS JOIN blobs b WHERE b.digest = own.digest GROUP BY own.space"""
_REACHED = """
    , found AS MATERIALIZED (
        SELECT DISTINCT repository_id, digest FROM manifest_blobs
        WHERE manifest_id IN (SELECT id FROM tagged)
    )"""
# What each repository links that none of its manifests needs: a review is planned of it.
_PROMISED = """
    WITH found AS MATERIALIZED (
        SELECT DISTINCT l.repository_id, l.digest
        FROM reviews v CROSS JOIN repo_blobs l CROSS JOIN repositories r
        WHERE l.repository_id = v.repository_id AND l.digest = v.digest
            AND r.id = l.repository_id AND r.name IS NOT NULL
            AND NOT EXISTS (
                SELECT 1 FROM manifest_blobs m
                WHERE m.repository_id = l.repository_id AND m.digest = l.digest
            )
    )"""
# Another repository of the namespace may have a manifest that needs it.
_NEEDED_BESIDE = """AND NOT EXISTS (
            SELECT 1 FROM repo_blobs l CROSS JOIN repositories p
            WHERE l.digest = f.digest AND p.id = l.repository_id AND {beside} = {space}
                AND EXISTS (
                    SELECT 1 FROM manifest_blobs m
                    WHERE m.repository_id = l.repository_id AND m.digest = l.digest
                )
        )"""


def _sums(on_sqlite: str, on_postgresql: str, also: str = "") -> Statement:
    texts = []
    for found, space in ((on_sqlite, _SPACE_ON_SQLITE), (on_postgresql, _SPACE_ON_POSTGRESQL)):
        own = space.format("o")
        rest = also.format(space=own, beside=space.format("p"))
        texts.append(found + _SUMS.format(space=own, also=rest))
    return Statement.text(*texts)


_TAGGED = _sums(
    TAGGED_ON_SQLITE.format(one="") + _REACHED, TAGGED_ON_POSTGRESQL.format(one="") + _REACHED
)
_LEASED = _sums(_PROMISED, _PROMISED, _NEEDED_BESIDE)


def tagged_sums(tx: Transaction) -> Sums:
    """Bytes that a tag leads to. One pass over all that is."""
    return _read(tx, _TAGGED)


def leased_sums(tx: Transaction) -> Sums:
    """Bytes that no manifest of the repository or namespace needs; costs what promises keep."""
    return _read(tx, _LEASED)


def _read(tx: Transaction, statement: Statement) -> Sums:
    sums = Sums({}, {})
    for repository_id, namespace, number in tx.rows(statement):
        if repository_id:
            sums.of_repositories[repository_id] = int(number)
        else:
            sums.of_namespaces[namespace] = int(number)
    return sums
