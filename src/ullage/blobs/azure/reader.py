"""Reading one blob: a streaming request while it is read in order, else one for each range."""

from __future__ import annotations

import errno
import threading

from ullage.blobs.azure.container import BROKEN_BODY, NOT_FOUND, Body, Container, RequestFailed
from ullage.blobs.azure.places import object_place
from ullage.blobs.protocol import Closing, KeyUnknown

# Less at once is no reading in order: a look at the beginning, say.
_STREAM_FROM = 64 * 1024
_TRIES = 4
# What has come before a connection breaks is kept, in pieces of this.
_PIECE = 1024 * 1024


class AzureReader(Closing):
    """No look at the container before the first read. `size` is what the caller knows."""

    def __init__(self, container: Container, key: str, size: int) -> None:
        self._container = container
        self._key = key
        self._place = object_place(key)
        self.size = size
        self._lock = threading.Lock()
        self._body: Body | None = None
        # Where the last read ended, and with that the next one begins if it is in order.
        self._next = 0
        self._closed = False

    def read_at(self, offset: int, n: int) -> bytes:
        n = self._clip(offset, n)
        if not n:
            return b""
        # Another thread that is reading does not hold this one up.
        if self._lock.acquire(blocking=False):
            try:
                return self._read_in_order(offset, n)
            finally:
                self._lock.release()
        return self._get(offset, n)

    def read_now(self, offset: int, n: int) -> bytes | None:
        return None if self._clip(offset, n) else b""

    def close(self) -> None:
        self._closed = True
        with self._lock:
            self._drop_body()

    def _clip(self, offset: int, n: int) -> int:
        """How many bytes there are to read."""
        if offset < 0 or n < 0:
            raise OSError(errno.EINVAL, "offset and length count from zero")
        if self._closed:
            raise ValueError("I/O operation on a closed reader")
        return max(min(n, self.size - offset), 0)

    def _read_in_order(self, offset: int, n: int) -> bytes:
        in_order, self._next = offset == self._next, offset + n
        if not in_order:
            self._drop_body()
        elif self._body is None and _STREAM_FROM <= n < self.size - offset:
            self._body = self._request(offset, self.size - offset)
        if self._body is None:
            return self._get(offset, n)
        data = _read(self._body, n)
        if len(data) < n:
            # The connection broke; or the blob is shorter, and that says so.
            self._drop_body()
            data += self._get(offset + len(data), n - len(data))
        elif self._next == self.size:
            self._drop_body()
        return data

    def _get(self, offset: int, n: int) -> bytes:
        """A range, in a request of its own."""
        data = bytearray()
        for tries in range(_TRIES):
            body = self._request(offset + len(data), n - len(data))
            if body is None:
                break
            try:
                with body:
                    while piece := body.read(_PIECE):
                        data += piece
                break
            except BROKEN_BODY as error:
                if tries == _TRIES - 1:
                    raise RequestFailed("BrokenBody", f"Get Blob: {error}") from error
        return bytes(data)

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

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def _read(body: Body, n: int) -> bytes:
    """The next bytes of a stream; fewer where it breaks."""
    pieces, left = [], n
    try:
        while left and (piece := body.read(left)):
            pieces.append(piece)
            left -= len(piece)
    except BROKEN_BODY:
        pass
    return b"".join(pieces)
