"""Signed URLs that were given out: the bytes that they read stay until they have ended.

A pull writes down, before it signs, until when its URL will read the blob, and keeps the blob's row
from going meanwhile. What condemns the blob looks afterwards (deletion.md section 3.5). On
PostgreSQL the table is UNLOGGED: a crash of the database empties it, and what may have been
forgotten then counts as signed for as long as a URL lasts.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space
from ullage.database.statements import LIMIT, Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest

_signed = space.signed_reads
_memory = space.signed_memory

_FORGOTTEN_AT_ONCE = 1000


class Due(NamedTuple):
    """When a condemned blob's bytes are erased: at this moment, or when its last URL has ended.

    A URL lasts for `signed_read` at most; zero: the store signs none, and nothing is looked up.
    """

    at: datetime
    signed_read: timedelta


_LIVE_BLOB = "FROM blobs WHERE digest = :digest AND damaged_at IS NULL"
# Nothing of it has to outlive a crash, so no pull waits for a disk.
_LOCK_LIVE = Statement.text(
    f"SELECT storage_key {_LIVE_BLOB}",
    f"SELECT storage_key, set_config('synchronous_commit', 'off', true) {_LIVE_BLOB} FOR KEY SHARE",
)
_SIGN = Statement.insert(
    _signed,
    ("digest", "until"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["digest"],
        set_={"until": insert.excluded.until},
        where=_signed.c.until < insert.excluded.until,
    ),
)


def allow_signed_read(tx: Transaction, digest: Digest, until: datetime) -> str | None:
    """Keep a blob's bytes until then, whatever becomes of it: the storage key to sign a URL for.

    None if the blob is not there, or in quarantine. Only what is signed after the commit, and ends
    by `until`, is covered.
    """
    key = tx.value(_LOCK_LIVE, digest=digest)
    if key is None:
        return None
    tx.change(_SIGN, digest=digest, until=to_micros(until))
    return str(key)


_UNTIL = "SELECT until FROM signed_reads WHERE signed_reads.digest = tombstones.digest"
_THESE = "WHERE storage_key AMONG :keys"
# SQLite's table survives a crash, and has nothing to forget.
_KEEP_SIGNED = Statement.text(
    f"UPDATE tombstones SET due_at = max(due_at, coalesce(({_UNTIL}), 0)) {_THESE}",  # noqa: S608
    f"""UPDATE tombstones SET due_at = greatest(due_at, coalesce(({_UNTIL}), 0),
        coalesce((SELECT complete_from FROM signed_memory), :forgotten)) {_THESE}""",  # noqa: S608
)


def keep_signed(tx: Transaction, keys: Collection[str], now: datetime, longest: timedelta) -> None:
    """Let these tombstones wait for the URLs of their blobs, which last for `longest` at most.

    After the blobs' rows were deleted, or got other keys, in the same transaction: that has waited
    for those that sign, and this statement sees what they wrote.
    """
    if longest and keys:
        tx.change(_KEEP_SIGNED, keys=keys, forgotten=to_micros(now + longest))


_ENDED = _signed.c.until <= bindparam("now")
_TO_DO = Statement(
    sa.select(
        sa.or_(
            sa.exists(sa.select(_signed.c.digest).where(_ENDED)),
            ~sa.exists(sa.select(_memory.c.id)),
        )
    )
)
_FORGET = Statement(
    _signed.delete().where(
        _signed.c.digest.in_(
            sa.select(_signed.c.digest).where(_ENDED).limit(LIMIT).with_for_update(skip_locked=True)
        ),
        _ENDED,
    )
)
_REMEMBER = Statement.insert(
    _memory,
    _memory.c.keys(),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["id"]),
)
_ANY_REPOSITORY = Statement(sa.select(content.repositories.c.id).limit(1))


def signed_reads_to_tidy(tx: Transaction, now: datetime) -> bool:
    """Whether `tidy_signed_reads` has something to do."""
    return bool(tx.value(_TO_DO, now=to_micros(now)))


def tidy_signed_reads(tx: Transaction, now: datetime, longest: timedelta) -> datetime | None:
    """Drop what has ended; and where a crash has forgotten some, remember until when it counts.

    That moment, the first time; an empty registry has nothing to forget.
    """
    tx.change(_FORGET, now=to_micros(now), limit=_FORGOTTEN_AT_ONCE)
    empty = tx.row(_ANY_REPOSITORY) is None
    complete_from = now if empty else now + longest
    if not tx.change(_REMEMBER, id=1, complete_from=to_micros(complete_from)) or empty:
        return None
    return complete_from


_SHIFT = Statement(_signed.update().values(until=_signed.c.until + bindparam("by")))


def shift_signed_reads(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: URLs that were given out last as long as before."""
    tx.change(_SHIFT, by=by_microseconds)
