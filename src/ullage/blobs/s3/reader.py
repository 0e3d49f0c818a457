"""Reading one object of a bucket."""

from __future__ import annotations

from typing import Any

from ullage.blobs.protocol import KeyUnknown
from ullage.blobs.s3.bucket import BROKEN_BODY, NOT_FOUND, Bucket
from ullage.blobs.s3.places import object_place
from ullage.blobs.service import RequestFailed
from ullage.blobs.streaming import StreamReader


class S3Reader(StreamReader):
    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        super().__init__(size, BROKEN_BODY)
        self._bucket = bucket
        self._key = key
        self._name = bucket.name(object_place(key))

    def _request(self, offset: int, n: int) -> Any:
        """The body of an answer with a range; None beyond the object's end. Raises KeyUnknown."""
        try:
            return self._bucket.call(
                "get_object", Key=self._name, Range=f"bytes={offset}-{offset + n - 1}"
            )["Body"]
        except RequestFailed as error:
            if error.code in NOT_FOUND:
                raise KeyUnknown(self._key) from error
            if error.code in ("InvalidRange", "416"):
                return None
            raise
