"""Plans: what somebody was told a deletion would do, kept until it is carried out or forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from ullage.database.schema import cleaning
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

_plans = cleaning.plans


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan as its maker left it; `receipt` says what was done, once it was."""

    id: str
    subject: str
    created_at: datetime
    expires_at: datetime
    document: bytes
    receipt: str | None = None


def insert(tx: Transaction, plan: StoredPlan) -> None:
    tx.execute(
        _plans.insert().values(
            id=plan.id,
            subject=plan.subject,
            created_at=to_micros(plan.created_at),
            expires_at=to_micros(plan.expires_at),
            document=plan.document,
        )
    )


def find(tx: Transaction, plan_id: str, now: datetime, *, lock: bool = False) -> StoredPlan | None:
    """The plan if it has not expired; `lock` keeps others from carrying it out meanwhile."""
    query = sa.select(
        _plans.c.id,
        _plans.c.subject,
        _plans.c.created_at,
        _plans.c.expires_at,
        _plans.c.document,
        _plans.c.receipt,
    ).where(_plans.c.id == plan_id, _plans.c.expires_at > to_micros(now))
    row = tx.execute(query.with_for_update() if lock else query).first()
    if row is None:
        return None
    return StoredPlan(
        row.id,
        row.subject,
        from_micros(row.created_at),
        from_micros(row.expires_at),
        row.document,
        row.receipt,
    )


def mark_applied(
    tx: Transaction, plan_id: str, receipt: str, now: datetime, expires_at: datetime | None = None
) -> None:
    """It was carried out, or is being: whoever asks again is told what came of it.

    `expires_at` is how long that may be asked, if that is longer than before.
    """
    values: dict[str, object] = {"applied_at": to_micros(now), "receipt": receipt}
    if expires_at is not None:
        values["expires_at"] = to_micros(expires_at)
    tx.execute(_plans.update().where(_plans.c.id == plan_id).values(values))


def count(tx: Transaction) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(_plans)).scalar_one())


def any_expired(tx: Transaction, now: datetime) -> bool:
    query = sa.select(_plans.c.id).where(_plans.c.expires_at <= to_micros(now)).limit(1)
    return tx.execute(query).first() is not None


def forget_expired(tx: Transaction, now: datetime) -> None:
    tx.execute(_plans.delete().where(_plans.c.expires_at <= to_micros(now)))
