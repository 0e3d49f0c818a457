"""What `--metrics ADDRESS:PORT` serves: the pages for those that watch, without credentials.

As distribution's debug address and Harbor's exporter. Only who may read everything belongs there.
"""

from __future__ import annotations

import logging
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ullage.oci.errors import RegistryError
from ullage.server.http.errors import MethodNotAllowed, NotFound, error_response
from ullage.server.http.threads import Threads
from ullage.server.monitoring.health import Health, alive, readiness
from ullage.server.monitoring.metrics import scrape
from ullage.server.monitoring.sources import Sources

log = logging.getLogger(__name__)


class Apart:
    """An ASGI application. A scrape has a thread of its own: it waits for no request's work."""

    def __init__(self, health: Health, sources: Sources) -> None:
        self._health = health
        self._sources = sources
        self._threads = Threads(1, inline_reads=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            response = await self._answer(scope)
            await response(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response:
        try:
            return await self._page(scope)
        except RegistryError as error:
            return error_response(error)

    async def _page(self, scope: Scope) -> Response:
        page = scope["path"]
        if page not in PAGES:
            raise NotFound
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowed(scope["method"][:20], "GET, HEAD")
        if page == "/metrics":
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            return await self._threads.submit(scrape, self._sources, accept)
        if page == "/readyz":
            query = parse_qs(scope["query_string"], keep_blank_values=True)
            return readiness(await self._health.report(), verbose=b"verbose" in query)
        return alive()


PAGES = frozenset(["/livez", "/metrics", "/readyz", "/startupz"])
