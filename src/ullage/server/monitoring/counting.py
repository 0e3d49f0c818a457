"""Requests, counted where they end: a look into a dictionary each, and nothing else.

OpenTelemetry, semantic conventions for HTTP servers: names, labels and the bounds of the histogram.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

# Seconds: what `http.server.request.duration` advises.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_METHODS = frozenset(
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]
)
OTHER = "_OTHER"


class Served(NamedTuple):
    """Requests of one kind: how many took so long (not cumulative), and the sum of seconds."""

    method: str
    route: str
    status: int
    scheme: str
    counts: list[int]
    seconds: float


class RequestCounts:
    """Of one event loop, which alone writes; any thread may read. No lock: none of it is torn."""

    def __init__(self) -> None:
        # The last of each row is the sum of seconds.
        self._rows: dict[tuple[str, str, int, str], list[float]] = {}
        self._active: dict[tuple[str, str], int] = {}
        self.sent_bytes = 0

    def begin(self, method: str, scheme: str) -> tuple[str, str]:
        """What `end` is to be told of it."""
        key = (method if method in _METHODS else OTHER, scheme)
        self._active[key] = self._active.get(key, 0) + 1
        return key

    def end(self, begun: tuple[str, str], route: str, status: int, seconds: float) -> None:
        """It was answered, or it never will be: then `status` is 0, and it is not counted."""
        self._active[begun] -= 1
        if status:
            key = (begun[0], route, status, begun[1])
            row = self._rows.get(key)
            if row is None:
                row = self._rows[key] = [0] * (len(BOUNDS) + 2)
            row[bisect_left(BOUNDS, seconds)] += 1
            row[-1] += seconds

    def active(self) -> list[tuple[str, str, int]]:
        """(method, scheme, how many are being answered)."""
        return [(*key, n) for key, n in [*self._active.items()]]

    def served(self) -> Iterable[Served]:
        for key, row in [*self._rows.items()]:
            *counts, seconds = [*row]
            yield Served(*key, [int(n) for n in counts], seconds)
