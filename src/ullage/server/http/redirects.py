"""Pulls of large blobs that are sent to the store, by a signed URL (buckets.md section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import Response

from ullage.oci.digest import Digest
from ullage.server.http.request import Request
from ullage.server.http.responses import API_VERSION, FixedResponse


class Redirects:
    """Blobs of more than `over` bytes, but for clients whose User-Agent has one of these in it.

    Those are known to send the registry's credentials along, which S3 refuses.
    """

    def __init__(self, over: int, proxied_agents: Iterable[str]) -> None:
        self._over = over
        self._proxied = tuple(agent.lower().encode("latin-1") for agent in proxied_agents)

    def serves(self, request: Request, size: int) -> bool:
        """Whether a GET of a blob of `size` bytes is sent to the store.

        A Range is served from here: the URL may have ended when such a client asks once more.
        """
        if size <= self._over or b"range" in request.fields.first:
            return False
        agent = request.fields.first.get(b"user-agent", b"").lower()
        return not any(proxied in agent for proxied in self._proxied)

    @staticmethod
    def response(digest: Digest, url: str) -> Response:
        """RFC 9110, section 15.4.8: 307, which no cache may keep for longer than its URL lasts."""
        headers = {"Location": url, "Docker-Content-Digest": digest, "Cache-Control": "no-store"}
        return FixedResponse(307, API_VERSION | headers)
