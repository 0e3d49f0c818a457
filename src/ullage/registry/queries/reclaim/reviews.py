"""Reviews: unused links, and when each of them is to be looked at again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest

_reviews = space.reviews


_SCHEDULE = Statement.insert(
    _reviews,
    ("repository_id", "digest", "due_at"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["repository_id", "digest"],
        set_={"due_at": insert.excluded.due_at},
        where=_reviews.c.due_at < insert.excluded.due_at,
    ),
    in_sets=True,
)


def schedule_review(tx: Transaction, repository_id: int, digest: Digest, due_at: datetime) -> None:
    """Look at an unused link again then, or at the later time if a review is planned already."""
    tx.change(_SCHEDULE, repository_id=repository_id, digest=digest, due_at=to_micros(due_at))


def schedule_reviews(
    tx: Transaction, repository_id: int, due_at: Mapping[Digest, datetime]
) -> None:
    """As schedule_review, of many."""
    schedule_reviews_of(tx, {(repository_id, digest): due for digest, due in due_at.items()})


def schedule_reviews_of(tx: Transaction, due_at: Mapping[tuple[int, Digest], datetime]) -> None:
    """As schedule_review, of links in several repositories."""
    rows = [
        {"repository_id": repository_id, "digest": digest, "due_at": to_micros(due)}
        for (repository_id, digest), due in sorted(due_at.items())
    ]
    tx.many(_SCHEDULE, rows)


_CANCEL = Statement(
    _reviews.delete().where(given(_reviews, "repository_id"), among(_reviews.c.digest, "digests"))
)


def cancel_reviews(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> None:
    """A manifest refers to these now, or they are gone."""
    if digests:
        tx.change(_CANCEL, repository_id=repository_id, digests=digests)


_DUE_FIRST = Statement(
    sa.select(_reviews.c.repository_id)
    .where(_reviews.c.due_at <= bindparam("now"))
    .order_by(_reviews.c.due_at)
    .limit(1)
)
_DUE_THERE = Statement(
    sa.select(_reviews.c.digest)
    .where(given(_reviews, "repository_id"))
    .where(_reviews.c.due_at <= bindparam("now"))
    .order_by(_reviews.c.digest)
    .limit(LIMIT)
)


def next_review(tx: Transaction, now: datetime, limit: int) -> tuple[int, list[Digest]] | None:
    """The repository whose reviews have been due longest, and up to `limit` digests due in it."""
    first = tx.value(_DUE_FIRST, now=to_micros(now))
    if first is None:
        return None
    digests = tx.values(_DUE_THERE, repository_id=first, now=to_micros(now), limit=limit)
    return int(first), [Digest(digest) for digest in digests]
