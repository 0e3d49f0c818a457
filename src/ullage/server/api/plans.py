"""`/api/v1/`: what this registry can say beyond the protocol: plans, and the bill.

Repositories are named in the body or the query. Whoever may not read one of them is answered as the
guard answers a path: 401 with the scope to ask for, whether it exists or not.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ullage.authorization import Action
from ullage.cleanup.plan import apply, from_filter, plan, suggest
from ullage.cleanup.purge import RIGHTS
from ullage.oci.digest import parse_digest
from ullage.oci.errors import PlanInvalid, PlanUnknown
from ullage.oci.reference import parse_tag
from ullage.oci.strict_json import JSONValue
from ullage.server.api.jobs import FILTERS, require_some, wanted_purge
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import (
    caps,
    flag,
    is_id,
    number,
    only,
    read_body,
    require,
    seen,
    texts,
)
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import ALL_REPOSITORIES, KNOWN
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

MAX_REPOSITORIES = 1000


async def make_plan(context: Context, request: Request) -> Response:
    """What deleting these would take and free; kept under an id for an hour."""
    body = await read_body(context, request)
    principal = principal_of(request)
    if body.keys() & FILTERS:
        return await _plan_filter(context, request, body)
    wanted = _wanted(context, body)
    require(principal, wanted.names(), Action.METADATA_READ)
    made = await context.threads.submit(
        plan.make_plan, context.registry, wanted, principal, caller_of(request)
    )
    return _plan_page(context, request, made, 201)


async def _plan_filter(
    context: Context, request: Request, body: Mapping[str, JSONValue]
) -> Response:
    """As a purge of the same filter, whose choice it shows."""
    only(body, FILTERS | {"caps"})
    principal = principal_of(request)
    wanted = wanted_purge(body)
    require_some(principal, wanted)
    made = await context.threads.submit(
        from_filter.plan_filter, context.registry, wanted, principal, caller_of(request)
    )
    return _plan_page(context, request, made, 201)


async def suggest_plan(context: Context, request: Request) -> Response:
    """A plan of the fewest orphans and old images that free so many bytes."""
    body = await read_body(context, request)
    only(body, {"free", "repositories"})
    free = body.get("free")
    wanted = plan.parse_size(free) if isinstance(free, str) else number(body, "free")
    if not wanted:
        raise PlanInvalid(message="free: expected a size such as 50GB")
    names = tuple(map(context.name, texts(body, "repositories")))
    principal = principal_of(request)
    require(principal, names, *RIGHTS)
    if not any(grant.actions >= set(RIGHTS) for grant in principal.grants):
        require(principal, [ALL_REPOSITORIES], *RIGHTS)
    made = await context.threads.submit(
        suggest.suggest, context.registry, wanted, names, principal, caller_of(request)
    )
    return _plan_page(context, request, made, 201)


async def get_plan(context: Context, request: Request, plan_id: str) -> Response:
    """The plan as it was made; its items page by page."""
    found = await context.threads.submit(
        plan.get_plan, context.registry, _plan_id(plan_id), principal_of(request)
    )
    return _plan_page(context, request, found, 200)


async def apply_plan(context: Context, request: Request, plan_id: str) -> Response:
    """Delete what the plan shows, or nothing if that has changed."""
    body = await read_body(context, request)
    only(body, _APPLY)
    principal = principal_of(request)
    found = await context.threads.submit(
        plan.get_plan, context.registry, _plan_id(plan_id), principal
    )
    rights = [Action.DELETE]
    if found.document["asked"].get("include_locked"):
        rights.append(Action.METADATA_WRITE)
    require(principal, map(context.name, found.repositories()), *rights)
    receipt = await context.threads.submit(
        apply.apply_plan,
        context.registry,
        found.id,
        caller_of(request),
        allow_smaller=flag(body, "allow_smaller"),
        allow=texts(body, "allow"),
    )
    if receipt.get("applied") is not None:
        return json_response(receipt)
    return json_response(
        receipt, status=202, headers={"Location": f"/api/v1/jobs/{receipt['job']}"}
    )


def _plan_page(context: Context, request: Request, found: plan.Plan, status: int) -> Response:
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size)
    start = seen(query.one("last"))
    path = f"/api/v1/plans/{found.id}"
    items = found.items[start : start + n]
    more = start + n < len(found.items) and n > 0
    link = next_link(path, n=n, last=start + n) if more else {}
    location = {"Location": path} if status == 201 else {}
    return json_response(found.document | {"items": items}, status=status, headers=link | location)


def _plan_id(text: str) -> str:
    if not is_id(text):
        raise PlanUnknown({"plan": text[:64]})
    return text


# --- plans in words -----------------------------------------------------------------------------


_WANTED = {"repository", "digests", "tags", "repositories", "computed", "caps"}
_APPLY = {"allow_smaller", "allow"}


def _wanted(context: Context, body: Mapping[str, JSONValue]) -> plan.PlanRequest:
    only(body, _WANTED)
    repository = body.get("repository")
    repositories = tuple(map(context.name, texts(body, "repositories")))
    digests = tuple(map(parse_digest, texts(body, "digests")))
    tags = tuple(map(parse_tag, texts(body, "tags")))
    if repository is not None and not isinstance(repository, str):
        raise PlanInvalid(message="repository: expected a text")
    if (repository is None) == (not repositories) or bool(repository) != bool(digests or tags):
        raise PlanInvalid(
            message="expected repository with digests or tags, or repositories, a list"
        )
    if len(repositories) > MAX_REPOSITORIES:
        raise PlanInvalid(message=f"more than {MAX_REPOSITORIES} repositories")
    return plan.PlanRequest(
        repositories=repositories,
        repository=context.name(repository) if repository is not None else None,
        digests=digests,
        tags=tags,
        caps=caps(body.get("caps")),
        computed=flag(body, "computed"),
    )


ROUTES = (
    Route("plans", "POST", "/api/v1/plans", make_plan, KNOWN),
    Route("suggest", "POST", "/api/v1/suggest", suggest_plan, KNOWN),
    Route("plan", "GET", "/api/v1/plans/{plan}", get_plan, KNOWN),
    Route("apply", "POST", "/api/v1/plans/{plan}/apply", apply_plan, KNOWN),
)
