"""`/api/v1/policies/…` and `/api/v1/retention/…`: what the registry does by itself."""

from __future__ import annotations

from typing import Annotated, Any

from starlette.responses import Response

from ullage.authorization import Action
from ullage.cleanup.job.documents import Job
from ullage.cleanup.retention import backtest, explain, policy, run
from ullage.cleanup.retention.documents import (
    BacktestReport,
    Explanation,
    RetentionDocument,
    RetentionRequest,
    RuleDocument,
    UntaggedPolicy,
)
from ullage.documents import Duration, Meta, RequestBody
from ullage.oci.digest import parse_digest
from ullage.oci.errors import (
    ManifestUnknown,
    NameUnknown,
    PlanInvalid,
    TooManyRequests,
    ValueInvalid,
)
from ullage.oci.reference import parse_tag
from ullage.registry.pull import pull_log
from ullage.registry.pull.user_agents import PullersDocument, PullersRequest
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import read_body, require
from ullage.server.http.operations import Operation, Parameter
from ullage.server.http.permissions import KNOWN, POLICY_READ, POLICY_WRITE
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

_DAYS = {"type": ["integer", "null"], "minimum": 0, "maximum": 365}


class UntaggedRequest(RequestBody, frozen=True):
    """What to change of Azure's policy; what is left out stays."""

    status: str | None = None
    # Read by the policy, which refuses in az's words.
    days: Annotated[Any, Meta(extra_json_schema=_DAYS)] = None


class RunRequest(RequestBody, frozen=True):
    """With `dry_run` the rules choose, and delete nothing."""

    dry_run: bool = False


class BacktestRequest(RequestBody, frozen=True):
    """Rules to try out, those that are set without any, and how far to go back."""

    rules: tuple[RuleDocument, ...] | None = None
    since: Duration = "90d"


async def get_pullers(context: Context, request: Request) -> Response:
    """Classes of pullers, and those whose pulls do not count."""
    return json_response(await context.threads.submit(pull_log.get_pullers, context.registry))


async def put_pullers(context: Context, request: Request) -> Response:
    """Set the classes of pullers, in place of what they were."""
    body = await read_body(context, request, PullersRequest, ValueInvalid)
    found = await context.threads.submit(
        pull_log.set_pullers, context.registry, body, caller_of(request)
    )
    return json_response(found)


async def get_retention(context: Context, request: Request) -> Response:
    """The retention rules, and when they run."""
    return json_response(await context.threads.submit(policy.get_retention, context.registry))


async def put_retention(context: Context, request: Request) -> Response:
    """Set the rules, in place of all that were."""
    body = await read_body(context, request, RetentionRequest, ValueInvalid)
    found = await context.threads.submit(
        policy.set_retention, context.registry, body, caller_of(request)
    )
    return json_response(found)


async def get_untagged(context: Context, request: Request) -> Response:
    """`az acr config retention show` (azure.md section 3.5)."""
    return json_response(await context.threads.submit(policy.get_untagged, context.registry))


async def patch_untagged(context: Context, request: Request) -> Response:
    """`az acr config retention update` (azure.md section 3.3)."""
    body = await read_body(context, request, UntaggedRequest, ValueInvalid)
    found = await context.threads.submit(
        policy.set_untagged, context.registry, body.status, body.days, caller_of(request)
    )
    return json_response(found)


async def run_retention(context: Context, request: Request) -> Response:
    """Run the rules now, or say what they would do; the answer is a job."""
    body = await read_body(context, request, RunRequest, ValueInvalid)
    job = await context.threads.submit(
        run.start_run, context.registry, caller_of(request), dry_run=body.dry_run
    )
    return json_response(job, status=202, headers={"Location": f"/api/v1/jobs/{job.id}"})


async def try_rules(context: Context, request: Request) -> Response:
    """What rules would have deleted, and what of it was pulled afterwards."""
    body = await read_body(context, request, BacktestRequest, ValueInvalid)
    found = await context.threads.submit(
        backtest.try_rules, context.registry, body.rules, backtest.parse_since(body.since)
    )
    return json_response(found)


async def explain_retention(context: Context, request: Request) -> Response:
    """Which rule decides about a tag or a manifest, and why it goes or stays."""
    query = query_of(request)
    name, tag, digest = (query.one(each) for each in ("repository", "tag", "digest"))
    if name is None or (tag is None) == (digest is None):
        raise PlanInvalid(message="expected repository, and tag or digest")
    repository = context.name(name)
    reference = parse_digest(digest) if digest is not None else parse_tag(tag or "")
    require(principal_of(request), [repository], Action.METADATA_READ)
    found = await context.threads.submit(
        explain.explain_retention, context.registry, repository, reference
    )
    return json_response(found)


_POLICIES = "/api/v1/policies"
_RULES = "/api/v1/retention"
_GET_PULLERS = Operation({200: PullersDocument})
_PUT_PULLERS = Operation(
    {200: PullersDocument},
    request=(PullersRequest,),
    example={
        "patterns": [{"agent": "^our-mirror/", "class": "replication"}],
        "ignored": ["scanner", "tool"],
    },
)
_GET_RULES = Operation({200: RetentionDocument})
_PUT_RULES = Operation(
    {200: RetentionDocument},
    request=(RetentionRequest,),
    example={
        "enabled": True,
        "every": "24h",
        "rules": [{"name": "orphans", "untagged": True, "older_than": "7d"}],
    },
)
_GET_UNTAGGED = Operation({200: UntaggedPolicy})
_PATCH = Operation(
    {200: UntaggedPolicy},
    request=(UntaggedRequest,),
    example={"status": "enabled", "days": 7},
)
_RUN = Operation(
    {202: Job},
    request=(RunRequest,),
    errors=(TooManyRequests,),
    headers=("Location",),
    example={"dry_run": True},
)
_TEST = Operation({200: BacktestReport}, request=(BacktestRequest,), example={"since": "90d"})
_EXPLAIN = Operation(
    {200: Explanation},
    query=(
        Parameter("repository", "the repository", required=True, example="app"),
        Parameter("tag", "a tag of it; this, or digest", example="v1"),
        Parameter("digest", "a manifest of it"),
    ),
    errors=(NameUnknown, ManifestUnknown),
)
ROUTES = (
    Route("pullers", "GET", f"{_POLICIES}/pullers", get_pullers, POLICY_READ, _GET_PULLERS),
    Route("pullers", "PUT", f"{_POLICIES}/pullers", put_pullers, POLICY_WRITE, _PUT_PULLERS),
    Route("retention", "GET", f"{_POLICIES}/retention", get_retention, POLICY_READ, _GET_RULES),
    Route("retention", "PUT", f"{_POLICIES}/retention", put_retention, POLICY_WRITE, _PUT_RULES),
    Route("untagged", "GET", f"{_POLICIES}/untagged", get_untagged, POLICY_READ, _GET_UNTAGGED),
    Route("untagged", "PATCH", f"{_POLICIES}/untagged", patch_untagged, POLICY_WRITE, _PATCH),
    Route("retention-run", "POST", f"{_RULES}/runs", run_retention, POLICY_WRITE, _RUN),
    Route("retention-test", "POST", f"{_RULES}/test", try_rules, POLICY_READ, _TEST),
    Route("retention-explain", "GET", f"{_RULES}/explain", explain_retention, KNOWN, _EXPLAIN),
)
