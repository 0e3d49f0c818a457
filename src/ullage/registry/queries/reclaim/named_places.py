"""Which unfinished parts and tails in the store a session or a tombstone answers for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import LIMIT, Statement, among
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.registry.queries.processes import free

# A storage key, and where the store has something under it (StoredObject.place).
Part: TypeAlias = tuple[str, str]
Names: TypeAlias = Callable[[str], Collection[str]]

_STATES_AT_ONCE = 1000

_uploads = space.uploads
_tombstones = space.tombstones
_SESSIONS = Statement(
    sa.select(*_uploads.c["storage_key", "state"], free(_uploads)).where(
        among(_uploads.c.storage_key, "keys")
    )
)
_RESERVED = Statement(
    sa.select(space.reserved_keys.c.storage_key).where(
        among(space.reserved_keys.c.storage_key, "keys")
    )
)
_GOING = Statement(
    sa.select(_tombstones.c.storage_key).where(among(_tombstones.c.storage_key, "keys"))
)
_STATES = Statement(
    sa.select(*_tombstones.c["storage_key", "state"])
    .where(_tombstones.c.state != "", _tombstones.c.storage_key > bindparam("after"))
    .order_by(_tombstones.c.storage_key)
    .limit(LIMIT)
)


def named(tx: Transaction, parts: Collection[Part], names: Names, now: datetime) -> set[Part]:
    """Those of `parts` that go with their session, or are about to go; `names` reads a state.

    While a request is at work on a session it may have stored what no row names yet. So all parts
    under the session's key count as its own until the request is done, and where that is not known
    (one process owns the database) until the session is.
    """
    keys = {key for key, _ in parts}
    whole = set(tx.values(_RESERVED, keys=keys))
    places: set[Part] = set()
    for key, state, at_rest in tx.rows(_SESSIONS, keys=keys, now=to_micros(now)):
        if tx.dialect == "postgresql" and at_rest:
            places.update((key, place) for place in names(state))
        else:
            whole.add(key)
    # Last: what a session named until now has its tombstone by now.
    whole.update(tx.values(_GOING, keys=keys))
    found = {part for part in parts if part in places or part[0] in whole}
    return found | _buried(tx, set(parts) - found, names)


def _buried(tx: Transaction, parts: Collection[Part], names: Names) -> set[Part]:
    """Those that a tombstone of another key names: what a session had before and has no more."""
    by_place = {place: (key, place) for key, place in parts}
    found: set[Part] = set()
    after: str | None = ""
    while by_place and after is not None:
        rows = tx.rows(_STATES, after=after, limit=_STATES_AT_ONCE)
        found.update(by_place[each] for each in _places(rows, names) if each in by_place)
        after = rows[-1][0] if len(rows) == _STATES_AT_ONCE else None
    return found


def _places(rows: Iterable[tuple[str, str]], names: Names) -> Iterable[str]:
    return (place for _, state in rows for place in names(state))
