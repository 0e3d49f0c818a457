"""Which processes are dead for certain: not only since a crash of PostgreSQL emptied their rows."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta


class SilentProcesses:
    """What one thread of this process has seen. Times are the registry's."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def for_long(self, silent: Collection[str], now: datetime, long: timedelta) -> set[str]:
        """Those of the processes that are `silent` now that were so `long` ago, and each time since
        then."""
        self._since = {process: self._since.get(process, now) for process in silent}
        return {process for process, since in self._since.items() if since <= now - long}
