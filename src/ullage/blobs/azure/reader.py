"""Reading one blob of a container."""

from __future__ import annotations

from ullage.blobs.azure.container import BROKEN_BODY, NOT_FOUND, Body, Container
from ullage.blobs.azure.places import object_place
from ullage.blobs.protocol import KeyUnknown
from ullage.blobs.service import RequestFailed
from ullage.blobs.streaming import StreamReader


class AzureReader(StreamReader):
    def __init__(self, container: Container, key: str, size: int) -> None:
        super().__init__(size, BROKEN_BODY)
        self._container = container
        self._key = key
        self._place = object_place(key)

    def _request(self, offset: int, n: int) -> Body | None:
        """The body of an answer with a range; None beyond the blob's end. Raises KeyUnknown."""
        try:
            return self._container.stream(self._place, offset, n)
        except RequestFailed as error:
            if error.code in NOT_FOUND:
                raise KeyUnknown(self._key) from error
            if error.code in ("InvalidRange", "416"):
                return None
            raise
