"""Policies: what the registry does by itself, as administrators have set it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ullage.database.schema import cleaning
from ullage.database.statements import Statement, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

_policies = cleaning.policies
# Asked for together with a tag (content/tags.py) and by itself.
IMMUTABLE_TAGS = "immutable-tags"


class Policy(NamedTuple):
    document: dict[str, Any]
    updated_at: datetime


_FIND = Statement(
    sa.select(_policies.c.document, _policies.c.updated_at).where(given(_policies, "name"))
)


_FIND_TO_CHANGE = Statement(
    sa.select(_policies.c.document, _policies.c.updated_at)
    .where(given(_policies, "name"))
    .with_for_update()
)


def find(tx: Transaction, name: str, *, lock: bool = False) -> Policy | None:
    """The policy of that name; None if it was never set.

    With `lock`, no other transaction sets it, or acts on it in the same way, until this one ends.
    """
    for document, updated_at in tx.rows(_FIND_TO_CHANGE if lock else _FIND, name=name):
        return Policy(json.loads(document), from_micros(updated_at))
    return None


_FIND_TEXT = Statement(sa.select(_policies.c.document).where(given(_policies, "name")))


def find_text(tx: Transaction, name: str) -> str | None:
    """The policy of that name as it is stored, for what remembers what it has read of it."""
    found: str | None = tx.value(_FIND_TEXT, name=name)
    return found


_ENSURE = Statement.insert(
    _policies,
    ("name", "document", "updated_at"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["name"]),
)


def ensure(tx: Transaction, name: str, document: Mapping[str, Any], now: datetime) -> None:
    """Set a policy if it was never set, so that there is a row to lock."""
    tx.change(_ENSURE, name=name, document=json.dumps(document), updated_at=to_micros(now))


_PUT = Statement.insert(
    _policies,
    ("name", "document", "updated_at"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["name"],
        set_={"document": insert.excluded.document, "updated_at": insert.excluded.updated_at},
    ),
)


def put(tx: Transaction, name: str, document: Mapping[str, Any], now: datetime) -> None:
    """Set a policy, in place of what it was."""
    tx.change(_PUT, name=name, document=json.dumps(document), updated_at=to_micros(now))
