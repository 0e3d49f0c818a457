"""A wall clock that does not jump under work in progress.

Leases, sessions and grace periods end by this clock. It follows the machine's boot clock, which
only runs forward, from a wall time taken at the start. When the wall clock is set, the worker
notices, and moves this clock and the deadlines along.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


def system_time() -> datetime:
    """What the machine's wall clock says."""
    return datetime.now(UTC)


class SteadyClock:
    def __init__(self, wall: Callable[[], datetime] = system_time) -> None:
        self._wall = wall
        self._offset = self._measured()

    def __call__(self) -> datetime:
        return self._offset + timedelta(seconds=_boot_seconds())

    def moved(self) -> timedelta:
        """How far the wall clock has been put forward, or back, against this one."""
        return self._measured() - self._offset

    def adopt(self, moved: timedelta) -> None:
        """Go forward, or back, by as much."""
        self._offset += moved

    def _measured(self) -> datetime:
        """The wall time at which the machine started, as the wall clock has it now."""
        return self._wall() - timedelta(seconds=_boot_seconds())


def _boot_seconds() -> float:
    # Unlike the monotonic clock, this one also runs while the machine sleeps.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
