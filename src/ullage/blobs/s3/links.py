"""Signed URLs, remembered while they last long enough: a signature takes a quarter of a ms."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import OrderedDict

from ullage.blobs.s3.bucket import Bucket
from ullage.blobs.s3.places import object_place

_REMEMBERED = 10_000


class Links:
    """URLs for whoever is sent to the bucket, signed for the host that they can reach."""

    def __init__(self, bucket: Bucket) -> None:
        options = bucket.options
        if options.public is not None:
            bucket = Bucket(dataclasses.replace(options, endpoint=options.public))
        self._bucket = bucket
        self._lock = threading.Lock()
        self._links: OrderedDict[tuple[str, int], tuple[str, float]] = OrderedDict()

    def link(self, key: str, seconds: int) -> str:
        """A URL that reads the object for at least `seconds` from now, and at most twice as long.

        Raises ValueError for what is no key, OSError where nothing can be signed.
        """
        place, now = object_place(key), time.time()
        with self._lock:
            url, until = self._links.get((key, seconds), ("", 0.0))
            if now + seconds <= until:
                self._links.move_to_end((key, seconds))
                return url
        lasts = 2 * seconds
        url = self._bucket.sign(
            place,
            lasts,
            ResponseContentType="application/octet-stream",
            ResponseCacheControl=f"private, max-age={seconds}",
        )
        with self._lock:
            self._links[key, seconds] = (url, now + lasts)
            while len(self._links) > _REMEMBERED:
                self._links.popitem(last=False)
        return url
