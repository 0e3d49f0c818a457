"""The bytes of short blobs and manifests that were asked for lately: image configs, mostly.

A storage key names the same bytes for ever, and so does a digest, so they may be kept in memory.
Whether a caller may have them is asked of the database each time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

# Of one blob, and of all of them together.
LARGEST_BYTES = 64 * 1024
TOGETHER_BYTES = 8 * 1024 * 1024


class BlobCache:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By storage key or digest, what was asked for last at the end.
        self._cached: OrderedDict[str, bytes] = OrderedDict()
        self._room = TOGETHER_BYTES

    def get(self, key: str) -> bytes | None:
        with self._lock:
            data = self._cached.get(key)
            if data is not None:
                self._cached.move_to_end(key)
            return data

    def keep(self, key: str, data: bytes) -> None:
        """Keep all the bytes that `key` names, if they are few."""
        if not 0 < len(data) <= LARGEST_BYTES:
            return
        with self._lock:
            if key not in self._cached:
                self._cached[key] = data
                self._room -= len(data)
            while self._room < 0:
                self._room += len(self._cached.popitem(last=False)[1])
