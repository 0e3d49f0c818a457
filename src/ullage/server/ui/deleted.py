"""What was deleted and can be taken back, for how long, and what freeing it now would give."""

from __future__ import annotations

from starlette.responses import Response

from ullage.authorization import Action
from ullage.deletion import soft_delete
from ullage.oci.errors import OperationUnknown, RestoreConflict
from ullage.restore import deleted, restore
from ullage.restore.documents import Operation
from ullage.server.http.errors import status_of
from ullage.server.http.json_bodies import is_id, require
from ullage.server.http.permissions import KNOWN
from ullage.server.http.routes import Route
from ullage.server.ui.formats import address
from ullage.server.ui.visit import Visit

PAGE = 50


async def list_deletions(visit: Visit) -> Response:
    """Deletions that can be taken back, the last first."""
    query = visit.query
    last = query.one("last")
    page = await visit.run(
        deleted.list_operations,
        *(visit.registry, visit.principal, PAGE, _checked(last) if last else None),
    )
    policy = await visit.run(soft_delete.get_policy, visit.registry)
    return await visit.page(
        "deleted.html",
        operations=page.items,
        next=f"?last={page.next}" if page.next is not None else None,
        policy=policy,
        restored=query.one("restored"),
        freed=query.one("freed"),
    )


async def show_deletion(visit: Visit, operation: str) -> Response:
    """What one deletion took, the bytes that it keeps, and until when."""
    found = await visit.run(
        deleted.get_operation, visit.registry, _checked(operation), visit.principal
    )
    return await _page(visit, found)


async def restore_deletion(visit: Visit, operation: str) -> Response:
    """Take a deletion back; where tags point elsewhere by now, say so and ask."""
    form = await visit.form()
    await _require(visit, operation, Action.DELETED_RESTORE)
    force = form.one("force") == "1"
    try:
        done = await visit.run(
            restore.restore_operation, visit.registry, operation, visit.caller, force=force
        )
    except RestoreConflict as error:
        found = await visit.run(deleted.get_operation, visit.registry, operation, visit.principal)
        return await _page(visit, found, error)
    return visit.redirect(f"deleted?restored={done.manifest_count}")


async def free_deletion(visit: Visit, operation: str) -> Response:
    """Give up what a deletion took: its bytes come back now."""
    await visit.form()
    await _require(visit, operation, *deleted.TO_FREE)
    freed = await visit.run(deleted.free_operation, visit.registry, operation, visit.caller)
    return visit.redirect(f"deleted?freed={freed.freed_bytes}")


async def _require(visit: Visit, operation: str, *actions: Action) -> None:
    """Raises OperationUnknown where the visitor may not know of it, else Challenge."""
    lacking = await visit.run(
        deleted.lacking, visit.registry, _checked(operation), visit.principal, *actions
    )
    require(visit.principal, lacking, *actions)


def _checked(operation: str) -> str:
    if not is_id(operation):
        raise OperationUnknown({"operation": operation[:64]})
    return operation


async def _page(visit: Visit, found: Operation, problem: RestoreConflict | None = None) -> Response:
    names = [part.repository for part in found.repositories]
    return await visit.page(
        "deletion.html",
        200 if problem is None else status_of(problem),
        operation=found,
        problem=problem,
        paths={name: f"repositories/{address(name)}" for name in names},
        may_restore=visit.may_all(names, Action.DELETED_RESTORE),
        may_free=visit.may_all(names, *deleted.TO_FREE),
    )


_ONE = "/ui/deleted/{operation}"
ROUTES = (
    Route("ui-deleted", "GET", "/ui/deleted", list_deletions, KNOWN),
    Route("ui-deletion", "GET", _ONE, show_deletion, KNOWN),
    Route("ui-restore", "POST", f"{_ONE}/restore", restore_deletion, KNOWN),
    Route("ui-free", "POST", f"{_ONE}/free", free_deletion, KNOWN),
)
