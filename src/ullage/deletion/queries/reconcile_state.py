"""Which process compares the store with the database, and when that was done last."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ullage.database.transaction import Transaction
from ullage.registry.queries.facts import change_fact, find_fact

_NAME = "reconcile"


@dataclass(frozen=True, slots=True)
class ReconcileState:
    """One comparison. Times are microseconds since the epoch.

    `holder`, a process (registry.processes), is at work until `until`, and no other is; "" for the
    only process on its database.
    """

    began_at: int
    done: bool = False
    holder: str = ""
    until: int = 0


def find_state(tx: Transaction) -> ReconcileState | None:
    """None before the first comparison."""
    found = find_fact(tx, _NAME)
    return None if found is None else ReconcileState(**json.loads(found))


def change_state(tx: Transaction, seen: ReconcileState | None, state: ReconcileState) -> bool:
    """Move on from what was `seen`; False if another process did so meanwhile."""
    return change_fact(tx, _NAME, None if seen is None else _text(seen), _text(state))


def _text(state: ReconcileState) -> str:
    return json.dumps(asdict(state))
