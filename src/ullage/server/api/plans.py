"""`/api/v1/`: what this registry can say beyond the protocol: plans, and the bill.

Repositories are named in the body or the query. Whoever may not read one of them is answered as the
guard answers a path: 401 with the scope to ask for, whether it exists or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ullage.authorization import Action
from ullage.cleanup.plan import apply, plan, suggest
from ullage.cleanup.plan import from_filter as selection
from ullage.cleanup.purge import RIGHTS
from ullage.oci.digest import parse_digest
from ullage.oci.errors import PlanInvalid, PlanUnknown, ValueInvalid
from ullage.oci.reference import RepositoryName, parse_tag
from ullage.oci.strict_json import JSONValue
from ullage.server.api.jobs import FILTERS, require_some, wanted_purge
from ullage.server.http.context import Face, caller_of, principal_of, query_of
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
from ullage.server.http.permissions import KNOWN
from ullage.server.http.responses import json_response, next_link, page_size
from ullage.server.http.routes import Route
from ullage.usage import usage, why

MAX_REPOSITORIES = 1000


async def make_plan(face: Face, request: Request) -> Response:
    """What deleting these would take and free; kept under an id for an hour."""
    body = await read_body(face, request)
    principal = principal_of(request)
    if body.keys() & FILTERS:
        return await _plan_filter(face, request, body)
    wanted = _wanted(face, body)
    require(principal, wanted.names(), Action.METADATA_READ)
    made = await face.threads.submit(
        plan.make_plan, face.registry, wanted, principal, caller_of(request)
    )
    return _plan_page(face, request, made, 201)


async def _plan_filter(face: Face, request: Request, body: Mapping[str, JSONValue]) -> Response:
    """As a purge of the same filter, whose choice it shows."""
    only(body, FILTERS | {"caps"})
    principal = principal_of(request)
    wanted = wanted_purge(body)
    require_some(principal, wanted)
    made = await face.threads.submit(
        selection.plan_filter, face.registry, wanted, principal, caller_of(request)
    )
    return _plan_page(face, request, made, 201)


async def suggest_plan(face: Face, request: Request) -> Response:
    """A plan of the fewest orphans and old images that free so many bytes."""
    body = await read_body(face, request)
    only(body, {"free", "repositories"})
    free = body.get("free")
    wanted = plan.parse_size(free) if isinstance(free, str) else number(body, "free")
    if not wanted:
        raise PlanInvalid(message="free: expected a size such as 50GB")
    names = tuple(map(face.name, texts(body, "repositories")))
    principal = principal_of(request)
    require(principal, names, *RIGHTS)
    if not any(grant.actions >= set(RIGHTS) for grant in principal.grants):
        require(principal, [ALL_REPOSITORIES], *RIGHTS)
    made = await face.threads.submit(
        suggest.suggest, face.registry, wanted, names, principal, caller_of(request)
    )
    return _plan_page(face, request, made, 201)


async def get_plan(face: Face, request: Request, plan_id: str) -> Response:
    """The plan as it was made; its items page by page."""
    found = await face.threads.submit(
        plan.get_plan, face.registry, _plan_id(plan_id), principal_of(request)
    )
    return _plan_page(face, request, found, 200)


async def apply_plan(face: Face, request: Request, plan_id: str) -> Response:
    """Delete what the plan shows, or nothing if that has changed."""
    body = await read_body(face, request)
    only(body, _APPLY)
    principal = principal_of(request)
    found = await face.threads.submit(plan.get_plan, face.registry, _plan_id(plan_id), principal)
    rights = [Action.DELETE]
    if found.document["asked"].get("include_locked"):
        rights.append(Action.METADATA_WRITE)
    require(principal, map(face.name, found.repositories()), *rights)
    receipt = await face.threads.submit(
        apply.apply_plan,
        face.registry,
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


def _plan_page(face: Face, request: Request, found: plan.Plan, status: int) -> Response:
    query = query_of(request)
    n = page_size(query, face.registry.limits.max_page_size)
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


# --- the bill -------------------------------------------------------------------------------------


async def get_usage(face: Face, request: Request) -> Response:
    """What there is on the disk and whose it is; or of one repository, its images or tags."""
    query, principal = query_of(request), principal_of(request)
    by, top = query.one("by") or "repository", _top(query.one("top"))
    name = query.one("repository")
    if name is not None:
        repository = face.name(name)
        require(principal, [repository], Action.METADATA_READ)
        return await _usage_of(face, repository, by, top)
    if by not in ("repository", "namespace"):
        raise ValueInvalid({"by": by[:40]}, "by: without a repository, repository or namespace")
    everything = usage.sees_everything(principal)
    if by == "namespace" and not everything:
        require(principal, [ALL_REPOSITORIES], Action.METADATA_READ)
    if by == "namespace":
        entries = await face.threads.submit(usage.by_namespace, face.registry)
    else:
        entries = await face.threads.submit(usage.by_repository, face.registry, principal)
    answer = _listed(by, [asdict(entry) for entry in entries], top)
    if everything:
        totals = await face.threads.submit(usage.registry_totals, face.registry)
        answer["registry"] = asdict(totals)
        if query.one("check") == "true":
            stored, unexplained = await face.threads.submit(usage.unexplained, face.registry)
            answer["registry"] |= {"store_bytes": stored, "unexplained_bytes": unexplained}
    return json_response(answer)


# What a scope names that covers all of them.
ALL_REPOSITORIES = RepositoryName("*")


async def _usage_of(face: Face, repository: RepositoryName, by: str, top: int | None) -> Response:
    if by not in ("repository", "image", "tag"):
        raise ValueInvalid({"by": by[:40]}, "by: of a repository, repository, image or tag")
    found = await face.threads.submit(usage.of_repository, face.registry, repository)
    if by == "repository":
        return json_response({"repository": found})
    lines = await face.threads.submit(usage.by_image, face.registry, repository, tags=by == "tag")
    return json_response({"repository": found} | _listed(by, lines, top))


def _listed(by: str, lines: list[dict[str, Any]], top: int | None) -> dict[str, Any]:
    shown = lines if top is None else lines[:top]
    return {"by": by, "entries": shown, "omitted": len(lines) - len(shown)}


def _top(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueInvalid({"top": text[:40]}, "top: expected a whole number")
    return int(text)


async def get_why(face: Face, request: Request, reference: str) -> Response:
    """Everything that holds a manifest or blob, or what its bytes wait for."""
    return json_response(
        await face.threads.submit(
            why.explain, face.registry, parse_digest(reference), principal_of(request)
        )
    )


# --- plans in words -----------------------------------------------------------------------------


_WANTED = {"repository", "digests", "tags", "repositories", "computed", "caps"}
_APPLY = {"allow_smaller", "allow"}


def _wanted(face: Face, body: Mapping[str, JSONValue]) -> plan.Wanted:
    only(body, _WANTED)
    repository = body.get("repository")
    repositories = tuple(map(face.name, texts(body, "repositories")))
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
    return plan.Wanted(
        repositories=repositories,
        repository=face.name(repository) if repository is not None else None,
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
    Route("usage", "GET", "/api/v1/usage", get_usage, KNOWN),
    Route("why", "GET", "/api/v1/why/{digest}", get_why, KNOWN),
)
