"""The bill as it is shown: counted now where that is quick, else as it was taken last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ullage.authorization import Principal
from ullage.documents import UNSET, UnsetType, changed
from ullage.registry.context import Registry
from ullage.usage.overview import find_overview, is_small
from ullage.usage.usage import (
    Line,
    Totals,
    Usage,
    by_namespace,
    by_repository,
    may_see,
    registry_totals,
    room_of,
    sees_everything,
)


def bill(registry: Registry, principal: Principal, by: str, top: int | None) -> Usage:
    """The `top` lines of what the caller may read, and the sums for one that may read everything.

    `by` is "repository" or "namespace"; the latter is for callers that see everything. Of a large
    registry it costs what is shown, for a caller that may not read everything what there is to
    choose from; exact at `as_of`.
    """
    everything = sees_everything(principal)
    # A caller that may read a part has its lines chosen from all.
    first = top if everything else None
    found = None if is_small(registry) else find_overview(registry, by, first)
    if found is None:
        totals: Totals | UnsetType = registry_totals(registry) if everything else UNSET
        entries = (
            by_namespace(registry) if by == "namespace" else by_repository(registry, principal)
        )
        return Usage(registry=totals, **listed(by, entries, top))
    as_of, head = found.as_of.isoformat(), found.head
    if not everything:
        visible = [entry for entry in found.lines if may_see(principal, entry)]
        return Usage(as_of=as_of, **listed(by, visible, top))
    omitted = head.lines[by] - len(found.lines)
    # What is free is of this moment, whenever the rest was counted.
    room = room_of(registry)
    sums = changed(head.registry, capacity_bytes=room.capacity, free_bytes=room.free)
    return Usage(as_of=as_of, by=by, entries=found.lines, omitted=omitted, registry=sums)


def listed(by: str, entries: Sequence[Line], top: int | None) -> dict[str, Any]:
    """The first `top` lines, and how many there are more, as members of Usage."""
    first = entries if top is None else entries[:top]
    return {"by": by, "entries": first, "omitted": len(entries) - len(first)}
