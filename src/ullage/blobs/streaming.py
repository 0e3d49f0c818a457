"""Reading one object of a service: a stream while it is read in order, else a request a range."""

from __future__ import annotations

import errno
import threading
from abc import abstractmethod
from typing import Any

from ullage.blobs.protocol import Closing

# Less at once is no reading in order: a look at the beginning, say.
_STREAM_FROM = 64 * 1024
_TRIES = 4
# What has come before a connection breaks is kept, in pieces of this.
_PIECE = 1024 * 1024


class StreamReader(Closing):
    """No look at the service before the first read. `size` is what the caller knows, in bytes.

    `broken` is what the body of an answer raises when its connection breaks.
    """

    def __init__(self, size: int, broken: tuple[type[Exception], ...]) -> None:
        self.size = size
        self._broken = broken
        self._lock = threading.Lock()
        self._body: Any = None
        # Where the last read ended, and with that the next one begins if it is in order.
        self._next = 0
        self._closed = False

    @abstractmethod
    def _request(self, offset: int, n: int) -> Any:
        """The body of an answer with a range; None beyond the object's end. Raises KeyUnknown."""

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
        data = self._read_body(n)
        if len(data) < n:
            # The connection broke; or the object is shorter, and that says so.
            self._drop_body()
            data += self._get(offset + len(data), n - len(data))
        elif self._next == self.size:
            self._drop_body()
        return data

    def _read_body(self, n: int) -> bytes:
        """The next bytes of the stream; fewer where it breaks."""
        pieces, left = [], n
        try:
            while left and (piece := self._body.read(left)):
                pieces.append(piece)
                left -= len(piece)
        except self._broken:
            pass
        return b"".join(pieces)

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
            except self._broken as error:
                if tries == _TRIES - 1:
                    raise OSError(errno.EIO, f"the answer broke off: {error}") from error
        return bytes(data)

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()
