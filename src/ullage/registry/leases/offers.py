"""Promises of blobs to many pushers at once, on PostgreSQL: looked at, locked, leased together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from ullage.database.statements import Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Ask, Question, Row
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName


class Offer(NamedTuple):
    """A blob of a repository, asked for by a pusher that may leave its upload out."""

    name: RepositoryName
    digest: Digest
    # The pusher's key.
    holder: str
    confirms: bool


# One statement has one snapshot: a link that was dropped after it and before the blob's lock would
# still be seen. So the link's row is locked with the blob's, and the repository's for its name
# (deletion.md section 5). What another transaction has locked is skipped: it may be about to go.
# Rows of leases are taken in one order, as `redeem` takes them.
#
# The confirmation that a client sends by itself is no further promise. What ended but was not swept
# up yet starts again from none.
_OFFER = Statement.text(
    """
    WITH asked AS (
        SELECT one ->> 0 AS repository, one ->> 1 AS digest, one ->> 2 AS holder,
            CAST(one ->> 3 AS integer) AS times
        FROM json_array_elements(CAST(:asked AS json)) AS one
    ), locked AS (
        SELECT asked.*, repositories.id, blobs.size
        FROM asked JOIN repositories ON repositories.name = asked.repository
        JOIN repo_blobs ON repo_blobs.repository_id = repositories.id
        AND repo_blobs.digest = asked.digest
        JOIN blobs ON blobs.digest = asked.digest
        WHERE blobs.damaged_at IS NULL
        FOR KEY SHARE OF repositories, blobs, repo_blobs SKIP LOCKED
    ), promised AS (
        INSERT INTO leases AS lease
            (repository_id, digest, holder, grants, until, confirm_until)
        SELECT id, digest, holder, times, :until, :now FROM locked
        ORDER BY id, digest, holder
        ON CONFLICT (repository_id, digest, holder) DO UPDATE SET
            grants = CASE WHEN lease.until > :now THEN lease.grants ELSE 0 END
                + excluded.grants
                - CASE WHEN :confirms AND lease.confirm_until > :now THEN 1 ELSE 0 END,
            until = CASE
                WHEN :confirms AND lease.confirm_until > :now AND excluded.grants = 1
                THEN lease.until ELSE excluded.until END,
            confirm_until = :now
    )
    SELECT repository, digest, holder, size FROM locked
    """
)


def offer(
    asked: Mapping[Offer, int], period: timedelta, now: datetime
) -> Question[dict[Offer, int]]:
    """Promise each blob as often as it was asked for; the sizes of those that are promised.

    What is not in the answer is not linked, damaged, or locked at this moment: a transaction that
    waits may promise it.
    """
    promised: dict[Offer, int] = {}
    times = {"now": to_micros(now), "until": to_micros(now + period)}
    for confirms in (False, True):
        those = [[*one[:3], n] for one, n in asked.items() if one.confirms == confirms]
        if those:
            rows = yield Ask(_OFFER, {"asked": json.dumps(those), "confirms": confirms, **times})
            promised |= _sizes(rows, confirms=confirms)
    return promised


def _sizes(rows: Iterable[Row], *, confirms: bool) -> Iterator[tuple[Offer, int]]:
    for name, digest, holder, size in rows:
        yield Offer(RepositoryName(name), Digest(digest), holder, confirms), size
