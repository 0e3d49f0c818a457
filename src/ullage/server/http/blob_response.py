"""Sending a blob in pieces: what the machine has in memory at once, the rest by a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import lru_cache

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ullage.oci.digest import Digest
from ullage.oci.errors import Unavailable
from ullage.registry.pull.read import BlobReader
from ullage.server.http.responses import API_VERSION, encoded
from ullage.server.http.threads import Threads

# A server keeps about so many pieces ready for each reader, however slow it reads (granian and
# hyper: 24, measured).
PIECES_READY = 24
PIECE_BYTES = 64 * 1024
# What all readers together may have ready. Before it is used up, pieces become smaller.
READY_BYTES = 96 * 1024 * 1024
# Of it, what only readers get that have shown to be no slow ones.
QUICK_BYTES = 48 * 1024 * 1024
# Pieces begin to shrink when only so much is left.
ROOMY_BYTES = 24 * 1024 * 1024
SMALLEST_PIECE_BYTES = 2 * 1024
# A reader that took FAST_AFTER_BYTES at this pace is no slow one: what the kernel holds for it is
# far less.
QUICK_BYTES_PER_SECOND = 8 * 1024 * 1024
# For a client that took this much, at this pace. Small pieces cost more than the bytes in them;
# larger ones than these leave the processor's cache between two copies.
LARGE_PIECE_BYTES = 256 * 1024
FAST_AFTER_BYTES = 8 * 1024 * 1024
FAST_BYTES_PER_SECOND = 64 * 1024 * 1024
# Up to here reading in the thread that opened the blob beats a second change of threads.
SMALL_BYTES = 64 * 1024
HEADS_KEPT = 512
# A blob is any bytes that a client pushed, on our origin: no browser may run or show it.
HEADERS = {
    "Content-Type": "application/octet-stream",
    "Accept-Ranges": "bytes",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Content-Disposition": "attachment",
    "Cache-Control": "private, max-age=31536000, immutable",
}


def blob_headers(digest: Digest, size: int) -> dict[str, str]:
    return {
        **HEADERS,
        "Content-Length": str(size),
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
    }


@lru_cache(HEADS_KEPT)
def blob_head(digest: Digest, size: int) -> list[tuple[bytes, bytes]]:
    """The whole blob's header fields, encoded; not to be changed."""
    return encoded(API_VERSION | blob_headers(digest, size))


def unchanged_headers(digest: Digest) -> dict[str, str]:
    """RFC 9110, section 15.4.5: what a 304 repeats of the 200."""
    return {
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        "Cache-Control": HEADERS["Cache-Control"],
    }


class ReadyMemory:
    """How much of all blobs on their way out is in memory, as far as readers do not take it."""

    def __init__(self) -> None:
        self._held = 0

    def hold(self, wanted: int, *, quick: bool) -> int:
        """The size of a reader's next PIECES_READY pieces, at most `wanted`; they count now."""
        left = READY_BYTES - self._held - (0 if quick else QUICK_BYTES)
        if left >= ROOMY_BYTES + wanted * PIECES_READY:
            size = wanted
        else:
            shrunk = PIECE_BYTES * max(left, 0) // ROOMY_BYTES
            size = max(SMALLEST_PIECE_BYTES, min(wanted, PIECE_BYTES, shrunk))
        self._held += size * PIECES_READY
        return size

    def release(self, size: int) -> None:
        """Pieces of this size are held no more."""
        self._held -= size * PIECES_READY


class BlobResponse(Response):
    """The bytes [start, stop) of an open blob; closes it."""

    def __init__(
        self,
        threads: Threads,
        memory: ReadyMemory,
        reader: BlobReader,
        span: tuple[int, int],
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        self.status_code = status
        self.background = None
        self.raw_headers = encoded(headers)
        self._threads = threads
        self._memory = memory
        self._reader = reader
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._send_pieces(receive, send, *self._span)
        finally:
            self._reader.close()

    async def _send_pieces(self, receive: Receive, send: Send, start: int, stop: int) -> None:
        ready = self._reader.ready(start, stop)
        if ready is not None:
            await send({"type": "http.response.body", "body": ready})
            return
        # Not every server reports that the client is gone when it is handed bytes.
        gone = asyncio.ensure_future(_disconnected(receive))
        began, first = time.monotonic(), start
        held = sent = 0
        try:
            while start < stop:
                if sent % PIECES_READY == 0:
                    # A server that takes bytes for a client that has gone never waits: look round.
                    await asyncio.sleep(0)
                    self._memory.release(held)
                    wanted, quick = _pace(start - first, time.monotonic() - began)
                    held = self._memory.hold(wanted, quick=quick)
                sent += 1
                size = min(held, stop - start)
                piece = self._reader.read_now(start, size)
                if piece is None:
                    piece = await self._threads.submit(self._reader.read_at, start, size)
                if gone.done():
                    raise ClientDisconnect
                if not piece:
                    # Never a clean short answer: the connection breaks before its announced end.
                    raise Unavailable(message="the blob's bytes ended early")
                start += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": start < stop})
        finally:
            self._memory.release(held)
            gone.cancel()


def _pace(sent: int, seconds: float) -> tuple[int, bool]:
    """How much to read at a time for a client that took `sent` bytes in so many seconds, and
    whether it is no slow one."""
    if sent < FAST_AFTER_BYTES:
        return PIECE_BYTES, False
    fast = sent >= FAST_BYTES_PER_SECOND * seconds
    return LARGE_PIECE_BYTES if fast else PIECE_BYTES, sent >= QUICK_BYTES_PER_SECOND * seconds


async def _disconnected(receive: Receive) -> None:
    """Return once the client has gone; what is left of the request's body is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass
