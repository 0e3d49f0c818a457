"""`/api/v1/purge` and `/api/v1/jobs`: cleaning that goes on in the background."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from ullage.authorization import Action, Principal
from ullage.cleanup import purge
from ullage.cleanup.guardrails import Caps
from ullage.cleanup.job import jobs
from ullage.cleanup.job.documents import Job, JobItem, JobItems, Jobs
from ullage.documents import Count, Meta, RequestBody, Size
from ullage.oci.errors import JobUnknown, RegistryError, TooManyRequests
from ullage.oci.reference import RepositoryName, parse_repository_name
from ullage.quantities import bytes_of
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import is_id, read_body, require, seen
from ullage.server.http.operations import Operation, page
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import ALL_REPOSITORIES, KNOWN
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

MAX_FILTERS = 100


class CapsRequest(RequestBody, frozen=True):
    """How much may be deleted at most; what is left out is no limit."""

    max_manifests: Count | None = None
    max_bytes: Size | None = None
    # Of one repository's manifests.
    max_percent: Count | None = None

    def caps(self) -> Caps:
        """Raises ValueInvalid."""
        return Caps(self.max_manifests, bytes_of(self.max_bytes), self.max_percent)


class PlanFilterRequest(RequestBody, frozen=True):
    """Which tags and manifests: by name, age and count."""

    # REPOSITORY:TAG, two regular expressions (RE2).
    filters: Annotated[tuple[str, ...], Meta(max_length=MAX_FILTERS)] = ()
    ago: Annotated[str, Meta(title="a text such as 7d")] | None = None
    keep: Count | None = None
    untagged: bool = False
    untagged_only: bool = False
    include_locked: bool = False
    caps: CapsRequest | None = None


class PurgeRequest(PlanFilterRequest, frozen=True):
    """What to purge."""

    dry_run: bool = False
    # Rails that may be run into.
    allow: tuple[str, ...] = ()


async def start_purge(context: Context, request: Request) -> Response:
    """Clean out by name, age and count; the answer is a job."""
    wanted = wanted_purge(await read_body(context, request, PurgeRequest))
    principal = principal_of(request)
    require_some(principal, wanted)
    job = await context.threads.submit(
        purge.start_purge, context.registry, wanted, principal, caller_of(request)
    )
    return json_response(job, status=202, headers={"Location": f"/api/v1/jobs/{job.id}"})


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


def wanted_purge(body: PlanFilterRequest) -> purge.PurgeRequest:
    """What a body asks to be cleaned out. Raises ValueInvalid."""
    more = body if isinstance(body, PurgeRequest) else PurgeRequest()
    return purge.purge_request(
        filters=body.filters,
        ago=body.ago,
        keep=body.keep or 0,
        untagged=body.untagged,
        untagged_only=body.untagged_only,
        include_locked=body.include_locked,
        dry_run=more.dry_run,
        caps=body.caps.caps() if body.caps is not None else Caps(),
        allow=more.allow,
    )


async def list_jobs(context: Context, request: Request) -> Response:
    """The last jobs, newest first."""
    found = await context.threads.submit(jobs.list_jobs, context.registry, principal_of(request))
    return json_response(Jobs(found))


async def get_job(context: Context, request: Request, job_id: str) -> Response:
    """How a job stands; when it is done, what it did."""
    found = await context.threads.submit(
        jobs.get_job, context.registry, _job_id(job_id), principal_of(request)
    )
    return json_response(found)


async def get_job_items(context: Context, request: Request, job_id: str) -> Response:
    """What a job is about, and what became of it, page by page."""
    query = query_of(request)
    n = page_size(query, context.registry.limits.max_page_size)
    last = seen(query.one("last"))
    job_id = _job_id(job_id)
    items: list[JobItem] = await context.threads.submit(
        jobs.get_items, context.registry, job_id, principal_of(request), last, n
    )
    more = next_link(f"/api/v1/jobs/{job_id}/items", n=n, last=items[-1].position) if items else {}
    return json_response(JobItems(items), headers=more if len(items) == n else {})


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


_ALL = "/api/v1/jobs"
_ONE = f"{_ALL}/{{job}}"
_PURGE = Operation(
    {202: Job},
    request=(PurgeRequest,),
    errors=(TooManyRequests,),
    headers=("Location",),
    example={"filters": ["ci/.*:^pr-"], "ago": "7d", "keep": 3, "untagged": True, "dry_run": True},
)
_GET = Operation({200: Job}, errors=(JobUnknown,))
_CANCEL = Operation({202: Job}, errors=(JobUnknown,))
_ITEMS = Operation({200: JobItems}, query=page("1000"), errors=(JobUnknown,), headers=("Link",))
ROUTES = (
    Route("purge", "POST", "/api/v1/purge", start_purge, KNOWN, _PURGE),
    Route("jobs", "GET", _ALL, list_jobs, KNOWN, Operation({200: Jobs})),
    Route("job", "GET", _ONE, get_job, KNOWN, _GET),
    Route("job", "DELETE", _ONE, cancel_job, KNOWN, _CANCEL),
    Route("job-items", "GET", f"{_ONE}/items", get_job_items, KNOWN, _ITEMS),
)
