"""Times in the database: integer microseconds since the epoch, UTC; the same in every dialect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(when: datetime) -> int:
    """An aware datetime as it is stored."""
    return (when - _EPOCH) // _MICROSECOND


def from_micros(stored: int) -> datetime:
    """A stored time as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=stored)
