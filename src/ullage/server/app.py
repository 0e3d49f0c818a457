"""The ASGI application: one request in, one answer out, every error in the protocol's envelope."""

from __future__ import annotations

import logging
import secrets

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ullage.oci.errors import RangeInvalid, RegistryError, Unsupported
from ullage.server import distribution
from ullage.server.bodies import Bodies
from ullage.server.distribution import Face
from ullage.server.routes import Router
from ullage.server.threads import Threads
from ullage.server.wire import error_response, json_response
from ullage.services import Registry

log = logging.getLogger(__name__)

MAX_PATH_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024


def create_app(
    registry: Registry, *, threads: int = 32, body_idle_seconds: float = 60.0
) -> ASGIApp:
    """The registry as an application for any ASGI server."""
    pool = Threads(threads, inline_reads=registry.db.inline_reads)
    return App(Face(registry, pool, Bodies(pool, body_idle_seconds)), Router(distribution.ROUTES))


class App:
    def __init__(self, face: Face, router: Router) -> None:
        self._face = face
        self.router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        started = False

        async def watched(message: dict[str, object]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            response = await self._respond(request)
            await response(scope, receive, watched)  # type: ignore[arg-type]
        except ClientDisconnect:
            # Nobody is there to be told; a half-closed connection still gets an answer.
            if not started:
                gone = Unsupported(message="the request's body ended before its announced length")
                await error_response(gone)(scope, receive, send)
        except Exception as error:
            if started:
                # Too late for an answer: break the connection, so that nobody takes it for whole.
                raise
            await _internal_error(request, error)(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        """Find the handler and ask it; say its refusals in the protocol's words."""
        route_parts: list[str] = []
        try:
            path = _raw_path(request.scope)
            route, route_parts = self.router.find(request.method, path)
            return await route.handler(self._face, request, *route_parts)
        except RangeInvalid as error:
            name, upload_id = route_parts
            return error_response(error, distribution.range_headers(name, upload_id, error))
        except RegistryError as error:
            return error_response(error)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                self._face.threads.close()
                return


def _raw_path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
    if len(raw) > MAX_PATH_BYTES:
        raise Unsupported(message=f"the path is longer than {MAX_PATH_BYTES} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise Unsupported(message=f"the headers are longer than {MAX_HEADER_BYTES} bytes")
    return raw.partition(b"?")[0].decode("latin-1")


def _internal_error(request: Request, error: Exception) -> Response:
    """A defect of ours. The client gets a number to report, the log the rest."""
    number = secrets.token_hex(8)
    log.error(
        "500 %s %r: internal error %s",
        request.method,
        request.scope["path"],
        number,
        exc_info=error,
    )
    body = {
        "errors": [
            {
                "code": "UNKNOWN",
                "message": "internal error; the registry's log has more",
                "detail": {"request_id": number},
            }
        ]
    }
    return json_response(body, status=500)
