"""Time as the tests tell it."""

from datetime import UTC, datetime, timedelta

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A `now` for `Registry`: stands still until a test moves it, also backwards."""

    def __init__(self, start: datetime = NEW_YEAR) -> None:
        assert start.tzinfo is not None, "a moment without a time zone"
        self._now = start

    def __call__(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> datetime:
        """Move by `seconds` and return the new now."""
        self._now += timedelta(seconds=seconds)
        return self._now
