"""`/api/v1/policies/immutable-tags`: rules for tags that are written once."""

from __future__ import annotations

from starlette.responses import Response

from ullage.oci.errors import LockUnknown, TooManyRequests, ValueInvalid
from ullage.registry.locks import immutable_tags
from ullage.registry.locks.immutable_tags import ImmutableRule, ImmutableRules
from ullage.server.http.context import Context, caller_of, query_of
from ullage.server.http.json_bodies import read_body
from ullage.server.http.operations import Operation, Parameter
from ullage.server.http.permissions import POLICY_READ, POLICY_WRITE
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route


async def list_rules(context: Context, request: Request) -> Response:
    """The rules that make tags immutable."""
    return json_response(await context.threads.submit(immutable_tags.list_rules, context.registry))


async def set_rule(context: Context, request: Request) -> Response:
    """Make tags immutable by a rule, in place of the rule with the same pattern."""
    rule = await read_body(context, request, ImmutableRule, ValueInvalid)
    found = await context.threads.submit(
        immutable_tags.set_rule, context.registry, rule, caller_of(request)
    )
    return json_response(found)


async def remove_rule(context: Context, request: Request) -> Response:
    """Remove the rule with this pattern."""
    pattern = query_of(request).one("pattern") or ""
    found = await context.threads.submit(
        immutable_tags.remove_rule, context.registry, pattern, caller_of(request)
    )
    return json_response(found)


_PATH = "/api/v1/policies/immutable-tags"
_LIST = Operation({200: ImmutableRules})
_SET = Operation(
    {200: ImmutableRule},
    request=(ImmutableRule,),
    errors=(TooManyRequests,),
    example={"pattern": "release/*:v*", "except": ["v*-rc*"]},
)
_REMOVE = Operation(
    {200: ImmutableRule},
    query=(
        Parameter("pattern", "the rule's pattern, as it was set", required=True, example="app:v*"),
    ),
    errors=(LockUnknown,),
)
ROUTES = (
    Route("immutable-tags", "GET", _PATH, list_rules, POLICY_READ, _LIST),
    Route("immutable-tags", "POST", _PATH, set_rule, POLICY_WRITE, _SET),
    Route("immutable-tags", "DELETE", _PATH, remove_rule, POLICY_WRITE, _REMOVE),
)
