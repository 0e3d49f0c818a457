"""`/api/v1/policies/…`: what the registry does by itself."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ullage.server.distribution import Face, caller_of
from ullage.server.json_bodies import read_body
from ullage.server.needs import POLICY_READ, POLICY_WRITE
from ullage.server.routes import Route
from ullage.server.wire import json_response
from ullage.services import pulls


async def get_pullers(face: Face, request: Request) -> Response:
    """How pullers are told apart, and whose pulls do not count."""
    return json_response(await face.threads.submit(pulls.get_pullers, face.registry))


async def put_pullers(face: Face, request: Request) -> Response:
    """Set that."""
    body = await read_body(face, request)
    found = await face.threads.submit(pulls.set_pullers, face.registry, body, caller_of(request))
    return json_response(found)


ROUTES = (
    Route("pullers", "GET", "/api/v1/policies/pullers", get_pullers, POLICY_READ),
    Route("pullers", "PUT", "/api/v1/policies/pullers", put_pullers, POLICY_WRITE),
)
