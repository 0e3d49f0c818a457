"""Request bodies: read whole up to a limit, or on their way into an upload session.

Bytes arrive on the event loop and are hashed and written by a thread, a piece of about 1 MiB at a
time, while the next pieces arrive. A client that sends slowly occupies no thread in between. What
fits in one piece is handed over with all there is to do with it: each change of threads costs more
than writing a small blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect

from ullage.oci.errors import ManifestTooLarge, SizeInvalid, TooManyRequests
from ullage.registry.push.append_session import AppendSession
from ullage.server.http.errors import BodyTimeout
from ullage.server.http.parameters import decimal_header
from ullage.server.http.request import BODY_IS_OVER, Request
from ullage.server.http.threads import Threads

PIECE_BYTES = 1024 * 1024
# So many pieces of one body may arrive while the thread is busy with the ones before.
PIECES_AHEAD = 4
# Once all uploads together have this much in memory, they hand over smaller pieces. It comes on top
# of what the server reads into, up to 768 KiB for each connection (listener/granian.py).
CROWDED_BYTES = 24 * 1024 * 1024
CROWDED_PIECE_BYTES = 64 * 1024
# What a chunk costs beside its bytes: a client may send a megabyte two bytes at a time.
CHUNK_BYTES = 64
# All manifests being received or stored, together. Far more than clients ever send at once.
MANIFESTS_BYTES = 128 * 1024 * 1024


# The chunks of Azure's SDK are half as long.
DISCARDED_BYTES = 8 * 1024 * 1024
# What is read of a refused body before the answer, and for how long, so that the connection lives.
SKIPPED_BYTES = 64 * 1024
SKIP_SECONDS = 0.02
# What is read of a body behind its refusal, and for how long, until the connection closes.
LINGER_BYTES = 64 * 1024 * 1024
LINGER_SECONDS = 1.0
# Connections that are read so at once, with up to a mebibyte of buffer each; more close right away.
MAX_LINGERING = 64


class Bodies:
    """Reads the bodies of all requests; knows how much of them is in memory."""

    def __init__(self, threads: Threads, idle_seconds: float) -> None:
        self.threads = threads
        self._idle_seconds = idle_seconds
        self._reserved = 0
        self._manifest_bytes = 0
        self._lingering = 0

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
                self._manifest_bytes += len(chunk)
                if len(body) > limit:
                    raise _too_large(limit)
                if self._manifest_bytes > MANIFESTS_BYTES:
                    raise TooManyRequests(
                        message="too many manifests at once; try again", retry_after=1
                    )
            yield bytes(body)
        finally:
            self._manifest_bytes -= len(body)

    async def discard(self, request: Request) -> None:
        """Read a short body that is not used, so that its sender sees the response.

        A client still sending when the connection closes takes it for broken. Azure's SDK sends
        each chunk of an upload once without credentials, to be challenged for them.
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

    async def skip(self, request: Request) -> bool:
        """Whether the rest of a refused request's body was short and here: the connection goes on.

        A client that waits to be told to go on is not told so (RFC 9110, section 10.1.1).
        """
        if "expect" in request.headers:
            return False
        size = 0
        try:
            async with asyncio.timeout(SKIP_SECONDS):
                async for chunk in self._chunks(request):
                    size += len(chunk)
                    if size > SKIPPED_BYTES:
                        return False
        except (TimeoutError, BodyTimeout, ClientDisconnect):
            return False
        return True

    async def linger(self, request: Request) -> None:
        """Read on behind a refusal, so that a client that is still sending comes to see it.

        RFC 9112, section 9.6: a connection that closes while bytes arrive is reset, and the reset
        takes the response along that its client had not read yet.
        """
        if self._lingering >= MAX_LINGERING:
            return
        self._lingering += 1
        size = 0
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                async for chunk in self._chunks(request):
                    size += len(chunk)
                    if size > LINGER_BYTES:
                        return
        except (TimeoutError, BodyTimeout, ClientDisconnect):
            return
        finally:
            self._lingering -= 1

    def reserve_memory(self, size: int) -> int:
        """Count what arrived; how much of one body to keep before it is handed over."""
        self._reserved += size
        return PIECE_BYTES if self._reserved < CROWDED_BYTES else CROWDED_PIECE_BYTES

    def release_memory(self, size: int) -> None:
        """It is no longer in memory."""
        self._reserved -= size

    @asynccontextmanager
    async def arriving(self, request: Request) -> AsyncIterator[Body]:
        """The body of a request that uploads something, to be done with when the block ends."""
        declared = decimal_header(request.headers.get("content-length"))
        body = Body(self, self._chunks(request), declared)
        try:
            yield body
        finally:
            body.drop()

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        # With its last byte a body is over, without waiting for the message that ends it.
        announced = decimal_header(request.headers.get("content-length"))
        received, more = 0, True
        while more and received != announced:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    message = await request.receive()
            except TimeoutError:
                raise BodyTimeout(
                    message=f"no byte of the request's body arrived for {self._idle_seconds:g} s"
                ) from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            received += len(chunk)
            if not more or received == announced:
                request.scope[BODY_IS_OVER] = True
            if chunk:
                yield chunk


class Body:
    """A body on its way into an upload session: what of it is in memory, and what is to come."""

    def __init__(self, bodies: Bodies, chunks: AsyncIterator[bytes], declared: int | None) -> None:
        self._bodies = bodies
        self._chunks = chunks
        self._declared = declared
        # The memory of `pieces`.
        self._reserved = 0
        # What arrived and was not written to a session yet.
        self.pieces: list[bytes] = []
        # How many bytes have arrived.
        self.length = 0

    async def gather(self) -> bool:
        """Keep what arrives; True if that is all of it, False if it is too much to keep.

        Nothing is read of what is announced as too much.
        Raises ClientDisconnect or BodyTimeout when it stops short; `pieces` are there all the same.
        """
        if self._declared is not None and self._declared > PIECE_BYTES:
            return False
        async for chunk in self._chunks:
            enough = self._keep(chunk)
            if self._reserved >= enough:
                return False
        return True

    async def stream(self, session: AppendSession) -> None:
        """Write what was gathered and what is to come to the session.

        Raises ClientDisconnect or BodyTimeout when it stops short; what had arrived by then is
        written, and the session is still open. Any other failure has abandoned the session.
        """
        writing = self._write(session)
        try:
            async for chunk in self._chunks:
                piece = self._keep(chunk)
                if self._reserved >= (piece if writing.done() else piece * PIECES_AHEAD):
                    await _end_of(writing)
                    writing = self._write(session)
        finally:
            # Also when the body stops short: on a bad line an upload gets on only by what arrived.
            await _end_of(writing)
            if self.pieces:
                await _end_of(self._write(session))

    def drop(self) -> None:
        """Forget `pieces`."""
        self._bodies.release_memory(self._reserved)
        self.pieces, self._reserved = [], 0

    def _keep(self, chunk: bytes) -> int:
        """Keep it with the others; how much of them is enough to be handed over."""
        self.pieces.append(chunk)
        self.length += len(chunk)
        self._reserved += len(chunk) + CHUNK_BYTES
        return self._bodies.reserve_memory(len(chunk) + CHUNK_BYTES)

    def _write(self, session: AppendSession) -> asyncio.Future[None]:
        pieces, reserved = self.pieces, self._reserved
        self.pieces, self._reserved = [], 0

        def write() -> None:
            for piece in pieces:
                session.write(piece)

        future = self._bodies.threads.submit(write)
        future.add_done_callback(lambda _: self._bodies.release_memory(reserved))
        return future


async def _end_of(writing: asyncio.Future[None]) -> None:
    """Wait for a thread that writes, however often cancelled: it is not let go in the middle."""
    cancelled: asyncio.CancelledError | None = None
    while not writing.done():
        try:
            await asyncio.wait({writing})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # What the thread met is of no interest any more, and is not to be logged as forgotten.
        writing.exception()
        raise cancelled
    writing.result()


def _too_large(limit: int) -> ManifestTooLarge:
    return ManifestTooLarge({"max_bytes": limit}, f"the manifest is larger than {limit} bytes")


def require_length(expected: int | None, received: int) -> None:
    """Raises SizeInvalid if a chunk's body was not as long as its Content-Range."""
    if expected is not None and expected != received:
        raise SizeInvalid(
            {"expected": expected, "received": received},
            f"Content-Range covers {expected} bytes, the body had {received}",
        )
