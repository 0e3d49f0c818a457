"""The bill as it was taken last, in pages of JSON, and how to tell whether it still holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import accounts, space
from ullage.database.statements import Statement, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.registry.queries.counters import totals

_overview = space.overview

_FORGET = Statement(_overview.delete())
_KEEP = Statement.insert(_overview, ("part", "page", "taken_at", "document"))
_FIRST_PAGES = Statement(
    sa.select(*_overview.c["taken_at", "document"])
    .where(given(_overview, "part"), _overview.c.page < bindparam("pages"))
    .order_by(_overview.c.page)
)
_LAST_CHANGE = Statement(sa.select(sa.func.coalesce(sa.func.max(accounts.audit.c.id), 0)))


def keep(tx: Transaction, taken_at: datetime, parts: Mapping[str, Sequence[str]]) -> None:
    """Put these parts, each in pages, in the place of those of before."""
    tx.change(_FORGET)
    at = to_micros(taken_at)
    tx.many(
        _KEEP,
        [
            {"part": part, "page": page, "taken_at": at, "document": document}
            for part, documents in sorted(parts.items())
            for page, document in enumerate(documents)
        ],
    )


def first_pages(tx: Transaction, part: str, pages: int) -> list[tuple[datetime, str]]:
    """(when it was taken, JSON) of up to so many pages, in their order."""
    rows = tx.rows(_FIRST_PAGES, part=part, pages=pages)
    return [(from_micros(at), document) for at, document in rows]


def state(tx: Transaction) -> dict[str, int]:
    """Numbers of which one is another whenever a blob, a manifest or a tag has come or gone.

    The registry's totals, and the number of the last acknowledged change.
    """
    return {**totals(tx), "last_change": int(tx.value(_LAST_CHANGE))}
