"""What the clients of all services of objects have in common: names, clocks, and failures."""

from __future__ import annotations

import errno
import logging
import time
from email.utils import parsedate_to_datetime

log = logging.getLogger(__name__)


class RequestFailed(OSError):
    """A request that the service refused, or that got no answer; `code` is the service's word."""

    def __init__(self, code: str, message: str, status: int = 0) -> None:
        super().__init__(errno.EIO, message)
        self.code = code
        self.status = status


class Service:
    """Where objects lie below a prefix, and what time it is there."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        # How far this machine's clock is ahead of the service's, in seconds, as last seen.
        self.ahead = 0.0

    def name(self, place: str) -> str:
        """The full name of what lies at `place` below the prefix."""
        return f"{self._prefix}/{place}" if self._prefix else place

    def place(self, name: str) -> str:
        """What `name` made a full name of."""
        return name.removeprefix(f"{self._prefix}/") if self._prefix else name

    def compare_clocks(self, date: str | None) -> None:
        """Take note of the `Date` of an answer."""
        if not date:
            return
        try:
            self.ahead = time.time() - parsedate_to_datetime(date).timestamp()
        except ValueError:
            log.debug("no date: %r", date)
