"""Unfinished digests: what was hashed of each open upload, so that it is not read again.

Only a shortcut. A process that does not find its upload here (after a restart, or because another
process took the earlier chunks) goes on from what the session's row has (resumable_hash.py).
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from ullage.oci.digest import Hasher


class HasherCache:
    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Hasher] = OrderedDict()

    def take(self, upload_id: str, algorithm: str, offset: int) -> Hasher | None:
        """The hasher that has seen just the first `offset` bytes of this upload, if it is known."""
        with self._lock:
            hasher = self._kept.pop(upload_id, None)
        fits = hasher and hasher.algorithm == algorithm and hasher.length == offset
        return hasher if fits else None

    def keep(self, upload_id: str, hasher: Hasher) -> None:
        with self._lock:
            self._kept[upload_id] = hasher
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)

    def forget(self, upload_id: str) -> None:
        with self._lock:
            self._kept.pop(upload_id, None)
