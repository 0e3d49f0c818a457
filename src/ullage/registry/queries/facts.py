"""One text for each name: what a registry knows of itself, and processes change in turn."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import accounts
from ullage.database.statements import Statement, given
from ullage.database.transaction import Transaction

_facts = accounts.registry_facts

_FIND = Statement(sa.select(_facts.c.value).where(given(_facts, "name")))
_FIRST = Statement.insert(
    _facts,
    ("name", "value"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["name"]),
)
_NEXT = Statement(
    _facts.update()
    .where(_facts.c.name == bindparam("of"), _facts.c.value == bindparam("seen"))
    .values(value=bindparam("next"))
)


_SET = Statement.insert(
    _facts,
    ("name", "value"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["name"], set_={"value": insert.excluded.value}
    ),
)


def find_fact(tx: Transaction, name: str) -> str | None:
    """None before it is first written."""
    found: str | None = tx.value(_FIND, name=name)
    return found


def change_fact(tx: Transaction, name: str, seen: str | None, value: str) -> bool:
    """Move on from what was `seen`; False if another process did so meanwhile."""
    if seen is None:
        return tx.change(_FIRST, name=name, value=value) == 1
    return tx.change(_NEXT, of=name, seen=seen, next=value) == 1


def set_fact(tx: Transaction, name: str, value: str) -> None:
    """Replace it, whatever it was."""
    tx.change(_SET, name=name, value=value)
