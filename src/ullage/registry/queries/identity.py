"""A registry's id, the lines of its storage keys, and which store is its own since when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import Statement
from ullage.database.timestamps import from_micros
from ullage.database.transaction import Transaction
from ullage.registry.queries.facts import change_fact, find_fact, set_fact

_lines = space.key_lines

_ID, ADOPTED_AT = "id", "adopted_at"
# The name of the store that the registry uses, and where it was before.
STORE, _STORES_BEFORE = "store", "stores_before"


@dataclass(frozen=True, slots=True)
class KeyLine:
    """Keys given out under one secret. `last` is the last batch, 0 before the first.

    `noted` is the last batch that the store's label is known to have.
    """

    number: int
    name: str
    secret: str
    last: int
    noted: int


def find_registry_id(tx: Transaction) -> str | None:
    """None in a database that no server has used yet."""
    return find_fact(tx, _ID)


def registry_id(tx: Transaction, fresh: str) -> str:
    """The registry's id, also what tokens name as their audience; `fresh` if it has none yet."""
    change_fact(tx, _ID, None, fresh)
    return str(find_fact(tx, _ID))


def adopted_at(tx: Transaction) -> datetime | None:
    """When this database took over a store that another state had written to; None for never."""
    found = find_fact(tx, ADOPTED_AT)
    return None if found is None else from_micros(int(found))


@dataclass(frozen=True, slots=True)
class OwnStore:
    """Which of the stores with this registry's label is the one that it uses.

    `name` is what that label has as its store: "" for the one that the registry began with. `url`
    is what the operator who moved the registry called it, "" if it never moved. `former` are the
    names of those that it moved away from.
    """

    name: str = ""
    url: str = ""
    former: tuple[str, ...] = ()


def own_store(tx: Transaction) -> OwnStore:
    name, found = find_fact(tx, STORE), find_fact(tx, _STORES_BEFORE)
    if name is None or found is None:
        return OwnStore()
    fact = json.loads(found)
    return OwnStore(name, fact["url"], tuple(fact["former"]))


def set_own_store(tx: Transaction, store: OwnStore) -> None:
    """From this commit on the registry uses that store, and no other one."""
    set_fact(tx, STORE, store.name)
    set_fact(tx, _STORES_BEFORE, json.dumps({"url": store.url, "former": store.former}))


_COLUMNS = (_lines.c.number, _lines.c.name, _lines.c.secret, _lines.c.last, _lines.c.noted)
_ALL = Statement(sa.select(*_COLUMNS).order_by(_lines.c.number))


def key_lines(tx: Transaction) -> list[KeyLine]:
    """From the first to the open one."""
    return [KeyLine(*row) for row in tx.rows(_ALL)]


_OPEN = Statement.insert(
    _lines,
    ("number", "name", "secret", "last", "noted"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["number"]),
)


def open_key_line(tx: Transaction, name: str, secret: str) -> None:
    """Give out keys under a secret of their own from now on."""
    number = int(tx.value(_COUNT)) + 1
    tx.change(_OPEN, number=number, name=name, secret=secret, last=0, noted=0)


_COUNT = Statement(sa.select(sa.func.count()).select_from(_lines))
_NEXT_BATCH = Statement(
    _lines.update()
    .where(_lines.c.number == sa.select(sa.func.max(_lines.c.number)).scalar_subquery())
    .values(
        last=_lines.c.last + 1,
        noted=sa.case(
            (
                sa.and_(_lines.c.number == bindparam("of"), _lines.c.noted < bindparam("known")),
                bindparam("known", type_=sa.BigInteger),
            ),
            else_=_lines.c.noted,
        ),
    )
    .returning(*_COLUMNS)
)


def next_batch(tx: Transaction, of: int, known: int) -> KeyLine | None:
    """The open line, one batch further; None if there is none.

    `known` is the last batch of line number `of` that the store's label has, so far as is known.
    """
    row = tx.row(_NEXT_BATCH, of=of, known=known)
    return None if row is None else KeyLine(*row)


_SESSIONS = (
    Statement(sa.select(sa.null(), space.reserved_keys.c.storage_key)),
    Statement(sa.select(space.uploads.c.id, space.uploads.c.storage_key)),
)


def session_keys(tx: Transaction) -> list[tuple[str | None, str]]:
    """Uploads that are no blob yet: their ids, if they have rows, and their storage keys."""
    return [(id_, key) for statement in _SESSIONS for id_, key in tx.rows(statement)]
