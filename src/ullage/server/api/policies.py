"""`/api/v1/policies/…` and `/api/v1/retention/…`: what the registry does by itself."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ullage.authorization import Action
from ullage.cleanup.retention import backtest, policy, run
from ullage.oci.digest import parse_digest
from ullage.oci.errors import PlanInvalid, ValueInvalid
from ullage.oci.reference import parse_tag
from ullage.registry.pull import pull_log
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import flag, only, read_body, require
from ullage.server.http.permissions import KNOWN, POLICY_READ, POLICY_WRITE
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


async def get_pullers(context: Context, request: Request) -> Response:
    """How pullers are told apart, and whose pulls do not count."""
    return json_response(await context.threads.submit(pull_log.get_pullers, context.registry))


async def put_pullers(context: Context, request: Request) -> Response:
    """Set that."""
    body = await read_body(context, request)
    found = await context.threads.submit(
        pull_log.set_pullers, context.registry, body, caller_of(request)
    )
    return json_response(found)


async def get_retention(context: Context, request: Request) -> Response:
    """The retention rules, and when they run."""
    return json_response(await context.threads.submit(policy.get_retention, context.registry))


async def put_retention(context: Context, request: Request) -> Response:
    """Set the rules, in place of all that were."""
    body = await read_body(context, request)
    found = await context.threads.submit(
        policy.set_retention, context.registry, body, caller_of(request)
    )
    return json_response(found)


async def get_untagged(context: Context, request: Request) -> Response:
    """`az acr config retention show` (azure.md section 3.5)."""
    return json_response(await context.threads.submit(policy.get_untagged, context.registry))


async def patch_untagged(context: Context, request: Request) -> Response:
    """`az acr config retention update` (azure.md section 3.3)."""
    body = await read_body(context, request)
    only(body, {"status", "days"})
    status = body.get("status")
    if status is not None and not isinstance(status, str):
        raise ValueInvalid(message="status: expected enabled or disabled")
    found = await context.threads.submit(
        policy.set_untagged,
        context.registry,
        status,
        body.get("days"),
        caller_of(request),
    )
    return json_response(found)


async def start_run(context: Context, request: Request) -> Response:
    """Run the rules now, or say what they would do; the answer is a job."""
    body = await read_body(context, request)
    only(body, {"dry_run"})
    job = await context.threads.submit(
        run.start_run, context.registry, caller_of(request), dry_run=flag(body, "dry_run")
    )
    return json_response(job, status=202, headers={"Location": f"/api/v1/jobs/{job['id']}"})


async def try_rules(context: Context, request: Request) -> Response:
    """What rules would have deleted, and what of it was pulled afterwards."""
    body = await read_body(context, request)
    only(body, {"rules", "since"})
    since = body.get("since", "90d")
    if not isinstance(since, str):
        raise PlanInvalid(message="since: expected a duration such as 90d")
    found = await context.threads.submit(
        backtest.try_rules, context.registry, body.get("rules"), backtest.parse_since(since)
    )
    return json_response(found)


async def explain(context: Context, request: Request) -> Response:
    """Which rule decides about a tag or a manifest, and why it goes or stays."""
    query = query_of(request)
    name, tag, digest = (query.one(each) for each in ("repository", "tag", "digest"))
    if name is None or (tag is None) == (digest is None):
        raise PlanInvalid(message="expected repository, and tag or digest")
    repository = context.name(name)
    reference = parse_digest(digest) if digest is not None else parse_tag(tag or "")
    require(principal_of(request), [repository], Action.METADATA_READ)
    found = await context.threads.submit(
        run.explain_retention, context.registry, repository, reference
    )
    return json_response(found)


_POLICIES = "/api/v1/policies"
ROUTES = (
    Route("pullers", "GET", f"{_POLICIES}/pullers", get_pullers, POLICY_READ),
    Route("pullers", "PUT", f"{_POLICIES}/pullers", put_pullers, POLICY_WRITE),
    Route("retention", "GET", f"{_POLICIES}/retention", get_retention, POLICY_READ),
    Route("retention", "PUT", f"{_POLICIES}/retention", put_retention, POLICY_WRITE),
    Route("untagged", "GET", f"{_POLICIES}/untagged", get_untagged, POLICY_READ),
    Route("untagged", "PATCH", f"{_POLICIES}/untagged", patch_untagged, POLICY_WRITE),
    Route("retention-run", "POST", "/api/v1/retention/runs", start_run, POLICY_WRITE),
    Route("retention-test", "POST", "/api/v1/retention/test", try_rules, POLICY_READ),
    Route("retention-explain", "GET", "/api/v1/retention/explain", explain, KNOWN),
)
