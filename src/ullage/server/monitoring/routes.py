"""The pages for those that watch a registry, on the port that it serves on.

With rights on all repositories they say more than one word: what fails is for operators, and a
balancer needs the status only.
"""

from __future__ import annotations

from starlette.responses import Response

from ullage.oci.errors import RegistryError
from ullage.server.http.context import Context, query_of
from ullage.server.http.permissions import ANYBODY, POLICY_READ
from ullage.server.http.request import Request
from ullage.server.http.routes import Route
from ullage.server.monitoring.health import alive, readiness
from ullage.server.monitoring.metrics import scrape


async def get_livez(context: Context, request: Request) -> Response:
    """Whether the event loop answers."""
    return alive()


async def get_startupz(context: Context, request: Request) -> Response:
    """Whether the start is over: no request is answered before."""
    return alive()


async def get_readyz(context: Context, request: Request) -> Response:
    """Whether every part is fit for work; with `verbose`, which are, to callers with rights."""
    wanted = bool(query_of(request).all("verbose"))
    verbose = wanted and await _may_see_more(context, request)
    return readiness(await context.health.report(), verbose=verbose)


async def get_metrics(context: Context, request: Request) -> Response:
    """All figures, as Prometheus or OpenMetrics reads them."""
    accept = request.headers.get("accept", "")
    return await context.threads.submit(scrape, context.sources, accept)


async def _may_see_more(context: Context, request: Request) -> bool:
    try:
        await context.guard.admit(request, POLICY_READ, None)
    except RegistryError:
        return False
    return True


_HEALTH = (
    Route("livez", "GET", "/livez", get_livez, ANYBODY),
    Route("readyz", "GET", "/readyz", get_readyz, ANYBODY),
    Route("startupz", "GET", "/startupz", get_startupz, ANYBODY),
)
ROUTES = (*_HEALTH, Route("metrics", "GET", "/metrics", get_metrics, POLICY_READ))
# Asked every few seconds, by programs: they would drown what people do. Nor are they counted.
UNLOGGED = frozenset(route.path for route in _HEALTH)
