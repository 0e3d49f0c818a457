"""`/api/v1/purge` and `/api/v1/jobs`: cleaning that goes on in the background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ullage.authorization import Action, Principal
from ullage.cleanup import purge
from ullage.cleanup.job import jobs
from ullage.oci.errors import JobUnknown, PlanInvalid, RegistryError
from ullage.oci.reference import RepositoryName, parse_repository_name
from ullage.oci.strict_json import JSONValue
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

# What says which tags and manifests: of a purge, or of a plan.
FILTERS = {"filters", "ago", "keep", "untagged", "untagged_only", "include_locked"}
_PURGE = FILTERS | {"dry_run", "caps", "allow"}
MAX_FILTERS = 100


async def start_purge(context: Context, request: Request) -> Response:
    """Clean out by name, age and count; the answer is a job."""
    body = await read_body(context, request)
    only(body, _PURGE)
    wanted = wanted_purge(body)
    principal = principal_of(request)
    require_some(principal, wanted)
    job = await context.threads.submit(
        purge.start_purge, context.registry, wanted, principal, caller_of(request)
    )
    return json_response(job, status=202, headers={"Location": f"/api/v1/jobs/{job['id']}"})


def require_some(principal: Principal, wanted: purge.PurgeRequest) -> None:
    """Raises Challenge unless the caller may purge what is named, and something at all."""
    named = [name for each in wanted.purge.filters if (name := _name(each.repository))]
    require(principal, named, *wanted.rights)
    if not any(grant.actions >= set(wanted.rights) for grant in principal.grants):
        require(principal, [ALL_REPOSITORIES], *wanted.rights)


def _name(expression: str) -> RepositoryName | None:
    """The repository that an expression names literally; its dots may stand for anything else."""
    try:
        return parse_repository_name(expression)
    except RegistryError:
        return None


def wanted_purge(body: Mapping[str, JSONValue]) -> purge.PurgeRequest:
    """What a body asks to be cleaned out."""
    filters = texts(body, "filters")
    if len(filters) > MAX_FILTERS:
        raise PlanInvalid(message=f"more than {MAX_FILTERS} filters")
    ago = body.get("ago")
    if ago is not None and not isinstance(ago, str):
        raise PlanInvalid(message="ago: expected a text such as 7d")
    return purge.purge_request(
        filters=filters,
        ago=ago,
        keep=number(body, "keep") or 0,
        untagged=flag(body, "untagged"),
        untagged_only=flag(body, "untagged_only"),
        include_locked=flag(body, "include_locked"),
        dry_run=flag(body, "dry_run"),
        caps=caps(body.get("caps")),
        allow=texts(body, "allow"),
    )


async def list_jobs(context: Context, request: Request) -> Response:
    """The last jobs, newest first."""
    found = await context.threads.submit(jobs.list_jobs, context.registry, principal_of(request))
    return json_response({"jobs": found})


async def get_job(context: Context, request: Request, job_id: str) -> Response:
    """How a job stands; when it is done, what it did."""
    found = await context.threads.submit(
        jobs.get_job, context.registry, _job_id(job_id), principal_of(request)
    )
    return json_response(found)


async def get_items(context: Context, request: Request, job_id: str) -> Response:
    """What a job is about, and what became of it, page by page."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size)
    last = seen(query.one("last"))
    job_id = _job_id(job_id)
    items: list[dict[str, Any]] = await context.threads.submit(
        jobs.get_items, context.registry, job_id, principal_of(request), last, n
    )
    more = (
        next_link(f"/api/v1/jobs/{job_id}/items", n=n, last=items[-1]["position"]) if items else {}
    )
    return json_response({"items": items}, headers=more if len(items) == n else {})


async def cancel_job(context: Context, request: Request, job_id: str) -> Response:
    """Let a job do nothing more."""
    principal, job_id = principal_of(request), _job_id(job_id)
    lacking = await context.threads.submit(
        jobs.lacking_to_cancel, context.registry, job_id, principal
    )
    require(principal, map(context.name, lacking), Action.DELETE)
    found = await context.threads.submit(
        jobs.cancel_job, context.registry, job_id, principal, caller_of(request)
    )
    return json_response(found, status=202)


def _job_id(text: str) -> str:
    if not is_id(text):
        raise JobUnknown({"job": text[:64]})
    return text


ROUTES = (
    Route("purge", "POST", "/api/v1/purge", start_purge, KNOWN),
    Route("jobs", "GET", "/api/v1/jobs", list_jobs, KNOWN),
    Route("job", "GET", "/api/v1/jobs/{job}", get_job, KNOWN),
    Route("job", "DELETE", "/api/v1/jobs/{job}", cancel_job, KNOWN),
    Route("job-items", "GET", "/api/v1/jobs/{job}/items", get_items, KNOWN),
)
