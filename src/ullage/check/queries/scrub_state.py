"""How far the scrub has come: a restart goes on there, and processes take turns."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import accounts
from ullage.database.statements import Statement
from ullage.database.transaction import Transaction

_facts = accounts.registry_facts
_NAME = "scrub"


@dataclass(frozen=True, slots=True)
class ScrubState:
    """One pass over all blobs, in the order of their digests.

    Times are microseconds since the epoch. `after` is the last digest that was looked at; `holder`
    is at work until `until`, and nobody else is.
    """

    began_at: int
    after: str = ""
    done: bool = False
    holder: str = ""
    until: int = 0


_FIND = Statement(sa.select(_facts.c.value).where(_facts.c.name == _NAME))
_FIRST = Statement.insert(
    _facts,
    ("name", "value"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["name"]),
)
_NEXT = Statement(
    _facts.update()
    .where(_facts.c.name == _NAME, _facts.c.value == bindparam("seen"))
    .values(value=bindparam("next"))
)


def find_state(tx: Transaction) -> ScrubState | None:
    """None before the first pass."""
    found = tx.value(_FIND)
    return None if found is None else ScrubState(**json.loads(found))


def change_state(tx: Transaction, seen: ScrubState | None, state: ScrubState) -> bool:
    """Move on from what was `seen`; False if another process did so meanwhile."""
    if seen is None:
        return tx.change(_FIRST, name=_NAME, value=_text(state)) == 1
    return tx.change(_NEXT, seen=_text(seen), next=_text(state)) == 1


def _text(state: ScrubState) -> str:
    return json.dumps(asdict(state))
