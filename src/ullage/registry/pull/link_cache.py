"""Signed URLs that were handed out, for as long as they may be handed out again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime
from typing import NamedTuple

_KEPT = 10_000


class _Link(NamedTuple):
    url: str
    signed_at: datetime
    good_until: datetime


class LinkCache:
    """By storage key: one that is signed again takes the place of the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # What was asked for last at the end.
        self._links: OrderedDict[str, _Link] = OrderedDict()

    def get(self, key: str, now: datetime) -> str | None:
        with self._lock:
            link = self._links.get(key)
            # A clock that was put back says nothing of how much of it is left.
            if link is None or not link.signed_at <= now <= link.good_until:
                return None
            self._links.move_to_end(key)
            return link.url

    def keep(self, key: str, url: str, signed_at: datetime, good_until: datetime) -> None:
        with self._lock:
            self._links[key] = _Link(url, signed_at, good_until)
            self._links.move_to_end(key)
            if len(self._links) > _KEPT:
                self._links.popitem(last=False)
