"""How far the scrub has come: a restart goes on there, and processes take turns."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ullage.database.transaction import Transaction
from ullage.registry.queries.facts import change_fact, find_fact

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


def find_state(tx: Transaction) -> ScrubState | None:
    """None before the first pass."""
    found = find_fact(tx, _NAME)
    return None if found is None else ScrubState(**json.loads(found))


def change_state(tx: Transaction, seen: ScrubState | None, state: ScrubState) -> bool:
    """Move on from what was `seen`; False if another process did so meanwhile."""
    return change_fact(tx, _NAME, None if seen is None else _text(seen), _text(state))


def _text(state: ScrubState) -> str:
    return json.dumps(asdict(state))
