"""The audit log: each change and its author, written in the transaction that makes it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import accounts
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Row, Transaction

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


# PostgreSQL gives numbers out before the commit. So one transaction at a time gets one, and others
# wait until it has ended: the order of the numbers is the order of the commits. What a common table
# expression that is materialized has to wait for comes before the row's number.
_INSERT = Statement.text(
    """INSERT INTO audit (at, subject, address, request_id, action, repository, target, detail)
    VALUES (:at, :subject, :address, :request_id, :action, :repository, :target, :detail)""",
    """WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(7813298312))
    INSERT INTO audit (at, subject, address, request_id, action, repository, target, detail)
    SELECT :at, :subject, :address, :request_id, :action, :repository, :target, :detail FROM turn
    """,
    in_sets="""WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(7813298312))
    INSERT INTO audit (at, subject, address, request_id, action, repository, target, detail)
    SELECT entry.* FROM turn, unnest(
        CAST(:at AS bigint[]), CAST(:subject AS text[]), CAST(:address AS text[]),
        CAST(:request_id AS text[]), CAST(:action AS text[]), CAST(:repository AS text[]),
        CAST(:target AS text[]), CAST(:detail AS text[])
    ) AS entry
    """,
)


class Entry(NamedTuple):
    """What was changed, when and by whom."""

    at: datetime
    subject: str
    address: str
    request_id: str
    action: str
    repository: str | None = None
    target: str | None = None
    detail: Mapping[str, Any] = MappingProxyType({})


def record(tx: Transaction, entries: Sequence[Entry]) -> None:
    """Add entries, in this order. They are there exactly if the changes are."""
    rows = [
        {
            **entry._asdict(),
            "at": to_micros(entry.at),
            "detail": json.dumps(dict(entry.detail), sort_keys=True),
        }
        for entry in entries
    ]
    tx.many(_INSERT, rows)


# An index has the entries about one repository, and those of one subject, in their order. What else
# is asked for is looked at on the way.
_NEWEST = (
    sa.select(*_audit.c)
    .where(
        _audit.c.id < bindparam("before"),
        _audit.c.at >= bindparam("since"),
        _audit.c.at < bindparam("until"),
        sa.or_(bindparam("action", type_=sa.Text).is_(None), given(_audit, "action")),
    )
    .order_by(_audit.c.id.desc())
    .limit(LIMIT)
)
_BY_SUBJECT = given(_audit, "subject")
_ABOUT_REPOSITORY = given(_audit, "repository")
# By whether it is about one subject, and about one repository.
_ENTRIES = {
    (False, False): Statement(_NEWEST),
    (True, False): Statement(_NEWEST.where(_BY_SUBJECT)),
    (False, True): Statement(_NEWEST.where(_ABOUT_REPOSITORY)),
    (True, True): Statement(_NEWEST.where(_BY_SUBJECT, _ABOUT_REPOSITORY)),
}
_END_OF_TIME = 2**62


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
    one = {"subject": subject, "repository": repository}
    rows = tx.rows(
        _ENTRIES[subject is not None, repository is not None],
        limit=limit,
        before=2**62 if before is None else before,
        since=0 if since is None else to_micros(since),
        until=_END_OF_TIME if until is None else to_micros(until),
        action=action,
        **{name: value for name, value in one.items() if value is not None},
    )
    return [_entry(row) for row in rows]


_ABOUT = Statement(
    sa.select(*_audit.c)
    .where(_ABOUT_REPOSITORY, _audit.c.id > bindparam("after"), among(_audit.c.action, "actions"))
    .order_by(_audit.c.id)
    .limit(LIMIT)
)
_REPOSITORIES = Statement(
    sa.select(_audit.c.repository)
    .where(_audit.c.repository.is_not(None))
    .distinct()
    .order_by(_audit.c.repository)
)


def about(
    tx: Transaction, repository: str, actions: Collection[str], after: int, limit: int
) -> list[AuditEntry]:
    """Up to `limit` entries about a repository behind an id, the oldest first."""
    rows = tx.rows(_ABOUT, repository=repository, actions=actions, after=after, limit=limit)
    return [_entry(row) for row in rows]


def repositories(tx: Transaction) -> list[str]:
    """Every repository that there is an entry about, by name."""
    return tx.values(_REPOSITORIES)


def _entry(row: Row) -> AuditEntry:
    id_, at, subject, address, request_id, action, repository, target, detail = row
    when, said = from_micros(at), json.loads(detail)
    return AuditEntry(id_, when, subject, address, request_id, action, repository, target, said)
