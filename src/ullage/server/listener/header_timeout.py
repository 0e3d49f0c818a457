"""Ends connections whose request does not come: granian has one limit for two kinds of waiting.

A connection that is kept alive between two requests waits for long, so that a proxy's pool can use
it again. One that has begun a request, or has never sent one, holds a place for nothing. granian
closes both after the longer time; this closes the second kind after the shorter one. It tells them
apart by when bytes came and went last, which the kernel knows to a few milliseconds: a piece of a
head that comes so soon behind an answer, and nothing behind it, has the longer time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Container, Coroutine, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from inspect import CORO_CLOSED, getcoroutinestate
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

# A connection counts as waiting when so many looks in a row find it so.
LOOKS = 4
_DESCRIPTORS = Path("/proc/self/fd")
# Linux, struct tcp_info: tcpi_last_data_sent and tcpi_last_data_recv, milliseconds ago.
_SENT_AT, _RECEIVED_AT, _INFO_BYTES = 44, 52, 104

# Of a client's side of a connection, with its port as granian writes it.
Address = tuple[str, str]


def can_look() -> bool:
    """Whether the system tells of its connections what has to be known."""
    return _DESCRIPTORS.is_dir() and hasattr(socket, "TCP_INFO")


class Attended:
    """The application, and which connections have a request in it or have had one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # What runs or ran for the newest request of each connection.
        self._newest: dict[Address | None, Awaitable[None]] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # No coroutine of its own: each request would pay for it.
        running = self._newest[scope.get("client")] = self._app(scope, receive, send)
        return running

    def known(self) -> list[Address | None]:
        """The connections that have sent a request."""
        return list(self._newest)

    def runs(self, address: Address | None) -> bool:
        """Whether a request of this connection has no complete answer yet."""
        running = self._newest.get(address)
        return isinstance(running, Coroutine) and getcoroutinestate(running) != CORO_CLOSED

    def forget(self, address: Address | None) -> None:
        """The connection has gone."""
        del self._newest[address]


@dataclass(slots=True)
class HeaderTimeout:
    """Looks at the connections of one listening socket, again and again."""

    app: Attended
    port: int
    seconds: float
    beside: Executor
    # How often in a row each was found waiting.
    _waiting: dict[Address, int] = field(default_factory=dict)

    async def watch(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.seconds / LOOKS)
            # The looks are counted here, on the loop: where that stands still, no time passes.
            known = self.app.known()
            found = await loop.run_in_executor(self.beside, _connections, self.port)
            self._forget(known, found)
            late = self._late(found)
            if late:
                await loop.run_in_executor(self.beside, _end, late)

    def _forget(self, known: Iterable[Address | None], found: Container[Address | None]) -> None:
        """Those that had been known before the look that did not find them."""
        for address in known:
            if address not in found and not self.app.runs(address):
                self.app.forget(address)

    def _late(self, found: dict[Address, tuple[int, bool]]) -> list[tuple[int, Address]]:
        """The descriptors and addresses of those that have waited for too long."""
        known = frozenset(self.app.known())
        waiting = {
            address: self._waiting.get(address, 0) + 1
            for address, (_, begun) in found.items()
            if address not in known or (begun and not self.app.runs(address))
        }
        self._waiting = waiting
        return [(found[each][0], each) for each, looks in waiting.items() if looks > LOOKS]


def _connections(port: int) -> dict[Address, tuple[int, bool]]:
    """Each client's address, with our descriptor, and whether bytes came behind the last answer."""
    found = {}
    # Without a descriptor for it nothing is found; the next look may have one.
    with contextlib.suppress(OSError):
        for entry in _DESCRIPTORS.iterdir():
            peer = _peer(int(entry.name), port)
            if peer is not None:
                found[peer[0]] = (int(entry.name), peer[1])
    return found


def _peer(descriptor: int, port: int) -> tuple[Address, bool] | None:
    """None for what is no connection to this port."""
    try:
        looked_at = socket.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        if looked_at.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if looked_at.getsockname()[1] != port:
            return None
        address = _address(looked_at)
        info = looked_at.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return None
    finally:
        # It is granian's, and stays open.
        looked_at.detach()
    sent: int = struct.unpack_from("=I", info, _SENT_AT)[0]
    received: int = struct.unpack_from("=I", info, _RECEIVED_AT)[0]
    return address, received < sent


def _address(connected: socket.socket) -> Address:
    host, port = connected.getpeername()[:2]
    return host, str(port)


def _end(late: list[tuple[int, Address]]) -> None:
    """Close these, unless the descriptor is another connection's by now."""
    for descriptor, address in late:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as same:
            if _address(same) == address:
                same.shutdown(socket.SHUT_RDWR)
