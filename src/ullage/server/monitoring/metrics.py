"""`/metrics`: what a registry counts, as Prometheus and OpenMetrics read it."""

from __future__ import annotations

from starlette.responses import Response

from ullage.server.http.responses import FixedResponse
from ullage.server.monitoring.sources import Sources


def scrape(sources: Sources, accept: str) -> Response:
    """All figures, in the format that the client asks for. Blocks; raises Unavailable."""
    # A megabyte, and a quarter of a second, that a server which nobody watches does not need.
    from ullage.server.monitoring.collector import exposition

    content_type, body = exposition(sources, accept)
    return FixedResponse(200, {"Content-Type": content_type, "Cache-Control": "no-store"}, body)
