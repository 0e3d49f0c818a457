"""Plans: what a deletion would do, as a client was told; kept until carried out or forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import cleaning
from ullage.database.statements import Statement, beginning, given, range_of
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

_plans = cleaning.plans
_pages = cleaning.plan_pages


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan as its maker left it, but for its pages; `receipt` says what was done, once it was."""

    id: str
    subject: str
    created_at: datetime
    expires_at: datetime
    document: bytes
    receipt: str | None = None


_INSERT = Statement.insert(_plans, ("id", "subject", "created_at", "expires_at", "document"))


_INSERT_PAGE = Statement.insert(_pages, ("plan_id", "number", "document"))


def insert(tx: Transaction, plan: StoredPlan, pages: Sequence[bytes]) -> None:
    """Keep a plan; `pages` are what goes by it, in order."""
    tx.change(
        _INSERT,
        id=plan.id,
        subject=plan.subject,
        created_at=to_micros(plan.created_at),
        expires_at=to_micros(plan.expires_at),
        document=plan.document,
    )
    tx.many(
        _INSERT_PAGE,
        [
            {"plan_id": plan.id, "number": number, "document": page}
            for number, page in enumerate(pages)
        ],
    )


_PAGES = Statement(
    sa.select(_pages.c.document)
    .where(
        given(_pages, "plan_id"),
        _pages.c.number >= bindparam("first"),
        _pages.c.number < bindparam("end", type_=sa.BigInteger),
    )
    .order_by(_pages.c.number)
)


def pages(tx: Transaction, plan_id: str, first: int = 0, end: int = 2**31 - 1) -> list[bytes]:
    """Pages of a plan by their numbers, from `first` to before `end`."""
    found = tx.values(_PAGES, plan_id=plan_id, first=first, end=end)
    return [bytes(document) for document in found]


_THIS_ONE = _plans.c.id == bindparam("plan_id")
_CURRENT = sa.select(*(_plans.c[name] for name in StoredPlan.__dataclass_fields__)).where(
    _THIS_ONE, _plans.c.expires_at > bindparam("now")
)
_FIND = Statement(_CURRENT)
_LOCK = Statement(_CURRENT.with_for_update())


def find(tx: Transaction, plan_id: str, now: datetime, *, lock: bool = False) -> StoredPlan | None:
    """The plan if it has not expired; `lock` keeps others from carrying it out meanwhile."""
    row = tx.row(_LOCK if lock else _FIND, plan_id=plan_id, now=to_micros(now))
    if row is None:
        return None
    id_, subject, created_at, expires_at, document, receipt = row
    return StoredPlan(
        id_, subject, from_micros(created_at), from_micros(expires_at), document, receipt
    )


_BEGINNING = Statement(
    sa.select(_plans.c.id)
    .where(beginning(_plans.c.id), _plans.c.expires_at > bindparam("now"))
    .order_by(_plans.c.id)
)


def beginning_with(tx: Transaction, prefix: str, now: datetime) -> list[str]:
    """The ids of plans that begin so and have not expired."""
    return tx.values(_BEGINNING, **range_of(prefix), now=to_micros(now))


_MARK_APPLIED = Statement(
    _plans.update()
    .where(_THIS_ONE)
    .values(
        applied_at=bindparam("now"),
        receipt=bindparam("receipt"),
        expires_at=sa.func.coalesce(bindparam("until", type_=sa.BigInteger), _plans.c.expires_at),
    )
)


def mark_applied(
    tx: Transaction, plan_id: str, receipt: str, now: datetime, expires_at: datetime | None = None
) -> None:
    """It was carried out, or is being: a second request for it is told what came of it.

    `expires_at` is how long that may be asked, if that is longer than before.
    """
    until = None if expires_at is None else to_micros(expires_at)
    tx.change(_MARK_APPLIED, plan_id=plan_id, now=to_micros(now), receipt=receipt, until=until)


_KEPT = sa.select(sa.func.count(), sa.func.min(_plans.c.expires_at)).where(
    _plans.c.expires_at > bindparam("now")
)
_ALL = Statement(_KEPT)
_OF_ACCOUNT = Statement(_KEPT.where(given(_plans, "subject")))
_EXPIRED = _plans.c.expires_at <= bindparam("now")
_ANY_EXPIRED = Statement(sa.select(_plans.c.id).where(_EXPIRED).limit(1))
_FORGET_EXPIRED = Statement(_plans.delete().where(_EXPIRED))


def count(
    tx: Transaction, now: datetime, subject: str | None = None
) -> tuple[int, datetime | None]:
    """How many there are, of one account or of all, and when the first of them is forgotten."""
    if subject is None:
        row = tx.rows(_ALL, now=to_micros(now))[0]
    else:
        row = tx.rows(_OF_ACCOUNT, now=to_micros(now), subject=subject)[0]
    return int(row[0]), None if row[1] is None else from_micros(row[1])


def any_expired(tx: Transaction, now: datetime) -> bool:
    return tx.row(_ANY_EXPIRED, now=to_micros(now)) is not None


def forget_expired(tx: Transaction, now: datetime) -> None:
    tx.change(_FORGET_EXPIRED, now=to_micros(now))
