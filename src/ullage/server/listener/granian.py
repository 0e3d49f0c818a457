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
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.embed import Server
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ullage.server.listener.certificate import (
    Tls,
    TlsUnusable,
    leaf_of,
    require_usable,
    tls_context,
)
from ullage.server.listener.descriptors import MAX_CONNECTIONS
from ullage.server.listener.header_timeout import Attended, HeaderTimeout, can_look
from ullage.server.listener.memory import give_back
from ullage.server.listener.overload import Overload

log = logging.getLogger(__name__)

BACKLOG = 1024
# What one read from a connection may fill, once a body fills smaller ones: each read is a piece of
# its own for three threads to hand on. granian's own is 408 KiB, which takes in a sixth less. With
# 1 MiB a hundred uploads at once take 143 to 175 MiB, with this 117 to 134, and one or two uploads
# are 0.93 to 1.0 as fast.
READ_BUFFER_BYTES = 768 * 1024
# A listener that does not answer within this will not.
START_SECONDS = 15.0
# From the request to stop until a listener accepts no more.
STOP_ACCEPTING_SECONDS = 0.5


class AddressUnusable(Exception):
    """The address cannot be listened on. The text has the reason and what to change."""


def listen_on(host: str, port: int, flag: str = "--listen") -> socket.socket:
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
            f"or choose another address with {flag}"
        ) from error
    listening.setblocking(False)
    return listening


@dataclass(frozen=True, slots=True)
class Listener:
    """Where and how to serve. The socket is the caller's to close."""

    socket: socket.socket
    header_seconds: float
    grace_seconds: float
    # How long a connection is kept for its next request; at least `header_seconds`.
    keep_alive_seconds: float = 75.0
    # Open connections at once, idle ones among them; more are answered 503.
    connections: int = MAX_CONNECTIONS
    tls: Tls | None = None


def serve(
    app: ASGIApp,
    listener: Listener,
    ready: Callable[[], None],
    stops: Callable[[], None] = lambda: None,
    apart: tuple[ASGIApp, Listener] | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT; then let running requests finish for the grace period.

    `stops` is called at the signal, while requests are still accepted. What is served `apart` is
    served until the end.

    SIGHUP reads the certificate again: new connections get the new one; old ones are served by the
    old one and end with their next response, which announces it. `ready` is called once connections
    are accepted. False if requests had to be cut off. Raises TlsUnusable.
    """
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        return runner.run(_serve_beside(apart, _serve(app, listener, ready, stops)))


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return None
    return uvloop.new_event_loop


async def _serve_beside(
    apart: tuple[ASGIApp, Listener] | None, serving: Coroutine[Any, Any, bool]
) -> bool:
    """`serving`, with another listener from before its first request until after its last."""
    if apart is None:
        return await serving
    app, listener = apart
    running = await _started(app, listener)
    try:
        return await serving
    finally:
        await _stop({running}, listener)


async def _serve(
    app: ASGIApp, listener: Listener, ready: Callable[[], None], stops: Callable[[], None]
) -> bool:
    stopping, reloading = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stops()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    attended = Attended(app)
    overload = Overload(listener.socket, tls_context(listener.tls))
    current = await _started(attended, listener)
    async with _looked_after(attended, overload, listener):
        ready()
        running = await _until_stopped(attended, overload, listener, current, stopping, reloading)
    if running is None:
        return False
    return await _stop(running, listener)


@contextlib.asynccontextmanager
async def _looked_after(
    app: Attended, overload: Overload, listener: Listener
) -> AsyncIterator[None]:
    """While connections are served: those that are too many, too slow, or have gone."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "ullage-look") as beside:
        # Its thread is there from the start.
        await loop.run_in_executor(beside, int)
        watching = [overload.watch(), give_back(beside)]
        if can_look():
            port = listener.socket.getsockname()[1]
            watching.append(HeaderTimeout(app, port, listener.header_seconds, beside).watch())
        tasks = [loop.create_task(each) for each in watching]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _until_stopped(
    app: ASGIApp,
    overload: Overload,
    listener: Listener,
    current: _Running,
    stopping: asyncio.Event,
    reloading: asyncio.Event,
) -> set[_Running] | None:
    """What is to be stopped; None if serving has failed."""
    loop = asyncio.get_running_loop()
    replaced: set[_Running] = set()
    while not stopping.is_set():
        events = [loop.create_task(event.wait()) for event in (stopping, reloading)]
        await asyncio.wait({current.serving, *events}, return_when=asyncio.FIRST_COMPLETED)
        for event in events:
            event.cancel()
        if current.serving.done():
            # It ends by itself only by failing.
            await current.serving
            return None
        if reloading.is_set():
            reloading.clear()
            old, current = current, await _replacement(app, listener, current)
            if current is not old:
                _hand_over(old, listener, replaced)
                overload.tls = tls_context(listener.tls)
                log.info("read the certificate again; new connections get it")
    return {current, *replaced}


class _Server(Server):
    """granian on a socket that others share; it closes its own copy only."""

    def __init__(self, shared: socket.socket, app: ASGIApp, **options: Any) -> None:
        super().__init__(app, **options)
        self._shared = shared

    def _init_shared_socket(self) -> None:
        holder: Any = SocketHolder
        self._copy = os.dup(self._shared.fileno())
        self._shd = holder(self._copy, False, BACKLOG)

    def accept_no_more(self) -> None:
        """Leave new connections to the listener that shares the socket; those that are here stay.

        granian can only end. So its copy of the socket becomes one to which no client connects:
        what it would accept next is still in the queue of the one that is shared. Raises OSError.
        """
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as unused:
            unused.setblocking(False)
            unused.bind(f"{folder}/unused")
            unused.listen()
            os.dup2(unused.fileno(), self._copy, inheritable=False)


class _Parting:
    """The application; once `parting`, each response announces that its connection ends with it.

    A client that read so opens another one. One whose connection ends without may have sent its
    next request already, and cannot know what became of it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.parting = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._app(scope, receive, _last(send) if self.parting else send)


def _last(send: Send) -> Send:
    async def last(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return last


@dataclass(frozen=True, eq=False)
class _Running:
    app: _Parting
    server: _Server
    serving: asyncio.Task[None]
    # Of the certificate and its key.
    fingerprint: str | None

    def stop(self) -> None:
        """Finish running requests, and close all other connections."""
        self.server.stop()  # type: ignore[no-untyped-call]


async def _started(app: ASGIApp, listener: Listener) -> _Running:
    """Start, and wait until it answers. Raises TlsUnusable."""
    tls = listener.tls
    fingerprint = require_usable(tls) if tls else None
    host, port = listener.socket.getsockname()[:2]
    parting = _Parting(app)
    server = _Server(
        listener.socket,
        parting,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        # Not auto: it waits for the first bytes of a connection without any time limit.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            # It also counts while a connection waits for its next request (header_timeout.py).
            header_read_timeout=int(_longest_wait(listener) * 1000),
            max_buffer_size=READ_BUFFER_BYTES,
        ),
        websockets=False,
        backlog=BACKLOG,
        backpressure=listener.connections,
        log_enabled=False,
        ssl_cert=tls.certificate if tls else None,
        ssl_key=tls.key if tls else None,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    running = _Running(parting, server, asyncio.create_task(server.serve()), fingerprint)
    await asyncio.sleep(0)
    if tls is not None:
        try:
            await _answers_with(tls, host, port, running.serving)
        except BaseException:
            running.stop()
            raise
    return running


def _longest_wait(listener: Listener) -> float:
    """How long a connection may be without a request, in seconds."""
    if not can_look():
        return listener.header_seconds
    return max(listener.header_seconds, listener.keep_alive_seconds)


async def _replacement(app: ASGIApp, listener: Listener, old: _Running) -> _Running:
    """Another one with the certificate as it is now, if that is another and can be used."""
    tls = listener.tls
    if tls is None:
        log.info("SIGHUP: there is no certificate to read again")
        return old
    try:
        tls.renew()
        if require_usable(tls) == old.fingerprint:
            log.info("read the certificate again; it is the one in use")
            return old
        return await _started(app, listener)
    except (TlsUnusable, OSError) as error:
        log.error("the certificate cannot be used; serving goes on with the old one: %s", error)
        return old


def _hand_over(old: _Running, listener: Listener, replaced: set[_Running]) -> None:
    """Let the old one end once all its connections have had a response, or time for a request."""
    # By then a client that shook hands and sent no request has been disconnected for that.
    seconds = 2 * _longest_wait(listener) + 1
    try:
        old.server.accept_no_more()
    except OSError as error:
        # It goes on accepting, so that whenever it ends some client has had no response yet.
        log.warning("connections without a request are closed for the new certificate: %s", error)
        seconds = 0
    old.app.parting = True
    replaced.add(old)
    ending = asyncio.get_running_loop().call_later(seconds, old.stop)

    def ended(_: asyncio.Task[None]) -> None:
        ending.cancel()
        replaced.discard(old)

    old.serving.add_done_callback(ended)


async def _stop(running: set[_Running], listener: Listener) -> bool:
    for one in running:
        one.stop()
    serving, grace_seconds = {one.serving for one in running}, listener.grace_seconds
    # granian does not get over a socket that ends while it still accepts.
    await asyncio.wait(serving, timeout=STOP_ACCEPTING_SECONDS)
    # A client that connects now is refused, and does not wait in a queue that is not served.
    listener.socket.shutdown(socket.SHUT_RDWR)
    done, cut_off = await asyncio.wait(serving, timeout=grace_seconds)
    for task in done:
        await task
    if cut_off:
        log.warning("some requests did not finish within %g s and are cut off", grace_seconds)
    return not cut_off


async def _answers_with(tls: Tls, host: str, port: int, serving: asyncio.Task[None]) -> None:
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
                if await _certificate_of(host, port, unverified) == expected:
                    return
                await asyncio.sleep(0.005)
    raise TlsUnusable(f"tls_cert: {tls.certificate}: no connection comes about with it")


async def _certificate_of(host: str, port: int, context: ssl.SSLContext) -> bytes | None:
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except OSError:
        return None
    try:
        found: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found
    finally:
        writer.transport.abort()
