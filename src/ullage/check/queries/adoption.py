"""A database takes over a store that another state has written to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space
from ullage.database.statements import LIMIT, Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.registry.queries.facts import set_fact
from ullage.registry.queries.identity import ADOPTED_AT
from ullage.registry.queries.reclaim import deadlines

_lines = space.key_lines


def note_adoption(tx: Transaction, now: datetime, nothing_before: datetime) -> None:
    """The store is this database's from now on; nothing that was due is due before then."""
    set_fact(tx, ADOPTED_AT, str(to_micros(now)))
    deadlines.postpone_all(tx, nothing_before)


_DISOWN = Statement(_lines.update().values(last=0))


def disown_key_lines(tx: Transaction) -> None:
    """What was given out so far proves nothing any more."""
    tx.change(_DISOWN)


_FORGET_RESERVED = Statement(
    space.reserved_keys.delete().where(space.reserved_keys.c.storage_key == bindparam("key"))
)
_FORGET_UPLOAD = Statement(
    space.uploads.delete().where(space.uploads.c.storage_key == bindparam("key"))
)


def forget_sessions(tx: Transaction, sessions: Collection[tuple[str | None, str]]) -> None:
    """End uploads without a tombstone: their bytes stay, and no row names them."""
    for id_, key in sessions:
        tx.change(_FORGET_RESERVED if id_ is None else _FORGET_UPLOAD, key=key)


_KEYS = Statement(
    sa.select(*content.blobs.c["digest", "storage_key", "damaged_at"])
    .where(content.blobs.c.digest > bindparam("after"))
    .order_by(content.blobs.c.digest)
    .limit(LIMIT)
)
_PAGE = 10_000
# Most often the first key is all that is asked for.
_FIRST_PAGE = 100


def blob_keys(tx: Transaction) -> Iterator[str]:
    """The storage key of every blob, page by page."""
    return (key for key, _ in _keys(tx, _PAGE))


def sound_keys(tx: Transaction) -> Iterator[str]:
    """The storage key of every blob that is not known to be damaged, page by page."""
    return (key for key, sound in _keys(tx, _FIRST_PAGE) if sound)


def _keys(tx: Transaction, page_size: int) -> Iterator[tuple[str, bool]]:
    after = ""
    while page := tx.rows(_KEYS, after=after, limit=page_size):
        yield from ((key, damaged_at is None) for _, key, damaged_at in page)
        after = page[-1][0]
        page_size = _PAGE
