"""`/api/v1/deleted` and the policy of soft delete: deletions that can be taken back."""

from __future__ import annotations

from starlette.responses import Response

from ullage.authorization import Action
from ullage.deletion import soft_delete
from ullage.documents import Count, RequestBody, member
from ullage.oci.errors import (
    ManifestUnknown,
    OperationDisallowed,
    OperationUnknown,
    RestoreConflict,
    ValueInvalid,
)
from ullage.restore import deleted, restore
from ullage.restore.documents import (
    Freed,
    Operations,
    Restoration,
    SoftDeletePolicy,
    policy_document,
)
from ullage.restore.documents import Operation as DeletedOperation
from ullage.server.http.context import Context, caller_of, principal_of, query_of
from ullage.server.http.json_bodies import is_id, read_body, require
from ullage.server.http.operations import Operation, Parameter, page
from ullage.server.http.parameters import next_link, page_size
from ullage.server.http.permissions import ALL_REPOSITORIES, KNOWN, POLICY_WRITE
from ullage.server.http.request import Request
from ullage.server.http.responses import json_response
from ullage.server.http.routes import Route

_STATES = {"enabled": True, "disabled": False}
PAGE = 100


class RestoreRequest(RequestBody, frozen=True):
    """How to restore: with `force`, tags that point elsewhere by now make room."""

    force: bool = False


class SoftDeleteRequest(RequestBody, frozen=True):
    """What to change of the policy; what is left out stays."""

    status: str | None = None
    # 1 to 90.
    days: Count | None = member(default=None, name="retentionDays")


# --- operations -----------------------------------------------------------------------------------


async def list_deletions(context: Context, request: Request) -> Response:
    """Deletions that can be taken back, the last first."""
    query = query_of(request)
    n, last = page_size(query, context.registry.limits.max_page_size, PAGE), query.one("last")
    found = await context.threads.submit(
        deleted.list_operations,
        context.registry,
        principal_of(request),
        n,
        None if last is None else _operation_id(last),
    )
    link = next_link("/api/v1/deleted", n=n, last=found.next) if found.next is not None else {}
    return json_response(Operations(found.items), headers=link)


async def get_deletion(context: Context, request: Request, operation: str) -> Response:
    """What one deletion took, the bytes that it keeps, and until when."""
    found = await context.threads.submit(
        deleted.get_operation, context.registry, _operation_id(operation), principal_of(request)
    )
    return json_response(found)


async def restore_deletion(context: Context, request: Request, operation: str) -> Response:
    """Take a deletion back."""
    body = await read_body(context, request, RestoreRequest)
    await _require(context, request, operation, Action.DELETED_RESTORE)
    done = await context.threads.submit(
        restore.restore_operation,
        context.registry,
        operation,
        caller_of(request),
        force=body.force,
    )
    return json_response(
        Restoration(
            operation,
            sorted(done.repositories),
            done.manifest_count,
            done.tag_count,
            [f"{name}:{tag}" for name, tag in done.overwritten],
            done.overwritten_by,
            [f"{name}:{tag}" for name, tag in done.missing],
        )
    )


async def free_deletion(context: Context, request: Request, operation: str) -> Response:
    """Give up what a deletion took: its bytes come back now."""
    await _require(context, request, operation, *deleted.TO_FREE)
    freed = await context.threads.submit(
        deleted.free_operation, context.registry, operation, caller_of(request)
    )
    return json_response(freed, status=202)


async def free_deletions(context: Context, request: Request) -> Response:
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
    """Raises OperationUnknown where the caller may not know of it, else Challenge."""
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


async def get_soft_delete(context: Context, request: Request) -> Response:
    """Whether deletions can be taken back, and for how long."""
    policy = await context.threads.submit(soft_delete.get_policy, context.registry)
    return json_response(policy_document(policy))


async def set_soft_delete(context: Context, request: Request) -> Response:
    """Change it, for all that is deleted from now on; the days, for what is deleted already."""
    body = await read_body(context, request, SoftDeleteRequest, ValueInvalid)
    policy = await context.threads.submit(
        soft_delete.set_policy,
        context.registry,
        caller_of(request),
        enabled=_enabled(body.status),
        days=body.days,
    )
    return json_response(policy_document(policy))


def _enabled(status: str | None) -> bool | None:
    if status is None:
        return None
    if status not in _STATES:
        raise ValueInvalid(message="status: expected enabled or disabled")
    return _STATES[status]


_ALL = "/api/v1/deleted"
_ONE = f"{_ALL}/{{operation}}"
_POLICY = "/api/v1/policies/soft-delete"
_LIST = Operation(
    {200: Operations}, query=page("100"), errors=(OperationUnknown,), headers=("Link",)
)
_FREE_ALL = Operation(
    {202: Freed}, query=(Parameter("repository", "only what was deleted from this one"),)
)
_GET = Operation({200: DeletedOperation}, errors=(OperationUnknown,))
_FREE = Operation({202: Freed}, errors=(OperationUnknown, OperationDisallowed))
_RESTORE = Operation(
    {200: Restoration},
    request=(RestoreRequest,),
    errors=(OperationUnknown, ManifestUnknown, OperationDisallowed, RestoreConflict),
    example={"force": False},
)
_GET_POLICY = Operation({200: SoftDeletePolicy})
_SET_POLICY = Operation(
    {200: SoftDeletePolicy},
    request=(SoftDeleteRequest,),
    example={"status": "enabled", "retentionDays": 14},
)
ROUTES = (
    Route("deleted", "GET", _ALL, list_deletions, KNOWN, _LIST),
    Route("deleted", "DELETE", _ALL, free_deletions, KNOWN, _FREE_ALL),
    Route("deleted-operation", "GET", _ONE, get_deletion, KNOWN, _GET),
    Route("deleted-operation", "DELETE", _ONE, free_deletion, KNOWN, _FREE),
    Route("restore", "POST", f"{_ONE}/restore", restore_deletion, KNOWN, _RESTORE),
    Route("soft-delete", "GET", _POLICY, get_soft_delete, KNOWN, _GET_POLICY),
    Route("soft-delete", "PATCH", _POLICY, set_soft_delete, POLICY_WRITE, _SET_POLICY),
)
