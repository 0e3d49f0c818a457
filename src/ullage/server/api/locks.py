"""`/api/v1/locks`: locks with a reason."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ullage.authorization import Action
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import PlanInvalid
from ullage.oci.reference import RepositoryName, Tag, parse_tag
from ullage.oci.strict_json import JSONValue
from ullage.registry.locks import image_locks
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import only, read_body, require
from ullage.server.http.permissions import KNOWN
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

_LOCK = {"repository", "tag", "digest", "reason", "owner", "until"}


async def place(context: Context, request: Request) -> Response:
    """Hold a repository, a tag or a manifest until a moment, or until it is lifted."""
    body = await read_body(context, request)
    only(body, _LOCK)
    name = context.name(_text(body, "repository") or "")
    require(principal_of(request), [name], Action.METADATA_WRITE)
    reference = _reference(_text(body, "tag"), _text(body, "digest"))
    until = _text(body, "until")
    placed = await context.threads.submit(
        image_locks.place_hold,
        context.registry,
        name,
        reference,
        caller_of(request),
        reason=_text(body, "reason") or "",
        owner=_text(body, "owner"),
        until=image_locks.end_of(context.registry, until) if until is not None else None,
    )
    return json_response(placed, status=201)


async def listed(context: Context, request: Request) -> Response:
    """All that is held in what the caller may read, or in one repository."""
    name, principal = query_of(request).one("repository"), principal_of(request)
    repository: RepositoryName | None = None
    if name is not None:
        repository = context.name(name)
        require(principal, [repository], Action.METADATA_READ)
    found = await context.threads.submit(
        image_locks.list_holds, context.registry, principal, repository
    )
    return json_response({"locks": found})


async def lift(context: Context, request: Request) -> Response:
    """Lift what holds exactly this."""
    query = query_of(request)
    name = context.name(query.one("repository") or "")
    require(principal_of(request), [name], Action.METADATA_WRITE)
    reference = _reference(query.one("tag"), query.one("digest"))
    lifted = await context.threads.submit(
        image_locks.lift_holds, context.registry, name, reference, caller_of(request)
    )
    return json_response({"locks": lifted})


def _reference(tag: str | None, digest: str | None) -> Tag | Digest | None:
    if tag is not None and digest is not None:
        raise PlanInvalid(message="expected a tag or a digest, not both")
    if digest is not None:
        return parse_digest(digest)
    return None if tag is None else parse_tag(tag)


def _text(body: Mapping[str, JSONValue], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise PlanInvalid(message=f"{name}: expected a text")
    return value


ROUTES = (
    Route("locks", "POST", "/api/v1/locks", place, KNOWN),
    Route("locks", "GET", "/api/v1/locks", listed, KNOWN),
    Route("locks", "DELETE", "/api/v1/locks", lift, KNOWN),
)
