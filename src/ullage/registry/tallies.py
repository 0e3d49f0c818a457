"""What happened in this process since it began, counted: pushes, pulls, deletions, logins.

Counters for those that watch a registry (docs/design/observability.md section 3). They begin at
nothing with each process; what has to last is in the database.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ullage.registry.queries.audit import Entry

# From the moment at which bytes might go to the moment at which they were gone, in seconds.
ERASE_BOUNDS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 600.0)
# Deletions of jobs, by their entry in the audit log.
_JOBS = {"plan.delete": "plan", "purge.delete": "purge", "retention.delete": "retention"}


class Histogram:
    """How many observations were at most each bound, and their sum. One thread writes at a time."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        # Not cumulative; the last one is of what is above all bounds.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, n: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += n
        self.total += value * n


class Tallies:
    """Counts by name and labels. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._erased = Histogram(ERASE_BOUNDS)
        # What the last check left unmended, by invariant; None before the first.
        self.findings: dict[str, int] | None = None

    def add(self, name: str, *labels: str, n: int = 1) -> None:
        with self._lock:
            self._counts[(name, *labels)] += n

    def counts(self, name: str) -> dict[tuple[str, ...], int]:
        """By labels, those of this name."""
        with self._lock:
            return {key[1:]: n for key, n in self._counts.items() if key[0] == name}

    def add_erased(self, seconds: float, n: int) -> None:
        """`n` objects were taken off the store so long after they might go."""
        with self._lock:
            self._erased.observe(seconds, n)

    def erased(self) -> tuple[list[int], float]:
        """Counts by ERASE_BOUNDS, and the sum."""
        with self._lock:
            return [*self._erased.counts], self._erased.total

    def add_changes(self, entries: Iterable[Entry]) -> None:
        """Acknowledged changes, as the audit log has them."""
        for entry in entries:
            self.add_change(entry.action, entry.detail)

    def add_change(self, action: str, detail: Mapping[str, Any]) -> None:
        """An acknowledged change, as the audit log has it."""
        match action:
            case "blob.upload" | "manifest.push":
                self.add("pushed_bytes", n=detail["bytes"])
            case "tag.delete":
                self.add("deleted", "tag", "client")
            case "manifest.delete":
                self._add_deleted("client", len(detail["manifests"]), len(detail["tags"]))
            case "repository.delete":
                self.add("deleted", "repository", "client")
                self._add_deleted("client", detail["manifest_count"], detail["tag_count"])
            case "plan.apply":
                self._add_deleted("plan", detail["manifest_count"], detail["tag_count"])
            case _ if action in _JOBS:
                counts = len(detail["manifests"]), len(detail["tags"])
                self._add_deleted(_JOBS[action], *counts)

    def _add_deleted(self, by: str, manifests: int, tags: int) -> None:
        self.add("deleted", "manifest", by, n=manifests)
        self.add("deleted", "tag", by, n=tags)
