"""`/api/v1/plans` and `/api/v1/suggest`: what a deletion would do, before it is done.

Repositories are named in the body. A caller that may not read one of them is answered as for a
path: 401 with the scope to ask for, whether it exists or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from starlette.responses import Response

from ullage.authorization import Action
from ullage.cleanup.guardrails import Caps
from ullage.cleanup.plan import apply, from_filter, plan, suggest
from ullage.cleanup.plan.documents import PlanDocument, PlanItem, Receipt
from ullage.cleanup.plan.preview import PlanRequest as WantedPlan
from ullage.cleanup.purge import RIGHTS
from ullage.documents import Meta, RequestBody, Size, changed, read
from ullage.oci.digest import parse_digest
from ullage.oci.errors import (
    ManifestUnknown,
    NameUnknown,
    PlanChanged,
    PlanInvalid,
    PlanRefused,
    PlanUnknown,
    TooManyRequests,
)
from ullage.oci.reference import parse_tag
from ullage.quantities import bytes_of
from ullage.server.api.jobs import CapsRequest, PlanFilterRequest, require_some, wanted_purge
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import is_id, read_body, read_object, require, seen
from ullage.server.http.operations import Operation, page
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import ALL_REPOSITORIES, KNOWN
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

MAX_REPOSITORIES = 1000


class PlanRequest(RequestBody, frozen=True):
    """What to delete: digests and tags of one repository, or whole repositories."""

    repository: str | None = None
    digests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    repositories: Annotated[tuple[str, ...], Meta(max_length=MAX_REPOSITORIES)] = ()
    # A filter or a program made the list, no person has read it: every rail refuses.
    computed: bool = False
    caps: CapsRequest | None = None


class SuggestRequest(RequestBody, frozen=True):
    """How much to free, and of which repositories; of all without any."""

    free: Size | None = None
    repositories: tuple[str, ...] = ()


class ApplyRequest(RequestBody, frozen=True):
    """Whether to go on if only less would go, and rails that may be run into."""

    allow_smaller: bool = False
    allow: tuple[str, ...] = ()


# What says which tags and manifests, in a plan of a filter.
_FILTERS = {*PlanFilterRequest.__struct_fields__} - {"caps"}


async def make_plan(context: Context, request: Request) -> Response:
    """What deleting these would take and free; kept under an id for an hour."""
    body = await read_object(context, request)
    principal, caller = principal_of(request), caller_of(request)
    if body.keys() & _FILTERS:
        # As a purge of the same filter, whose choice it shows.
        purge = wanted_purge(read(body, PlanFilterRequest, PlanInvalid))
        require_some(principal, purge)
        made = await context.threads.submit(
            from_filter.plan_filter, context.registry, purge, principal, caller
        )
    else:
        wanted = _wanted(context, read(body, PlanRequest, PlanInvalid))
        require(principal, wanted.names(), Action.METADATA_READ)
        made = await context.threads.submit(
            plan.make_plan, context.registry, wanted, principal, caller
        )
    return _plan_page(context, request, made, 201)


async def suggest_plan(context: Context, request: Request) -> Response:
    """A plan of the fewest orphans and old images that free so many bytes."""
    body = await read_body(context, request, SuggestRequest)
    free = bytes_of(body.free)
    if not free:
        raise PlanInvalid(message="free: expected a size such as 50GB")
    names = tuple(map(context.name, body.repositories))
    principal = principal_of(request)
    require(principal, names, *RIGHTS)
    if not any(grant.actions >= set(RIGHTS) for grant in principal.grants):
        require(principal, [ALL_REPOSITORIES], *RIGHTS)
    made = await context.threads.submit(
        suggest.suggest, context.registry, free, names, principal, caller_of(request)
    )
    return _plan_page(context, request, made, 201)


async def get_plan(context: Context, request: Request, plan_id: str) -> Response:
    """The plan as it was made; its items page by page."""
    start, n = _page_of(context, request)
    found = await context.threads.submit(
        plan.get_plan, context.registry, _plan_id(plan_id), principal_of(request), start, n
    )
    return _page_response(found, found.items, start, n, 200)


async def apply_plan(context: Context, request: Request, plan_id: str) -> Response:
    """Delete what the plan shows, or nothing if that has changed."""
    body = await read_body(context, request, ApplyRequest)
    principal = principal_of(request)
    found = await context.threads.submit(
        plan.get_plan, context.registry, _plan_id(plan_id), principal, 0, 0
    )
    rights = [Action.DELETE]
    if found.asked.include_locked:
        rights.append(Action.METADATA_WRITE)
    require(principal, map(context.name, found.names()), *rights)
    receipt = await context.threads.submit(
        apply.apply_plan,
        context.registry,
        found.id,
        caller_of(request),
        allow_smaller=body.allow_smaller,
        allow=body.allow,
    )
    if receipt.applied is not None:
        return json_response(receipt)
    return json_response(receipt, status=202, headers={"Location": f"/api/v1/jobs/{receipt.job}"})


def _plan_page(context: Context, request: Request, found: PlanDocument, status: int) -> Response:
    start, n = _page_of(context, request)
    return _page_response(found, found.items[start : start + n], start, n, status)


def _page_of(context: Context, request: Request) -> tuple[int, int]:
    """Behind how many items the page begins, and how many it has."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size)
    return seen(query.one("last")), n


def _page_response(
    found: PlanDocument, items: Sequence[PlanItem], start: int, n: int, status: int
) -> Response:
    path = f"/api/v1/plans/{found.id}"
    more = start + n < found.item_count and n > 0
    link = next_link(path, n=n, last=start + n) if more else {}
    location = {"Location": path} if status == 201 else {}
    return json_response(changed(found, items=items), status=status, headers=link | location)


def _plan_id(text: str) -> str:
    if not is_id(text):
        raise PlanUnknown({"plan": text[:64]})
    return text


def _wanted(context: Context, body: PlanRequest) -> WantedPlan:
    """What a body asks to be deleted. Raises PlanInvalid and errors of names, tags and digests."""
    repositories = tuple(map(context.name, body.repositories))
    digests, tags = tuple(map(parse_digest, body.digests)), tuple(map(parse_tag, body.tags))
    repository = body.repository
    if (repository is None) == (not repositories) or bool(repository) != bool(digests or tags):
        raise PlanInvalid(
            message="expected repository with digests or tags, or repositories, a list"
        )
    return WantedPlan(
        repositories=repositories,
        repository=context.name(repository) if repository is not None else None,
        digests=digests,
        tags=tags,
        caps=body.caps.caps() if body.caps is not None else Caps(),
        computed=body.computed,
    )


_ONE = "/api/v1/plans/{plan}"
_PAGES = page("1000")
_MAKE = Operation(
    {201: PlanDocument},
    request=(PlanRequest, PlanFilterRequest),
    query=_PAGES,
    errors=(NameUnknown, ManifestUnknown, TooManyRequests),
    headers=("Location", "Link"),
    example={"repository": "app", "tags": ["v1"]},
)
_SUGGEST = Operation(
    {201: PlanDocument},
    request=(SuggestRequest,),
    query=_PAGES,
    errors=(NameUnknown, TooManyRequests),
    headers=("Location", "Link"),
    example={"free": "50GB", "repositories": ["ci/web"]},
)
_GET = Operation({200: PlanDocument}, query=_PAGES, errors=(PlanUnknown,), headers=("Link",))
_APPLY = Operation(
    {200: Receipt, 202: Receipt},
    request=(ApplyRequest,),
    errors=(PlanUnknown, PlanChanged, PlanRefused, TooManyRequests),
    headers=("Location",),
    example={"allow_smaller": False, "allow": ["only-tag"]},
)
ROUTES = (
    Route("plans", "POST", "/api/v1/plans", make_plan, KNOWN, _MAKE),
    Route("suggest", "POST", "/api/v1/suggest", suggest_plan, KNOWN, _SUGGEST),
    Route("plan", "GET", _ONE, get_plan, KNOWN, _GET),
    Route("apply", "POST", f"{_ONE}/apply", apply_plan, KNOWN, _APPLY),
)
