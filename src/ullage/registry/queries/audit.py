"""The audit log: who changed what, written in the transaction that changes it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ullage.database.schema import accounts
from ullage.database.statements import Statement
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction

_audit = accounts.audit


@dataclass(frozen=True, slots=True)
class AuditEntry:
    id: int
    at: datetime
    subject: str
    address: str
    request_id: str
    action: str
    repository: str | None
    target: str | None
    detail: dict[str, Any]


# Numbers are given out before the commit. One at a time from here on, so that their order is the
# order of the commits.
_IN_ORDER = Statement(sa.text("SELECT pg_advisory_xact_lock(7813298312)"))
_INSERT = Statement.insert(
    _audit,
    ("at", "subject", "address", "request_id", "action", "repository", "target", "detail"),
)


def record(
    tx: Transaction,
    *,
    at: datetime,
    subject: str,
    address: str,
    request_id: str,
    action: str,
    repository: str | None = None,
    target: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add one entry. It is there exactly if the change is."""
    if tx.dialect == "postgresql":
        tx.rows(_IN_ORDER)
    tx.change(
        _INSERT,
        at=to_micros(at),
        subject=subject,
        address=address,
        request_id=request_id,
        action=action,
        repository=repository,
        target=target,
        detail=json.dumps(dict(detail or {}), sort_keys=True),
    )


def entries(
    tx: Transaction,
    *,
    limit: int,
    before: int | None = None,
    subject: str | None = None,
    action: str | None = None,
    repository: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[AuditEntry]:
    """The newest entries first, those that match everything asked for."""
    query = sa.select(_audit).order_by(_audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(_audit.c.id < before)
    for column, value in ((_audit.c.subject, subject), (_audit.c.repository, repository)):
        if value is not None:
            query = query.where(column == value)
    if action is not None:
        query = query.where(_audit.c.action == action)
    if since is not None:
        query = query.where(_audit.c.at >= to_micros(since))
    if until is not None:
        query = query.where(_audit.c.at < to_micros(until))
    return [_entry(row) for row in tx.execute(query)]


def about(
    tx: Transaction, repository: str, actions: Collection[str], after: int, limit: int
) -> list[AuditEntry]:
    """Up to `limit` entries about a repository behind an id, the oldest first."""
    query = (
        sa.select(_audit)
        .where(_audit.c.repository == repository, _audit.c.id > after)
        .where(_audit.c.action.in_([*actions]))
        .order_by(_audit.c.id)
        .limit(limit)
    )
    return [_entry(row) for row in tx.execute(query)]


def repositories(tx: Transaction) -> list[str]:
    """Every repository that there is an entry about, by name."""
    query = sa.select(_audit.c.repository).where(_audit.c.repository.is_not(None)).distinct()
    return list(tx.execute(query.order_by(_audit.c.repository)).scalars())


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        row.id,
        from_micros(row.at),
        row.subject,
        row.address,
        row.request_id,
        row.action,
        row.repository,
        row.target,
        json.loads(row.detail),
    )
