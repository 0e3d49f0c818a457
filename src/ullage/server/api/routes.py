"""Ullage's own interface, in one table: `/api/v1`.

Each module has its own `ROUTES`; `openapi.py` describes them all. CONTRIBUTING.md says what else a
new route takes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from starlette.responses import Response

from ullage.documents import Document
from ullage.server.api import (
    accounts,
    deleted,
    deployments,
    ids,
    immutable_tags,
    jobs,
    locks,
    operating,
    plans,
    policies,
    search,
    status,
    usage,
)
from ullage.server.http.context import Context
from ullage.server.http.operations import Operation
from ullage.server.http.permissions import KNOWN
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


class Description(Document, frozen=True):
    """An OpenAPI 3.1 document."""

    openapi: str
    paths: dict[str, Any]


async def get_description(context: Context, request: Request) -> Response:
    """The description of these routes, as OpenAPI 3.1."""
    return json_response(description())


@cache
def description() -> dict[str, Any]:
    """What docs/reference/openapi.json has; made when it is asked for first."""
    from ullage.server.api import openapi

    return openapi.describe(ROUTES)


_DESCRIPTION = Operation({200: Description})
ROUTES = (
    *plans.ROUTES,
    *status.ROUTES,
    *usage.ROUTES,
    *ids.ROUTES,
    *search.ROUTES,
    *jobs.ROUTES,
    *locks.ROUTES,
    *immutable_tags.ROUTES,
    *deployments.ROUTES,
    *policies.ROUTES,
    *deleted.ROUTES,
    *accounts.ROUTES,
    *operating.ROUTES,
    Route("openapi", "GET", "/api/v1/openapi.json", get_description, KNOWN, _DESCRIPTION),
)
