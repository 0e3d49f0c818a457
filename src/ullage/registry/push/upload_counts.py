"""How many uploads are open in all processes, as counted a moment ago.

Enough to see that no limit is near: counting them costs the database a look at each, at each start
of an upload. Where one is near they are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

# They are counted again after so long, or once this process has started so many.
RECOUNT_SECONDS = 1.0
RECOUNT_STARTS = 25
# A limit is near from here on, and from half of it on: room for what is not counted yet.
NEAR = 50


def is_far(count: int, most: int) -> bool:
    """Whether a limit is so far that a count of a moment ago will do."""
    return count + max(NEAR, most // 2) <= most


class UploadCounts:
    """One process's."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._counts: Mapping[str, int] = {}
        self._good_until: float | None = None
        self._starts = 0

    def by_account(self, count: Callable[[], Mapping[str, int]]) -> Mapping[str, int]:
        """What `count` gave a moment ago, for one more start. Raises what `count` raises."""
        with self._lock:
            if self.are_old():
                self.put(count())
            self._starts += 1
            return self._counts

    def of_a_moment_ago(self) -> Mapping[str, int] | None:
        """As by_account, for one more start; None if they have to be counted again."""
        with self._lock:
            if self.are_old():
                return None
            self._starts += 1
            return self._counts

    def are_old(self) -> bool:
        """Whether they have to be counted again."""
        late = self._good_until is None or self._monotonic() >= self._good_until
        return late or self._starts >= RECOUNT_STARTS

    def put(self, counts: Mapping[str, int]) -> None:
        """They have just been counted."""
        self._counts = counts
        self._good_until, self._starts = self._monotonic() + RECOUNT_SECONDS, 0
