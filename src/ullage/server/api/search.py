"""`/api/v1/search`: repositories, tags and manifests by a part of what names them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from ullage.documents import Document
from ullage.server.http.context import Context, principal_of, query_of
from ullage.server.http.operations import Operation, Parameter, page
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import KNOWN
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route
from ullage.usage.search import Hit, search

PATH = "/api/v1/search"


class Hits(Document, frozen=True):
    """A page of what was found: repositories, then tags, then manifests."""

    hits: Sequence[Hit]


async def get_hits(context: Context, request: Request) -> Response:
    """What has this in its name, of what the caller may read about, page by page."""
    query = query_of(request)
    text, n = query.one("q") or "", page_size(query, context.registry.limits.max_page_size, 50)
    found = await context.threads.submit(
        search, context.registry, text, principal_of(request), n, query.one("last")
    )
    more = {} if found.next is None else next_link(PATH, q=text, n=n, last=found.next)
    return json_response(Hits(found.hits), headers=more)


_TEXT = (
    "a part of a repository's name, the beginning of a tag (app:v1: in repositories with app in "
    "their names), or seven or more digits of a digest"
)
_SEARCH = Operation(
    {200: Hits}, query=(Parameter("q", _TEXT, example="app"), *page("50")), headers=("Link",)
)
ROUTES = (Route("search", "GET", PATH, get_hits, KNOWN, _SEARCH),)
