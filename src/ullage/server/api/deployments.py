"""`/api/v1/deployments`: what clusters run, which no deletion takes away."""

from __future__ import annotations

from starlette.responses import Response

from ullage.documents import Document
from ullage.oci.errors import SourceEmpty, SourceUnknown, TooManyRequests, ValueInvalid
from ullage.registry.locks import deployments
from ullage.registry.locks.deployments import (
    DeployedImages,
    DeploymentReport,
    Reported,
    SourceDocument,
)
from ullage.server.http.context import Context, caller_of, query_of
from ullage.server.http.json_bodies import read_body
from ullage.server.http.operations import Operation, Parameter, page
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import ADMINISTRATION_WRITE, GUARD_REPORT, POLICY_READ
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

# What 100,000 images take, named shortly.
MAX_REPORT_BYTES = 16 * 1024 * 1024


class Sources(Document, frozen=True):
    """Sources of deployments, by name."""

    sources: list[SourceDocument]


async def put_report(context: Context, request: Request, source: str) -> Response:
    """Report what a cluster runs, in place of what it reported before."""
    body = await read_body(context, request, DeploymentReport, ValueInvalid, MAX_REPORT_BYTES)
    reported = await context.threads.submit(
        deployments.report, context.registry, source, body, caller_of(request)
    )
    return json_response(reported)


async def list_sources(context: Context, request: Request) -> Response:
    """All sources of deployments, and how fresh they are."""
    return json_response(
        Sources(await context.threads.submit(deployments.list_sources, context.registry))
    )


async def show_source(context: Context, request: Request, source: str) -> Response:
    """What a source names, page by page."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size)
    found = await context.threads.submit(
        deployments.show_source, context.registry, source, query.one("last") or "", n
    )
    path, last = f"{_PATH}/{source}", found.images[-1].image if found.images else None
    more = next_link(path, n=n, last=last) if 0 < n <= len(found.images) else {}
    return json_response(found, headers=more)


async def forget_source(context: Context, request: Request, source: str) -> Response:
    """End all that a source protects. `confirm` says that this is meant."""
    if query_of(request).one("confirm") != "1":
        raise ValueInvalid(message="confirm: expected 1; all that this source names may then go")
    gone = await context.threads.submit(
        deployments.forget_source, context.registry, source, caller_of(request)
    )
    return json_response(gone)


_PATH = "/api/v1/deployments"
_EXAMPLE = {
    "images": [
        {
            "image": "registry.example.com/app:v1",
            "image_id": "registry.example.com/app@sha256:" + "0" * 64,
            "where": "shop/deployment/app",
        }
    ],
    "ttl": "2h",
}
_PUT = Operation(
    {200: Reported},
    request=(DeploymentReport,),
    errors=(SourceEmpty, TooManyRequests),
    example=_EXAMPLE,
)
_SHOW = Operation(
    {200: DeployedImages}, query=page("1000"), errors=(SourceUnknown,), headers=("Link",)
)
_FORGET = Operation(
    {200: SourceDocument},
    query=(Parameter("confirm", "1: this is meant", required=True, example="1"),),
    errors=(SourceUnknown,),
)
_SOURCE = f"{_PATH}/{{source}}"
ROUTES = (
    Route("deployments", "GET", _PATH, list_sources, POLICY_READ, Operation({200: Sources})),
    Route("deployment-source", "GET", _SOURCE, show_source, POLICY_READ, _SHOW),
    Route("deployment-source", "PUT", _SOURCE, put_report, GUARD_REPORT, _PUT),
    Route("deployment-source", "DELETE", _SOURCE, forget_source, ADMINISTRATION_WRITE, _FORGET),
)
