"""Pulls that were answered and are not written down yet: all that a pull itself pays for.

A pull costs one look into a dictionary here. What kind of client that was, and which index lists
the manifest, is found out when it is written down (pull_log.py), where no request waits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ullage.oci.reference import Tag

# Different pulls that wait at most: more than a busy registry has in the seconds until they are
# written down. What comes beyond that is lost.
MAX_WAITING = 100_000
MAX_AGENT = 200


@dataclass(slots=True)
class Seen:
    """How often, and when last."""

    pulls: int
    at: datetime


# Manifest's id, tag if it was pulled by one, User-Agent.
Pulls = dict[tuple[int, Tag | None, str], Seen]


class PullRecorder:
    def __init__(self, capacity: int = MAX_WAITING) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._waiting: Pulls = {}
        # One at a time writes down: what is being written is not lost to one that asks meanwhile.
        self.writing = threading.Lock()

    def note(self, manifest_id: int, tag: Tag | None, agent: str, at: datetime) -> None:
        """A client has pulled this."""
        key = (manifest_id, tag, agent)
        with self._lock:
            seen = self._waiting.get(key)
            if seen is not None:
                seen.pulls += 1
                seen.at = at
            elif len(self._waiting) < self._capacity:
                self._waiting[key] = Seen(1, at)

    def take(self) -> Pulls:
        """All that waits; it is taken out."""
        with self._lock:
            taken, self._waiting = self._waiting, {}
        return taken

    def put_back(self, taken: Mapping[tuple[int, Tag | None, str], Seen]) -> None:
        """It could not be written down now."""
        with self._lock:
            for key, old in taken.items():
                new = self._waiting.get(key)
                if new is not None:
                    new.pulls += old.pulls
                    new.at = max(new.at, old.at)
                elif len(self._waiting) < self._capacity:
                    self._waiting[key] = old
