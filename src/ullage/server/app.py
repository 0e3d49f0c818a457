"""The ASGI application: a request in, a response out, every error in the protocol's envelope."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ullage.accounts.authenticator import Authenticator
from ullage.authorization import Principal
from ullage.oci.errors import (
    NameInvalid,
    NameUnknown,
    RangeInvalid,
    RegistryError,
    SizeInvalid,
    Unavailable,
)
from ullage.registry.context import Registry
from ullage.registry.errors import SHORT_OF_FILES, is_short_of_files
from ullage.server.acr import routes as acr
from ullage.server.acr.data_plane import PREFIX, no_such_page
from ullage.server.api import routes as api
from ullage.server.distribution import routes as distribution
from ullage.server.distribution.push_blobs import range_headers
from ullage.server.http.access_log import RequestLog, printable, request_id_of
from ullage.server.http.authentication import Challenge, Guard
from ullage.server.http.bodies import Bodies
from ullage.server.http.context import Context
from ullage.server.http.defects import noted
from ullage.server.http.errors import error_response
from ullage.server.http.origins import OwnOrigins
from ullage.server.http.permissions import Audience
from ullage.server.http.proxies import SCHEME, Proxies
from ullage.server.http.redirects import Redirects
from ullage.server.http.request import Request, raw_path, require_json
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route, Router
from ullage.server.http.send_file import SendFile
from ullage.server.http.shared_reads import SharedReads
from ullage.server.http.threads import FairThreads, Threads
from ullage.server.http.write_batches import WriteBatches
from ullage.server.monitoring import routes as monitoring
from ullage.server.monitoring.counting import Head, RequestCounts
from ullage.server.monitoring.health import Health
from ullage.server.monitoring.sources import Sources
from ullage.server.ui.site import Site

log = logging.getLogger(__name__)

# Logins at once; two of them compute (accounts/passwords.py), the others wait or look up.
PASSWORD_THREADS = 4
# What only clients of ours and scripts speak.
OWN_INTERFACE = "/api/"
PROTOCOL = "/v2/"
ROUTES = (
    *distribution.ROUTES,
    *acr.ROUTES,
    *api.ROUTES,
    *monitoring.ROUTES,
)


def create_app(
    registry: Registry,
    *,
    authenticator: Authenticator | None = None,
    external_url: str = "",
    listen_host: str = "",
    hosts: Iterable[str] = (),
    trusted_proxies: Iterable[str] = (),
    scheme: str = "http",
    threads: int = 32,
    body_idle_seconds: float = 60.0,
    request_log: RequestLog | None = None,
    send_file: SendFile | None = None,
    redirects: Redirects | None = None,
    health: Health | None = None,
    ui: bool = True,
    metrics_repositories: int = 0,
) -> App:
    """The registry as an application for any ASGI server.

    Without an `authenticator` every request may do everything, if it is made to one of the
    registry's own names: `listen_host`, `hosts`, the one in `external_url` and those of loopback.
    `trusted_proxies` are the networks of proxies that are believed which client they ask for; with
    `send_file` they send large blobs themselves. With `redirects` the store does. `ui` adds the web
    UI's pages.
    """
    pool = Threads(threads, inline_reads=registry.db.inline_reads)
    passwords = FairThreads(PASSWORD_THREADS)
    origins = OwnOrigins(listen_host=listen_host, external_url=external_url, hosts=hosts)
    guard = Guard(authenticator, pool, passwords, origins, external_url, scheme)
    bodies = Bodies(pool, body_idle_seconds)
    reads, writes = SharedReads(registry, pool), WriteBatches(registry, pool)
    router, requests = Router(ROUTES), RequestCounts(scheme)
    caches = {"route": router.looks}
    if authenticator is not None:
        caches["bearer"] = authenticator.looks
    pools = {"work": pool.load, "passwords": passwords.load}
    sources = Sources(registry, requests, caches, pools, metrics_repositories)
    health = health or Health.of(registry)
    context = Context(
        registry, pool, reads, writes, bodies, guard, health, sources, send_file, redirects
    )
    site = Site(context) if ui else None
    return App(context, router, request_log, Proxies(trusted_proxies), site)


class App:
    def __init__(
        self,
        context: Context,
        router: Router,
        request_log: RequestLog | None,
        proxies: Proxies | None = None,
        site: Site | None = None,
    ) -> None:
        self._context = context
        self._site = site
        self._requests = context.sources.requests
        self._log = request_log
        self._proxies = proxies or Proxies()
        self.router = router
        self.sources = context.sources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        request = Request(scope, receive)
        self._proxies.locate(request)
        scope["ullage.request_id"] = request_id_of(request.fields.first.get(b"x-request-id"))
        self._requests.begun.add(request)
        status, sent = 0, None
        try:
            response = await self._response(request)
            status = response.status_code
            _add_request_id(response, scope)
            unread = status >= 400 and request.has_unread_body
            if unread and not await self._context.bodies.skip(request):
                response.headers["Connection"] = "close"
            else:
                unread = False
            await response(scope, receive, send)
            sent = response.raw_headers
            if unread:
                await self._context.bodies.linger(request)
        except ClientDisconnect:
            # The client left in the middle of the response.
            pass
        except Exception:
            # Too late for another response: a broken connection, which no client takes for whole.
            where = printable(scope["path"])
            log.exception("broke off the answer to %s %s", printable(request.method), where)
            raise
        finally:
            self._note(request, status, time.perf_counter() - began, sent)

    async def _response(self, request: Request) -> Response:
        """The response, whatever happens."""
        try:
            return await self._handle(request)
        except ClientDisconnect:
            # The client is gone; one that closed only its sending side still gets a response.
            gone = SizeInvalid(message="the request's body ended before its announced length")
            return error_response(gone)
        except OSError as error:
            if is_short_of_files(error):
                return error_response(Unavailable(message=SHORT_OF_FILES, retry_after=1))
            return _internal_error(request, error)
        except Exception as error:  # noqa: BLE001 - logged, and reported to the client
            return _internal_error(request, error)

    async def _handle(self, request: Request) -> Response:
        """Find the handler, check the caller's permission, and call it."""
        parts: tuple[str, ...] = ()
        path = ""
        try:
            path = raw_path(request.scope)
            request.fields.require_plain(request.scope["http_version"])
            # What clients ask for does not pay for the web UI's pages.
            if not path.startswith(PROTOCOL):
                site = self._site
                if site is not None and site.takes(request, path):
                    return await site.respond(request, path)
            route, parts = self.router.find(request.scope["method"], path)
            request.scope["ullage.route"] = route
            if path.startswith(OWN_INTERFACE):
                require_json(request.fields)
            # A malformed name is refused before rights on it are.
            named = route.permission.audience is Audience.REPOSITORY
            name = self._context.name(parts[0]) if named else None
            guard = self._context.guard
            # Without accounts there is nothing to wait for, and so no coroutine to make.
            if guard.authenticator is None:
                principal = guard.admit_anybody(request, route.permission)
            else:
                principal = await self._admit(request, route, name)
            request.scope["ullage.principal"] = principal
            return await route.handler(self._context, request, *parts)
        except Challenge as error:
            header = self._context.guard.challenge_header(request, error)
            return error_response(error, {"WWW-Authenticate": header})
        except RangeInvalid as error:
            name = self._context.name(parts[0])
            return error_response(error, range_headers(name, parts[1], error))
        except NameInvalid as error:
            return no_such_page() if path.startswith(PREFIX) else _not_a_name(request, path, error)
        except RegistryError as error:
            return error_response(error)

    async def _admit(self, request: Request, route: Route, name: str | None) -> Principal:
        """The caller, if permitted. Of a caller who is not, a short body is read nevertheless."""
        try:
            return await self._context.guard.admit(request, route.permission, name)
        except Challenge:
            await self._context.bodies.discard(request)
            raise

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol, for other servers than ours."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self._context.guard.slow_threads.close()
                self._context.threads.close()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    def _note(self, request: Request, status: int, seconds: float, sent: Head | None) -> None:
        """Count a request that has ended, and log it. `sent` is its response's head, if it was."""
        scope, requests = request.scope, self._requests
        requests.begun.discard(request)
        route: Route | None = scope.get("ullage.route")
        if route is not None and route.path in monitoring.UNLOGGED:
            return
        if status:
            scheme = scope.get(SCHEME)
            requests.end((scope["method"], route, status, scheme, seconds, sent))
        if self._log is not None:
            self._write_log(self._log, request, status, seconds)

    @staticmethod
    def _write_log(log: RequestLog, request: Request, status: int, seconds: float) -> None:
        scope = request.scope
        principal = scope.get("ullage.principal")
        client = scope.get("client")
        log.write(
            at=time.time(),
            request_id=scope["ullage.request_id"],
            address=client[0] if client else "",
            subject=principal.subject if principal else "",
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=seconds,
            agent=request.fields.first.get(b"user-agent", b"").decode("latin-1"),
        )


def _not_a_name(request: Request, path: str, error: NameInvalid) -> Response:
    """distribution-spec, "Error Codes": what cannot be read is not there, and cannot be written.

    "Listing Referrers" knows no 404.
    """
    reads = request.method in ("GET", "HEAD") and path.startswith(PROTOCOL)
    if reads and "/referrers/" not in path:
        return error_response(NameUnknown(error.detail, error.message))
    return error_response(error)


def _add_request_id(response: Response, scope: Scope) -> None:
    request_id = scope["ullage.request_id"].encode("ascii")
    response.raw_headers = [
        *response.raw_headers,
        (b"x-request-id", request_id),
        # az prints this one when something fails.
        (b"x-ms-correlation-request-id", request_id),
    ]


def _internal_error(request: Request, error: Exception) -> Response:
    """A defect of ours. The client gets the request's id to report, the log the rest."""
    found = noted(request, error)
    entry = {"code": found.code, "message": found.message, "detail": found.detail}
    return json_response({"errors": [entry]}, status=500)
