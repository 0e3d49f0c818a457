"""`/api/v1/locks`: locks with a reason."""

from __future__ import annotations

from starlette.responses import Response

from ullage.authorization import Action
from ullage.documents import Document, RequestBody
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import (
    LockUnknown,
    ManifestUnknown,
    NameUnknown,
    PlanInvalid,
    TooManyRequests,
)
from ullage.oci.reference import RepositoryName, Tag, parse_tag
from ullage.registry.locks import image_locks
from ullage.registry.locks.image_locks import LockDocument
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import read_body, require
from ullage.server.http.operations import Operation, Parameter
from ullage.server.http.permissions import KNOWN
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


class LockRequest(RequestBody, frozen=True):
    """A lock of a tag, of a manifest by its digest, or without either of the whole repository."""

    repository: str | None = None
    tag: str | None = None
    digest: str | None = None
    reason: str | None = None
    owner: str | None = None
    # A date, a date and time, or a duration from now on; without it until it is lifted.
    until: str | None = None


class Locks(Document, frozen=True):
    """Locks with a reason, the oldest first."""

    locks: list[LockDocument]


async def place_lock(context: Context, request: Request) -> Response:
    """Lock a repository, a tag or a manifest until a moment, or until the lock is lifted."""
    body = await read_body(context, request, LockRequest)
    name = context.name(body.repository or "")
    require(principal_of(request), [name], Action.METADATA_WRITE)
    reference, until = _reference(body.tag, body.digest), body.until
    placed = await context.threads.submit(
        image_locks.place_lock,
        context.registry,
        name,
        reference,
        caller_of(request),
        reason=body.reason or "",
        owner=body.owner,
        until=image_locks.end_of(context.registry, until) if until is not None else None,
    )
    return json_response(placed, status=201)


async def list_locks(context: Context, request: Request) -> Response:
    """All locks in what the caller may read, or in one repository."""
    name, principal = query_of(request).one("repository"), principal_of(request)
    repository: RepositoryName | None = None
    if name is not None:
        repository = context.name(name)
        require(principal, [repository], Action.METADATA_READ)
    found = await context.threads.submit(
        image_locks.list_locks, context.registry, principal, repository
    )
    return json_response(Locks(found))


async def lift_locks(context: Context, request: Request) -> Response:
    """Lift the locks of exactly this."""
    query = query_of(request)
    name = context.name(query.one("repository") or "")
    require(principal_of(request), [name], Action.METADATA_WRITE)
    reference = _reference(query.one("tag"), query.one("digest"))
    lifted = await context.threads.submit(
        image_locks.lift_locks, context.registry, name, reference, caller_of(request)
    )
    return json_response(Locks(lifted))


def _reference(tag: str | None, digest: str | None) -> Tag | Digest | None:
    if tag is not None and digest is not None:
        raise PlanInvalid(message="expected a tag or a digest, not both")
    if digest is not None:
        return parse_digest(digest)
    return None if tag is None else parse_tag(tag)


_PATH = "/api/v1/locks"
_PLACE = Operation(
    {201: LockDocument},
    request=(LockRequest,),
    errors=(NameUnknown, ManifestUnknown, TooManyRequests),
    example={"repository": "app", "tag": "v1", "reason": "audit 2026-114", "until": "90d"},
)
_LIST = Operation({200: Locks}, query=(Parameter("repository", "only of this one", example="app"),))
_LIFT = Operation(
    {200: Locks},
    query=(
        Parameter("repository", "the repository", required=True, example="app"),
        Parameter("tag", "the tag that is locked", example="v1"),
        Parameter("digest", "the manifest that is locked"),
    ),
    errors=(NameUnknown, LockUnknown),
)
ROUTES = (
    Route("locks", "POST", _PATH, place_lock, KNOWN, _PLACE),
    Route("locks", "GET", _PATH, list_locks, KNOWN, _LIST),
    Route("locks", "DELETE", _PATH, lift_locks, KNOWN, _LIFT),
)
