"""Request bodies: read whole up to a limit, or streamed into an upload session.

Bytes arrive on the event loop and are hashed and written by a thread, a piece of about 1 MiB at a
time, while the next piece arrives. A client that sends slowly holds no thread in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from ullage.oci.errors import ManifestTooLarge, SizeInvalid, TooManyRequests
from ullage.server.threads import Threads
from ullage.server.wire import BodyTimeout, decimal_header
from ullage.services.push import AppendSession

PIECE_BYTES = 1024 * 1024
# Once all uploads together hold this much in memory, they hand over smaller pieces.
CROWDED_BYTES = 48 * 1024 * 1024
CROWDED_PIECE_BYTES = 64 * 1024
# What a chunk costs beside its bytes: somebody may send a megabyte two bytes at a time.
CHUNK_BYTES = 64
# All manifests being received or stored, together. Far more than clients ever send at once.
MANIFESTS_BYTES = 128 * 1024 * 1024


# The chunks of Azure's SDK are half as long.
DISCARDED_BYTES = 8 * 1024 * 1024


class Bodies:
    """Reads the bodies of all requests; knows how much of them is in memory."""

    def __init__(self, threads: Threads, idle_seconds: float) -> None:
        self._threads = threads
        self._idle_seconds = idle_seconds
        self._held = 0
        self._manifests_held = 0

    @asynccontextmanager
    async def whole(self, request: Request, limit: int) -> AsyncIterator[bytes]:
        """The whole body, a manifest or shorter, to be done with when the block ends.

        Raises ManifestTooLarge beyond `limit` bytes, TooManyRequests, BodyTimeout.
        """
        declared = decimal_header(request.headers.get("content-length"))
        if declared is not None and declared > limit:
            await self.discard(request)
            raise _too_large(limit)
        body = bytearray()
        try:
            async for chunk in self._chunks(request):
                body += chunk
                self._manifests_held += len(chunk)
                if len(body) > limit:
                    raise _too_large(limit)
                if self._manifests_held > MANIFESTS_BYTES:
                    raise TooManyRequests(message="too many manifests at once; try again")
            yield bytes(body)
        finally:
            self._manifests_held -= len(body)

    async def discard(self, request: Request) -> None:
        """Read a short body that nobody wants, so that its sender lives to see the answer.

        A client still sending when the connection closes takes it for broken. Azure's SDK sends
        each chunk of an upload once without credentials, to be asked for them.
        """
        declared = decimal_header(request.headers.get("content-length"))
        if declared is not None and declared > DISCARDED_BYTES:
            return
        size = 0
        try:
            async for chunk in self._chunks(request):
                size += len(chunk)
                if size > DISCARDED_BYTES:
                    return
        except (BodyTimeout, ClientDisconnect):
            return

    async def stream(self, request: Request, session: AppendSession) -> None:
        """Write the body to the session.

        Raises ClientDisconnect or BodyTimeout when it stops short; what had arrived by then is
        written, and the session is still open. Any other failure has abandoned the session.
        """
        writing: asyncio.Future[None] | None = None
        waiting: list[bytes] = []
        size = 0
        try:
            async for chunk in self._chunks(request):
                waiting.append(chunk)
                size += len(chunk) + CHUNK_BYTES
                self._held += len(chunk) + CHUNK_BYTES
                if size >= self._piece_bytes():
                    await _end_of(writing)
                    writing, waiting, size = self._write(session, waiting, size), [], 0
        finally:
            # Also when the body stops short: on a bad line an upload gets on only by what arrived.
            await self._write_rest(session, writing, waiting, size)

    def _piece_bytes(self) -> int:
        return PIECE_BYTES if self._held < CROWDED_BYTES else CROWDED_PIECE_BYTES

    async def _write_rest(
        self,
        session: AppendSession,
        writing: asyncio.Future[None] | None,
        waiting: list[bytes],
        size: int,
    ) -> None:
        try:
            await _end_of(writing)
        except BaseException:
            # The session is abandoned.
            self._held -= size
            raise
        if waiting:
            await _end_of(self._write(session, waiting, size))

    def _write(
        self, session: AppendSession, chunks: list[bytes], size: int
    ) -> asyncio.Future[None]:
        def write() -> None:
            for chunk in chunks:
                session.write(chunk)

        def written(_: object) -> None:
            self._held -= size

        future = self._threads.submit(write)
        future.add_done_callback(written)
        return future

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream().__aiter__()
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise BodyTimeout(
                    message=f"no byte of the request's body arrived for {self._idle_seconds:g} s"
                ) from None
            if chunk:
                yield chunk


async def _end_of(writing: asyncio.Future[None] | None) -> None:
    """Wait for a thread that writes. Whoever is cancelled must not let go of it in the middle."""
    if writing is not None:
        await asyncio.shield(writing)


def _too_large(limit: int) -> ManifestTooLarge:
    return ManifestTooLarge({"max_bytes": limit}, f"the manifest is larger than {limit} bytes")


def require_length(expected: int | None, received: int) -> None:
    """Raises SizeInvalid if a chunk's body was not as long as its Content-Range says."""
    if expected is not None and expected != received:
        raise SizeInvalid(
            {"expected": expected, "received": received},
            f"Content-Range covers {expected} bytes, the body had {received}",
        )


__all__ = ["Bodies", "ClientDisconnect", "require_length"]
