"""Where the figures of a server come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ullage.registry.context import Registry
from ullage.server.monitoring.counting import RequestCounts


@dataclass(frozen=True, slots=True)
class Sources:
    """All that a scrape asks. Used by any thread."""

    registry: Registry
    requests: RequestCounts
    # By name: (found, not found) of a cache; (at work, waiting) of a pool of threads.
    caches: Mapping[str, Callable[[], tuple[int, int]]]
    pools: Mapping[str, Callable[[], tuple[int, int]]]
    # How many of the largest repositories have figures of their own.
    repositories: int = 0
