"""`/api/v1/status`: one look at the registry."""

from __future__ import annotations

from starlette.responses import Response

from ullage.cleanup.status import Status, status_of
from ullage.server.http.context import Context
from ullage.server.http.operations import Operation
from ullage.server.http.permissions import POLICY_READ
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


async def get_status(context: Context, request: Request) -> Response:
    """What fills the disk, what will free it and when, and what needs a person."""
    return json_response(await context.threads.submit(status_of, context.registry))


ROUTES = (
    Route("status", "GET", "/api/v1/status", get_status, POLICY_READ, Operation({200: Status})),
)
