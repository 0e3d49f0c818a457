"""Reading the bytes of one file, waiting for the disk or not."""

from __future__ import annotations

import errno
import os
import threading
from io import FileIO

from ullage.blobs.protocol import Closing


class FileReader(Closing):
    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def read_at(self, offset: int, n: int) -> bytes:
        data = os.pread(self._file.fileno(), n, offset)
        # One pread gives all there is, except beyond 2 GiB and when a signal comes in between.
        while 0 < len(data) < n:
            more = os.pread(self._file.fileno(), n - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def read_now(self, offset: int, n: int) -> bytes | None:
        buffer = _buffer_of_thread(n)
        try:
            got = os.preadv(self._file.fileno(), [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            # Some file systems never say what they have at hand.
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        # Some kernels say so of what they have not at hand, too; a read that waits tells.
        if got == 0 and n and offset < self.size:
            return None
        return bytes(buffer[:got])

    def close(self) -> None:
        self._file.close()


# What is read without waiting goes through one buffer a thread: a new one each time would cost
# more than what is read into it.
_of_thread = threading.local()


def _buffer_of_thread(n: int) -> memoryview:
    """`n` bytes of it, until the next call."""
    buffer: bytearray = getattr(_of_thread, "buffer", bytearray())
    if len(buffer) < n:
        buffer = _of_thread.buffer = bytearray(n)
    return memoryview(buffer)[:n]
