"""Reading the audit log. Writing it is part of every change: `Registry.audit`."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from ullage.accounts.documents import AuditDocument, audit_document
from ullage.oci.errors import RegistryError, ValueInvalid
from ullage.quantities import parse_duration
from ullage.registry.context import Registry
from ullage.registry.queries import audit

MAX_ENTRIES = 10_000
LONGEST_AGO = timedelta(days=99_999)


class TimeInvalid(RegistryError):
    code = "TIME_INVALID"
    message = "expected a time such as 2026-11-23T10:00:00Z, or an age such as 24h or 7d"


def list_audit(
    registry: Registry,
    *,
    subject: str | None = None,
    action: str | None = None,
    repository: str | None = None,
    since: str | None = None,
    until: str | None = None,
    top: int = 100,
    before: int | None = None,
) -> list[AuditDocument]:
    """The newest entries first, those that match everything asked for; `before` is an entry's id.

    Raises TimeInvalid.
    """
    now = registry.now()
    found = registry.read(
        lambda tx: audit.entries(
            tx,
            limit=max(1, min(top, MAX_ENTRIES)),
            before=before,
            subject=subject,
            action=action,
            repository=repository,
            since=_time(since, now),
            until=_time(until, now),
        )
    )
    return [audit_document(entry) for entry in found]


def _time(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    with suppress(ValueInvalid):
        return now - parse_duration(text, LONGEST_AGO)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise TimeInvalid({"time": text[:40]}) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
