"""Cleaning up: so many bytes, by a filter, or by rules; each leads to a plan first."""

from __future__ import annotations

from starlette.responses import Response

from ullage.cleanup.purge import RIGHTS
from ullage.cleanup.retention import policy
from ullage.server.http.permissions import KNOWN, POLICY_READ
from ullage.server.http.routes import Route
from ullage.server.ui.bill import bill_of
from ullage.server.ui.visit import Visit
from ullage.usage.usage import sees_everything


async def show_cleanup(visit: Visit) -> Response:
    """Three ways to free space, and how much there is that no tag leads to (ui.md section 3)."""
    bill = await visit.run(bill_of, visit.registry, visit.principal)
    rules = None
    if sees_everything(visit.principal):
        rules = await visit.run(policy.get_retention, visit.registry)
    lines = sorted(bill.lines, key=lambda line: -line.untagged_bytes)
    return await visit.page(
        "cleanup.html",
        untagged_bytes=sum(line.untagged_bytes for line in lines),
        lines=[line for line in lines[:10] if line.untagged_bytes],
        may_delete=any(grant.actions >= set(RIGHTS) for grant in visit.principal.grants),
        rules=rules,
        may_see_rules=not POLICY_READ.missing(visit.principal, None),
    )


ROUTES = (Route("ui-cleanup", "GET", "/ui/cleanup", show_cleanup, KNOWN),)
