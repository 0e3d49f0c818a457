"""`/api/v1/deleted` and the policy of soft delete: deletions that can be taken back."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ullage.authorization import Action
from ullage.deletion import soft_delete
from ullage.oci.errors import OperationUnknown, ValueInvalid
from ullage.oci.strict_json import JSONValue
from ullage.restore import deleted, restore
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import flag, is_id, number, only, read_body, require
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import ALL_REPOSITORIES, KNOWN, POLICY_WRITE
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

_STATES = {"enabled": True, "disabled": False}
PAGE = 100


# --- operations -----------------------------------------------------------------------------------


async def list_operations(context: Context, request: Request) -> Response:
    """Deletions that can be taken back, the last first."""
    query = query_of(request)
    n, last = page_size(query, context.registry.limits.max_page_size, PAGE), query.one("last")
    page = await context.threads.submit(
        deleted.list_operations,
        context.registry,
        principal_of(request),
        n,
        None if last is None else _operation_id(last),
    )
    link = next_link("/api/v1/deleted", n=n, last=page.next) if page.next is not None else {}
    return json_response({"operations": page.items}, headers=link)


async def get_operation(context: Context, request: Request, operation: str) -> Response:
    """What one deletion took, the bytes that it holds, and until when."""
    found = await context.threads.submit(
        deleted.get_operation, context.registry, _operation_id(operation), principal_of(request)
    )
    return json_response(found)


async def restore_operation(context: Context, request: Request, operation: str) -> Response:
    """Take a deletion back."""
    body = await read_body(context, request)
    only(body, {"force"})
    await _require(context, request, operation, Action.DELETED_RESTORE)
    done = await context.threads.submit(
        restore.restore_operation,
        context.registry,
        operation,
        caller_of(request),
        force=flag(body, "force"),
    )
    return json_response(
        {
            "operation": operation,
            "repositories": sorted(done.repositories),
            "manifest_count": done.manifest_count,
            "tag_count": done.tag_count,
            "overwritten": [f"{name}:{tag}" for name, tag in done.overwritten],
            "overwritten_by": done.overwritten_by,
            "missing": [f"{name}:{tag}" for name, tag in done.missing],
        }
    )


async def free_operation(context: Context, request: Request, operation: str) -> Response:
    """Give up what a deletion took: its bytes come back now."""
    await _require(context, request, operation, *deleted.TO_FREE)
    freed = await context.threads.submit(
        deleted.free_operation, context.registry, operation, caller_of(request)
    )
    return json_response(freed, status=202)


async def free_all(context: Context, request: Request) -> Response:
    """The same, of all that the caller may delete for good."""
    principal, name = principal_of(request), query_of(request).one("repository")
    repository = context.name(name) if name is not None else None
    if repository is not None:
        require(principal, [repository], *deleted.TO_FREE)
    elif not any(grant.actions >= set(deleted.TO_FREE) for grant in principal.grants):
        require(principal, [ALL_REPOSITORIES], *deleted.TO_FREE)
    freed = await context.threads.submit(
        deleted.free_all, context.registry, principal, caller_of(request), repository
    )
    return json_response(freed, status=202)


async def _require(context: Context, request: Request, operation: str, *actions: Action) -> None:
    """Raises OperationUnknown to who may not even know of it, else Challenge."""
    principal = principal_of(request)
    lacking = await context.threads.submit(
        deleted.lacking, context.registry, _operation_id(operation), principal, *actions
    )
    require(principal, lacking, *actions)


def _operation_id(text: str) -> str:
    if not is_id(text):
        raise OperationUnknown({"operation": text[:64]})
    return text


# --- the policy -----------------------------------------------------------------------------------


async def get_policy(context: Context, request: Request) -> Response:
    """Whether deletions can be taken back, and for how long."""
    policy = await context.threads.submit(soft_delete.get_policy, context.registry)
    return json_response(soft_delete.shown(policy))


async def set_policy(context: Context, request: Request) -> Response:
    """Change it, for all that is deleted from now on; the days, for what is deleted already."""
    body = await read_body(context, request)
    only(body, {"status", "retentionDays"})
    policy = await context.threads.submit(
        soft_delete.set_policy,
        context.registry,
        caller_of(request),
        enabled=_enabled(body),
        days=number(body, "retentionDays"),
    )
    return json_response(soft_delete.shown(policy))


def _enabled(body: Mapping[str, JSONValue]) -> bool | None:
    status = body.get("status")
    if status is None:
        return None
    if not isinstance(status, str) or status not in _STATES:
        raise ValueInvalid(message="status: expected enabled or disabled")
    return _STATES[status]


ROUTES = (
    Route("deleted", "GET", "/api/v1/deleted", list_operations, KNOWN),
    Route("deleted", "DELETE", "/api/v1/deleted", free_all, KNOWN),
    Route("deleted-operation", "GET", "/api/v1/deleted/{operation}", get_operation, KNOWN),
    Route("deleted-operation", "DELETE", "/api/v1/deleted/{operation}", free_operation, KNOWN),
    Route("restore", "POST", "/api/v1/deleted/{operation}/restore", restore_operation, KNOWN),
    Route("soft-delete", "GET", "/api/v1/policies/soft-delete", get_policy, KNOWN),
    Route("soft-delete", "PATCH", "/api/v1/policies/soft-delete", set_policy, POLICY_WRITE),
)
