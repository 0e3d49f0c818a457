"""The ASGI application: one request in, one answer out, every error in the protocol's envelope."""

from __future__ import annotations

import logging
import secrets

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ullage.oci.errors import RangeInvalid, RegistryError, SizeInvalid
from ullage.server import distribution
from ullage.server.bodies import Bodies
from ullage.server.distribution import Face
from ullage.server.head import raw_path, require_plain
from ullage.server.routes import Router
from ullage.server.threads import Threads
from ullage.server.wire import error_response, json_response
from ullage.services import Registry

log = logging.getLogger(__name__)


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
                gone = SizeInvalid(message="the request's body ended before its announced length")
                await error_response(gone)(scope, receive, send)
        except Exception as error:
            if started:
                # Too late for an answer: break the connection, so that nobody takes it for whole.
                log.exception("broke off the answer to %s %r", request.method, scope["path"])
                raise
            await _internal_error(request, error)(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        """Find the handler and ask it; say its refusals in the protocol's words."""
        route_parts: list[str] = []
        try:
            path = raw_path(request.scope)
            require_plain(request.scope)
            route, route_parts = self.router.find(request.method, path)
            return await route.handler(self._face, request, *route_parts)
        except RangeInvalid as error:
            name, upload_id = route_parts
            headers = distribution.range_headers(self._face.name(name), upload_id, error)
            return error_response(error, headers)
        except RegistryError as error:
            return error_response(error)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                self._face.threads.close()
                return


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
