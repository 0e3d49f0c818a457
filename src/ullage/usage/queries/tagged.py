"""How much of each repository a tag leads to, for all of them at once."""

from __future__ import annotations

from ullage.database.statements import Statement
from ullage.database.transaction import Transaction
from ullage.usage.queries.usage import TAGGED_ON_POSTGRESQL, TAGGED_ON_SQLITE

_BY_NAME = """
    , reached AS (
        SELECT DISTINCT repository_id, digest FROM manifest_blobs
        WHERE manifest_id IN (SELECT id FROM tagged)
    )
    SELECT o.name, sum(b.size) FROM reached r
    CROSS JOIN blobs b CROSS JOIN repositories o
    WHERE b.digest = r.digest AND o.id = r.repository_id
    GROUP BY o.name"""
_TAGGED_BY_NAME = Statement.text(
    TAGGED_ON_SQLITE.format(one="") + _BY_NAME, TAGGED_ON_POSTGRESQL.format(one="") + _BY_NAME
)


def tagged_bytes_by_name(tx: Transaction) -> dict[str, int]:
    """Bytes that a tag leads to, of every repository that has a tag. One pass over all that is."""
    return {name: int(number) for name, number in tx.rows(_TAGGED_BY_NAME)}
