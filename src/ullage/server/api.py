"""`/api/v1/`: what this registry can say beyond the protocol: plans, and the bill.

Repositories are named in the body or the query. Whoever may not read one of them is answered as the
guard answers a path: 401 with the scope to ask for, whether it exists or not.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ullage.oci.digest import parse_digest
from ullage.oci.errors import ManifestTooLarge, PlanInvalid, PlanUnknown, ValueInvalid
from ullage.oci.reference import RepositoryName, parse_tag
from ullage.oci.strict_json import JSONInvalid, JSONValue, loads
from ullage.server.distribution import Face, caller_of, principal_of, query_of
from ullage.server.guard import Challenge
from ullage.server.needs import KNOWN
from ullage.server.routes import Route
from ullage.server.wire import FormTooLarge, json_response, next_link, page_size
from ullage.services import apply, plan, usage, why
from ullage.services.access import Action, Principal
from ullage.services.plan import Caps, parse_size

# A list of 10,000 digests fits.
MAX_BODY_BYTES = 1024 * 1024
MAX_REPOSITORIES = 1000


async def make_plan(face: Face, request: Request) -> Response:
    """What deleting these would take and free; kept under an id for an hour."""
    wanted = _wanted(face, await _body(face, request))
    principal = principal_of(request)
    _require(principal, wanted.names(), Action.METADATA_READ)
    made = await face.threads.submit(
        plan.make_plan, face.registry, wanted, principal, caller_of(request)
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
    body = await _body(face, request)
    _only(body, _APPLY)
    principal = principal_of(request)
    found = await face.threads.submit(plan.get_plan, face.registry, _plan_id(plan_id), principal)
    _require(principal, map(face.name, found.repositories()), Action.DELETE)
    receipt = await face.threads.submit(
        apply.apply_plan,
        face.registry,
        found.id,
        caller_of(request),
        allow_smaller=_flag(body, "allow_smaller"),
        allow=_texts(body, "allow"),
    )
    return json_response(receipt)


def _plan_page(face: Face, request: Request, found: plan.Plan, status: int) -> Response:
    query = query_of(request)
    n = page_size(query, face.registry.limits.max_page_size)
    start = _seen(query.one("last"))
    path = f"/api/v1/plans/{found.id}"
    items = found.items[start : start + n]
    more = start + n < len(found.items) and n > 0
    link = next_link(path, n=n, last=start + n) if more else {}
    location = {"Location": path} if status == 201 else {}
    return json_response(found.document | {"items": items}, status=status, headers=link | location)


def _seen(text: str | None) -> int:
    """How many items the client has seen already."""
    if text is None:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueInvalid({"last": text[:40]}, "last: expected the number of items seen so far")
    return int(text)


def _plan_id(text: str) -> str:
    if len(text) != 32 or not set(text) <= set(string.hexdigits.lower()):
        raise PlanUnknown({"plan": text[:64]})
    return text


def _require(principal: Principal, names: Iterable[RepositoryName], *actions: Action) -> None:
    """Raises Challenge with all that the caller lacks."""
    lacking = [(name, [a for a in actions if not principal.may(a, name)]) for name in names]
    missing = [
        {"Type": "repository", "Name": name, "Action": action}
        for name, those in lacking
        for action in those
    ]
    if missing:
        wanted = ",".join(actions)
        scope = " ".join(f"repository:{name}:{wanted}" for name, those in lacking if those)
        raise Challenge(missing, scope, "insufficient_scope")


# --- the bill -------------------------------------------------------------------------------------


async def get_usage(face: Face, request: Request) -> Response:
    """What there is on the disk and whose it is; or of one repository, its images or tags."""
    query, principal = query_of(request), principal_of(request)
    by, top = query.one("by") or "repository", _top(query.one("top"))
    name = query.one("repository")
    if name is not None:
        repository = face.name(name)
        _require(principal, [repository], Action.METADATA_READ)
        return await _usage_of(face, repository, by, top)
    if by not in ("repository", "namespace"):
        raise ValueInvalid({"by": by[:40]}, "by: without a repository, repository or namespace")
    everything = usage.sees_everything(principal)
    if by == "namespace" and not everything:
        _require(principal, [ALL_REPOSITORIES], Action.METADATA_READ)
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


# --- request bodies -------------------------------------------------------------------------------


async def _body(face: Face, request: Request) -> Mapping[str, JSONValue]:
    """The JSON object that was sent; {} if nothing was. Raises PlanInvalid, FormTooLarge."""
    try:
        async with face.bodies.whole(request, MAX_BODY_BYTES) as raw:
            value = loads(raw) if raw else {}
    except ManifestTooLarge:
        raise FormTooLarge(message=f"the body is longer than {MAX_BODY_BYTES} bytes") from None
    except JSONInvalid as error:
        raise PlanInvalid(message=f"the body is {error}") from None
    if not isinstance(value, dict):
        raise PlanInvalid(message="expected a JSON object")
    return value


_WANTED = {"repository", "digests", "tags", "repositories", "computed", "caps"}
_APPLY = {"allow_smaller", "allow"}
_CAPS = {"max_manifests", "max_bytes", "max_percent"}


def _wanted(face: Face, body: Mapping[str, JSONValue]) -> plan.Wanted:
    _only(body, _WANTED)
    repository = body.get("repository")
    repositories = tuple(map(face.name, _texts(body, "repositories")))
    digests = tuple(map(parse_digest, _texts(body, "digests")))
    tags = tuple(map(parse_tag, _texts(body, "tags")))
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
        caps=_caps(body.get("caps")),
        computed=_flag(body, "computed"),
    )


def _caps(value: JSONValue) -> Caps:
    if value is None:
        return Caps()
    if not isinstance(value, dict):
        raise PlanInvalid(message="caps: expected an object")
    _only(value, _CAPS)
    size = value.get("max_bytes")
    return Caps(
        max_manifests=_number(value, "max_manifests"),
        max_bytes=parse_size(size) if isinstance(size, str) else _number(value, "max_bytes"),
        max_percent=_number(value, "max_percent"),
    )


def _only(body: Mapping[str, Any], known: set[str]) -> None:
    """A misspelt word must not mean "without it" where something is deleted."""
    unknown = sorted(body.keys() - known)
    if unknown:
        raise PlanInvalid({"unknown": unknown[:10]}, f"unknown: {', '.join(unknown[:10])}"[:200])


def _texts(body: Mapping[str, JSONValue], name: str) -> list[str]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise PlanInvalid(message=f"{name}: expected a list of texts")
    return [str(each) for each in value]


def _flag(body: Mapping[str, JSONValue], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise PlanInvalid(message=f"{name}: expected true or false")
    return value


def _number(body: Mapping[str, JSONValue], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PlanInvalid(message=f"{name}: expected a whole number")
    return value


ROUTES = (
    Route("plans", "POST", "/api/v1/plans", make_plan, KNOWN),
    Route("plan", "GET", "/api/v1/plans/{plan}", get_plan, KNOWN),
    Route("apply", "POST", "/api/v1/plans/{plan}/apply", apply_plan, KNOWN),
    Route("usage", "GET", "/api/v1/usage", get_usage, KNOWN),
    Route("why", "GET", "/api/v1/why/{digest}", get_why, KNOWN),
)
