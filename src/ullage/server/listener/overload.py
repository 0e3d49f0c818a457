"""A 503 for connections that there is no room for, where they would wait in the kernel.

granian accepts no more than its share of the descriptors; what comes then stays in the queue of the
listening socket. A client there sees a connection and no answer. So the queue is looked at, and
what has been waiting in it is told, on descriptors that are kept for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field

from ullage.server.listener.descriptors import RESERVED

log = logging.getLogger(__name__)

# How often the queue is looked at, and how often in a row it is not empty before it counts as
# waiting: a queue that is served is empty at one of them.
LOOK_SECONDS = 0.2
LOOKS = 4
# A client that is told may take this long, with its handshake and request.
TELL_SECONDS = 1.0
# And so long to hang up once it has been told.
PART_SECONDS = 0.1
LOG_SECONDS = 60.0
_HEAD_BYTES = 64 * 1024
# Linux, struct tcp_info: of a listening socket, tcpi_unacked is the length of its queue.
_QUEUE_AT = 24
_BODY = json.dumps(
    {"errors": [{"code": "UNAVAILABLE", "message": "too many connections; try again"}]}
).encode("ascii")
_HEAD = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Type: application/json\r\n"
    b"Docker-Distribution-Api-Version: registry/2.0\r\n"
    b"Retry-After: 1\r\n"
    b"Connection: close\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_BODY)
)


def queue_length(listening: socket.socket) -> int:
    """How many connections wait to be accepted; 0 where the system does not say."""
    try:
        info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    except (AttributeError, OSError):
        return 0
    length: int = struct.unpack_from("=I", info, _QUEUE_AT)[0]
    return length


@dataclass(slots=True)
class Overload:
    """Tells connections that wait on this socket that there is no room."""

    listening: socket.socket
    tls: ssl.SSLContext | None = None
    _telling: set[asyncio.Task[None]] = field(default_factory=set)
    _told: int = 0
    # Given up for a connection where the process has no other descriptor left.
    _spare: int | None = field(default_factory=lambda: _spare())
    _said_at: float = 0.0

    async def watch(self) -> None:
        """Until cancelled."""
        waiting = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._spare is None:
                self._spare = _spare()
            waiting = waiting + 1 if queue_length(self.listening) else 0
            while waiting >= LOOKS and queue_length(self.listening):
                await self._tell_next()
            self._say()

    async def _tell_next(self) -> None:
        if len(self._telling) >= RESERVED:
            await asyncio.wait(self._telling, return_when=asyncio.FIRST_COMPLETED)
            return
        accepted = self._accepted()
        if accepted is None:
            await asyncio.sleep(LOOK_SECONDS)
            return
        accepted.setblocking(False)
        self._told += 1
        task = asyncio.create_task(self._tell(accepted))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _accepted(self) -> socket.socket | None:
        """A connection that waits; None if granian took it, it has gone, or nothing is left."""
        try:
            return self.listening.accept()[0]
        except OSError as error:
            if self._spare is None or error.errno not in (errno.EMFILE, errno.ENFILE):
                return None
        os.close(self._spare)
        self._spare = None
        with contextlib.suppress(OSError):
            return self.listening.accept()[0]
        return None

    async def _tell(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError, TimeoutError, EOFError, ValueError):
            async with asyncio.timeout(TELL_SECONDS):
                await _answer(accepted, self.tls)
        accepted.close()
        if self._spare is None:
            self._spare = _spare()

    def _say(self) -> None:
        if self._told and time.monotonic() >= self._said_at + LOG_SECONDS:
            log.warning(
                "no room for more connections: %d were answered 503; a higher limit of open files "
                "(ulimit -n) makes room",
                self._told,
            )
            self._told, self._said_at = 0, time.monotonic()


def _spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


async def _answer(accepted: socket.socket, tls: ssl.SSLContext | None) -> None:
    """The answer, once the request is here: before that it would be lost with the connection."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(_HEAD_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=tls)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD if head.startswith(b"HEAD ") else _HEAD + _BODY)
        await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        # What still arrives would reset the connection; but the next one waits for its descriptor.
        async with asyncio.timeout(PART_SECONDS):
            while await reader.read(_HEAD_BYTES):
                pass
    finally:
        transport.abort()
