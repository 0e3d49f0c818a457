"""Serving the application with granian, in this process: HTTP and file sending off the interpreter.

The application itself runs under any ASGI server; only this file knows granian.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from starlette.types import ASGIApp

log = logging.getLogger(__name__)

BACKLOG = 1024
# Connections held at once, idle ones among them; more wait in the kernel.
MAX_CONNECTIONS = 8192


class AddressUnusable(Exception):
    """Nobody can listen there. The text says why and what to change."""


def listen_on(host: str, port: int) -> int:
    """Find out whether the address is free; returns the port, chosen if it was 0.

    granian itself shares ports between processes, so that a second server on the same port would
    silently get half of the first one's requests.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AddressUnusable(
                f"cannot listen on {host} port {port}: {error.strerror}; stop what listens there "
                "or choose another address with --listen"
            ) from error
        return int(probe.getsockname()[1])


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    header_seconds: float,
    grace_seconds: float,
    ready: Callable[[], None],
) -> bool:
    """Serve until SIGTERM or SIGINT; then let running requests finish for `grace_seconds`.

    `ready` is called once connections are accepted. False if requests had to be cut off.
    """
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        return runner.run(_serve(app, host, port, header_seconds, grace_seconds, ready))


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return None
    return uvloop.new_event_loop


async def _serve(
    app: ASGIApp,
    host: str,
    port: int,
    header_seconds: float,
    grace_seconds: float,
    ready: Callable[[], None],
) -> bool:
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        # Not auto: it waits for the first bytes of a connection without any time limit.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=int(header_seconds * 1000)),
        websockets=False,
        backlog=BACKLOG,
        backpressure=MAX_CONNECTIONS,
        log_enabled=False,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = loop.create_task(server.serve())
    await _accepting(host, port, serving)
    ready()
    waiting = loop.create_task(stopping.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    server.stop()  # type: ignore[no-untyped-call]
    done, _ = await asyncio.wait({serving}, timeout=grace_seconds)
    if not done:
        log.warning("some requests did not finish within %g s and are cut off", grace_seconds)
        return False
    await serving
    return True


async def _accepting(host: str, port: int, serving: asyncio.Task[None]) -> None:
    """Wait until the address accepts connections."""
    while not serving.done():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(0.005)
    await serving
