"""Requests, counted where they end: a request adds itself to those that wait, and pays no more.

Those that wait are counted many at a time, or when the figures are asked for. OpenTelemetry,
semantic conventions for HTTP servers: names, labels and the bounds of the histogram.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from ullage.server.http.proxies import SCHEME
from ullage.server.http.request import Request
from ullage.server.http.routes import Route

# Seconds: what `http.server.request.duration` advises.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_METHODS = frozenset(
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]
)
OTHER = "_OTHER"
# Requests that are counted together.
AT_ONCE = 256
_LENGTH = b"content-length"

# The specification's endpoints whose answers are content that was pushed.
_CONTENT = frozenset(["end-2", "end-3"])

Head: TypeAlias = list[tuple[bytes, bytes]]
# Method, route, status, scheme if a proxy named it, seconds, and the head of what was sent to its
# end.
Ended: TypeAlias = tuple[str, Route | None, int, str | None, float, Head | None]


class Served(NamedTuple):
    """Requests of one kind: how many took so long (not cumulative), and the sum of seconds."""

    method: str
    route: str
    status: int
    scheme: str
    counts: list[int]
    seconds: float


class RequestCounts:
    """Of one event loop, which alone writes; any thread may read."""

    def __init__(self, scheme: str = "http") -> None:
        """`scheme` is what clients speak, but where a proxy says otherwise."""
        self._scheme = scheme
        # Those that are being answered: the server puts them there, and takes them out.
        self.begun: set[Request] = set()
        self._waiting: deque[Ended] = deque()
        # Of all that is below: one thread at a time counts those that wait.
        self._counting = threading.Lock()
        # The last of each row is the sum of seconds.
        self._rows: dict[tuple[str, str, int, str], list[float]] = {}
        self._sent_bytes = 0

    def end(self, request: Ended) -> None:
        """It was answered."""
        self._waiting.append(request)
        if len(self._waiting) >= AT_ONCE:
            self._count()

    def active(self) -> list[tuple[str, str, int]]:
        """(method, scheme, how many are being answered), of methods that there were."""
        with self._counting:
            self._count_waiting()
            numbers = {(key[0], key[3]): 0 for key in self._rows}
        for request in [*self.begun]:
            key = _method(request.scope["method"]), request.scope.get(SCHEME) or self._scheme
            numbers[key] = numbers.get(key, 0) + 1
        return [(*key, number) for key, number in numbers.items()]

    def served(self) -> Iterable[Served]:
        with self._counting:
            self._count_waiting()
            rows = [(key, [*row]) for key, row in self._rows.items()]
        for key, (*counts, seconds) in rows:
            yield Served(*key, [int(n) for n in counts], seconds)

    def sent_bytes(self) -> int:
        """Of blobs and manifests."""
        with self._counting:
            self._count_waiting()
            return self._sent_bytes

    def _count(self) -> None:
        # Where another thread counts, these wait for the next time.
        if self._counting.acquire(blocking=False):
            try:
                self._count_waiting()
            finally:
                self._counting.release()

    def _count_waiting(self) -> None:
        """The lock is held."""
        rows, waiting = self._rows, self._waiting
        while waiting:
            method, route, status, scheme, seconds, head = waiting.popleft()
            path = "" if route is None else route.path
            key = (_method(method), path, status, scheme or self._scheme)
            row = rows.get(key)
            if row is None:
                row = rows[key] = [0] * (len(BOUNDS) + 2)
            row[bisect_left(BOUNDS, seconds)] += 1
            row[-1] += seconds
            if head is not None and status < 300 and method == "GET" and _is_content(route):
                self._sent_bytes += _content_length(head)


def _method(name: str) -> str:
    return name if name in _METHODS else OTHER


def _is_content(route: Route | None) -> bool:
    return route is not None and route.endpoint in _CONTENT


def _content_length(head: Head) -> int:
    for name, value in head:
        if name == _LENGTH:
            return int(value)
    return 0
