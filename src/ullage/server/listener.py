"""Serving the application with granian, in this process: HTTP and file sending off the interpreter.

The application itself runs under any ASGI server; only this file knows granian.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.embed import Server
from starlette.types import ASGIApp

from ullage.server.certificate import Tls, TlsUnusable, leaf_of, require_usable

log = logging.getLogger(__name__)

BACKLOG = 1024
# Connections held at once, idle ones among them; more wait in the kernel.
MAX_CONNECTIONS = 8192
# A listener that does not speak within this will not.
START_SECONDS = 15.0
# From being told to stop until a listener accepts no more.
STOP_ACCEPTING_SECONDS = 0.5


class AddressUnusable(Exception):
    """Nobody can listen there. The text says why and what to change."""


def listen_on(host: str, port: int) -> socket.socket:
    """A socket that accepts connections there; port 0 takes any free one. Raises AddressUnusable.

    granian's own sockets share ports between processes, so that a second server on the same port
    would silently get half of the first one's requests; and between its listeners, so that one that
    ends takes along the connections that wait in its queue.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise AddressUnusable(
            f"cannot listen on {host} port {port}: {error.strerror}; stop what listens there "
            "or choose another address with --listen"
        ) from error
    listening.setblocking(False)
    return listening


@dataclass(frozen=True, slots=True)
class Listener:
    """Where and how to serve. The socket is the caller's to close."""

    socket: socket.socket
    header_seconds: float
    grace_seconds: float
    tls: Tls | None = None


def serve(app: ASGIApp, listener: Listener, ready: Callable[[], None]) -> bool:
    """Serve until SIGTERM or SIGINT; then let running requests finish for the grace period.

    SIGHUP reads the certificate again: new connections get the new one, old ones go on. `ready` is
    called once connections are accepted. False if requests had to be cut off. Raises TlsUnusable.
    """
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        return runner.run(_serve(app, listener, ready))


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return None
    return uvloop.new_event_loop


async def _serve(app: ASGIApp, listener: Listener, ready: Callable[[], None]) -> bool:
    stopping, reloading = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    current = await _started(app, listener)
    ready()
    while not stopping.is_set():
        events = [loop.create_task(event.wait()) for event in (stopping, reloading)]
        await asyncio.wait({current.serving, *events}, return_when=asyncio.FIRST_COMPLETED)
        for event in events:
            event.cancel()
        if current.serving.done():
            # It ends by itself only by failing.
            await current.serving
            return False
        if reloading.is_set():
            reloading.clear()
            current = await _replaced(app, listener, current)
    return await _stop(current, listener)


class _Server(Server):
    """granian on a socket that others share; it closes its own copy only."""

    def __init__(self, shared: socket.socket, app: ASGIApp, **options: Any) -> None:
        super().__init__(app, **options)
        self._shared = shared

    def _init_shared_socket(self) -> None:
        holder: Any = SocketHolder
        self._shd = holder(os.dup(self._shared.fileno()), False, BACKLOG)


@dataclass(frozen=True, slots=True)
class _Running:
    server: Server
    serving: asyncio.Task[None]
    # Of the certificate and its key.
    fingerprint: str | None


async def _started(app: ASGIApp, listener: Listener) -> _Running:
    """Start, and wait until it speaks. Raises TlsUnusable."""
    tls = listener.tls
    fingerprint = require_usable(tls) if tls else None
    host, port = listener.socket.getsockname()[:2]
    server = _Server(
        listener.socket,
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        # Not auto: it waits for the first bytes of a connection without any time limit.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=int(listener.header_seconds * 1000)),
        websockets=False,
        backlog=BACKLOG,
        backpressure=MAX_CONNECTIONS,
        log_enabled=False,
        ssl_cert=tls.certificate if tls else None,
        ssl_key=tls.key if tls else None,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    running = _Running(server, asyncio.create_task(server.serve()), fingerprint)
    await asyncio.sleep(0)
    if tls is not None:
        try:
            await _speaks_with(tls, host, port, running.serving)
        except BaseException:
            server.stop()  # type: ignore[no-untyped-call]
            raise
    return running


async def _replaced(app: ASGIApp, listener: Listener, old: _Running) -> _Running:
    """Start again with the certificate as it is now; both share the socket until the old one ends.

    The old one finishes the requests of its connections; nobody waits for them here. It hangs up on
    those that have not asked for anything yet: granian cannot only stop accepting.
    """
    tls = listener.tls
    if tls is None:
        log.info("SIGHUP: there is no certificate to read again")
        return old
    try:
        tls.renew()
        if require_usable(tls) == old.fingerprint:
            log.info("read the certificate again; it is the one in use")
            return old
        new = await _started(app, listener)
    except (TlsUnusable, OSError) as error:
        log.error("the certificate cannot be used; serving goes on with the old one: %s", error)
        return old
    _end(old)
    log.info("read the certificate again; new connections get it")
    return new


def _end(running: _Running) -> None:
    running.server.stop()  # type: ignore[no-untyped-call]
    _ENDING.add(running.serving)
    running.serving.add_done_callback(_ENDING.discard)


# Servers that were replaced and still have requests to finish.
_ENDING: set[asyncio.Task[None]] = set()


async def _stop(running: _Running, listener: Listener) -> bool:
    running.server.stop()  # type: ignore[no-untyped-call]
    serving, grace_seconds = {running.serving, *_ENDING}, listener.grace_seconds
    # granian does not get over a socket that ends while it still accepts.
    await asyncio.wait(serving, timeout=STOP_ACCEPTING_SECONDS)
    # Whoever comes now is refused, and does not wait in a queue that nobody looks at any more.
    listener.socket.shutdown(socket.SHUT_RDWR)
    done, cut_off = await asyncio.wait(serving, timeout=grace_seconds)
    for task in done:
        await task
    if cut_off:
        log.warning("some requests did not finish within %g s and are cut off", grace_seconds)
    return not cut_off


async def _speaks_with(tls: Tls, host: str, port: int, serving: asyncio.Task[None]) -> None:
    """Wait until a new connection is shown this certificate. Raises TlsUnusable.

    A listener that is to be replaced may answer, too, until it is ours that does.
    """
    expected = leaf_of(tls)
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while not serving.done():
                if await _shown(host, port, unverified) == expected:
                    return
                await asyncio.sleep(0.005)
    raise TlsUnusable(f"tls_cert: {tls.certificate}: no connection comes about with it")


async def _shown(host: str, port: int, context: ssl.SSLContext) -> bytes | None:
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except OSError:
        return None
    try:
        found: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found
    finally:
        writer.transport.abort()
