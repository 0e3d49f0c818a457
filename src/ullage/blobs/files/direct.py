"""Large objects on their way to the disk past the page cache, while more of them arrives.

A layer of 256 MiB that goes through the page cache is copied into as many pages, drives what other
clients pull out of memory, and is waited for at the end. Here 4 MiB at a time go from a buffer to
the disk (O_DIRECT) by a thread of their own, while the next 4 MiB are hashed and gathered.

Nothing is durable before an fsync, which the owner of the file makes.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

# So much goes through the page cache before: a short object stays in memory for its next pull, and
# buffers would cost more than they save.
AFTER_BYTES = 8 * 1024 * 1024
# What disks take is whole blocks of this, and begins at one, on the disk as in memory.
BLOCK_BYTES = 4096
BUFFER_BYTES = 4 * 1024 * 1024
# So many objects at once, with two buffers each; others go through the page cache.
AT_ONCE = 4


def direct_from(offset: int) -> int:
    """Where in a file that is written from `offset` on its direct part may begin."""
    return -(-(offset + AFTER_BYTES) // BLOCK_BYTES) * BLOCK_BYTES


class DirectWriters:
    """The threads and the room for buffers of one store."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._free = AT_ONCE

    def begin(self, descriptor: int, offset: int) -> DirectWriter | None:
        """A writer of a file from `offset` on, a multiple of BLOCK_BYTES; None if it cannot be.

        The caller keeps the descriptor, and leaves it alone until `flush` or an error.
        """
        with self._lock:
            if not self._free:
                return None
            self._pool = self._pool or ThreadPoolExecutor(AT_ONCE, "ullage-disk")
            try:
                writer = DirectWriter(self._pool, self._ended, descriptor, offset)
                _set_direct(descriptor, True)
            except OSError:
                # Not every file system can, and there may be no memory.
                return None
            self._free -= 1
            return writer

    def _ended(self) -> None:
        with self._lock:
            self._free += 1


class DirectWriter:
    """Takes the bytes of one file. One thread at a time; ends with `flush` or an error."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        ended: Callable[[], None],
        descriptor: int,
        offset: int,
    ) -> None:
        self._pool = pool
        self._ended = ended
        self._descriptor = descriptor
        # One is filled while the other one is written. Mappings begin where disks want it.
        self._filling, self._resting = (memoryview(mmap.mmap(-1, BUFFER_BYTES)) for _ in range(2))
        self._filled = 0
        self._sent: Future[int] | None = None
        # Up to where the file is known to have what it was given.
        self.written = offset

    def write(self, data: memoryview) -> None:
        """Take all of `data`. An OSError may be that of what was taken before."""
        try:
            while data.nbytes:
                taken = min(BUFFER_BYTES - self._filled, data.nbytes)
                self._filling[self._filled : self._filled + taken] = data[:taken]
                self._filled += taken
                data = data[taken:]
                if self._filled == BUFFER_BYTES:
                    self._send()
        except OSError:
            self._end()
            raise

    def flush(self) -> None:
        """Write all that was taken to the file. Raises OSError; `written` says how far it came."""
        try:
            # The descriptor is the caller's again afterwards: no thread may be writing to it.
            self._settle()
            # The end is seldom a whole block.
            _set_direct(self._descriptor, False)
            rest = self._filling[: self._filled]
            self.written += _write_all(self._descriptor, rest, self.written)
        finally:
            self._end()

    def _end(self) -> None:
        with suppress(OSError):
            _set_direct(self._descriptor, False)
        self._ended()

    def _send(self) -> None:
        """Let the buffer that is full be written, once the other one has been."""
        self._settle()
        data = self._filling
        self._sent = self._pool.submit(_write_all, self._descriptor, data, self.written)
        self._filling, self._resting = self._resting, data
        self._filled = 0

    def _settle(self) -> None:
        """Wait for what is being written."""
        sent, self._sent = self._sent, None
        if sent is not None:
            self.written += sent.result()


def _write_all(descriptor: int, data: memoryview, offset: int) -> int:
    """Write all of `data`; returns its length."""
    done = 0
    while done < data.nbytes:
        try:
            done += os.pwrite(descriptor, data[done:], offset + done)
        except OSError as error:
            # Some file systems let a file be opened so and then take nothing.
            if error.errno != errno.EINVAL or not _set_direct(descriptor, False):
                raise
    return done


def _set_direct(descriptor: int, wanted: bool) -> bool:
    """Whether this changed anything. Raises OSError."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    changed = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
    if changed != flags:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, changed)
    return changed != flags
