"""Plans that a job carries out: what is too large for one transaction, and what filters chose.

Before anything goes, all of the plan is looked at again. What has changed since it was made stays
and is told, if whoever applied the plan allowed that less goes; else nothing goes at all. From then
on each batch looks again at what it takes (cleaning.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ullage.cleanup.guardrails import RepositoryShare
from ullage.cleanup.job.planning import AsPlanned, Chosen, Refused
from ullage.cleanup.plan.difference import StoredPlan, difference_of, in_words, look_again, named
from ullage.cleanup.plan.from_filter import forecast_items, items_of, tags_going
from ullage.cleanup.plan.plan import unpacked
from ullage.cleanup.queries import candidates, plans
from ullage.cleanup.queries.jobs import Item, ItemKind, JobRow
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.closure import Why
from ullage.oci.errors import PlanUnknown
from ullage.oci.reference import Tag
from ullage.registry.context import Registry


def choose_plan(registry: Registry, job: JobRow, add: Callable[[Item], None]) -> Chosen:
    """Hand over what is left of the plan. Raises Refused with the difference."""
    now = registry.now()
    stored = registry.read(lambda tx: plans.find(tx, job.request["plan"], now))
    if stored is None:
        # It is kept for as long as a job may be asked about.
        raise PlanUnknown({"plan": job.request["plan"]})
    plan = StoredPlan(unpacked(stored.document))
    look = _look_at_items if plan.chosen else _look_at_manifests
    items, as_planned = registry.snapshot(lambda tx: look(tx, registry, plan))
    difference = as_planned.difference
    if difference and not (job.request["allow_smaller"] and difference["smaller"]):
        raise Refused({"notes": [in_words(difference)], "difference": difference})
    for item in items:
        add(item)
    parts = plan.document["repositories"]
    return Chosen(
        [
            RepositoryShare(
                part["repository"],
                named=True,
                tags=part["of_tags"],
                tags_going=part["tags"],
                manifests=part["of_manifests"],
                manifests_going=part["manifests"],
            )
            for part in parts
        ],
        list(plan.document.get("notes", ())),
        as_planned=as_planned,
    )


_Found = tuple[Sequence[Item], AsPlanned]


def _look_at_manifests(tx: Transaction, registry: Registry, plan: StoredPlan) -> _Found:
    """What somebody named, one by one."""
    preview = look_again(tx, registry, plan, registry.now(), {}, to_delete=False)
    items: list[Item] = []
    for name, repository_id, closure in preview.closures:
        standing = candidates.standing(tx, closure.going.keys())
        for id_, member in closure.going.items():
            kind: ItemKind = "image" if member.why is Why.ASKED else "along"
            seen_at = standing[id_].updated_at
            items.append(Item(repository_id, name, kind, None, member.row.digest, id_, seen_at))
    tag_count = sum(part.tags_going for part in preview.parts)
    difference = difference_of(plan, preview) or None
    return items, AsPlanned(tag_count, preview.freed_bytes, preview.later_bytes, difference)


def _look_at_items(tx: Transaction, registry: Registry, plan: StoredPlan) -> _Found:
    """What a filter or a search has chosen: of it, what is as it was."""
    items = items_of(plan.document)
    standing = candidates.standing(tx, {item.manifest_id for item in items})
    tags = _tags_now(tx, items)
    left: list[Item] = []
    gone: list[Item] = []
    for item in items:
        if item.kind == "tag":
            now = tags.get((item.repository_id, item.tag))
            same = now == (item.manifest_id, item.seen_at)
        else:
            current = standing.get(item.manifest_id)
            same = current is not None and current.updated_at == item.seen_at
        (left if same else gone).append(item)
    found = forecast_items(tx, registry, left)
    freed, later = found.freed_bytes, found.later_bytes
    tag_count = sum(item.kind == "tag" for item in left)
    tag_count += sum(map(len, tags_going(tx, left).values()))
    restorable = soft_delete.find_policy(tx).enabled
    difference = _difference(plan.document, gone, freed, later, restorable)
    return left, AsPlanned(tag_count, freed, later, difference)


def _tags_now(tx: Transaction, items: Sequence[Item]) -> dict[tuple[int, Tag | None], Any]:
    wanted: dict[int, list[Tag]] = {}
    for item in items:
        if item.tag is not None:
            wanted.setdefault(item.repository_id, []).append(item.tag)
    return {
        (repository_id, name): (tag.manifest_id, tag.updated_at)
        for repository_id, names in wanted.items()
        for name, tag in candidates.tags_now(tx, repository_id, names).items()
    }


def _difference(
    document: dict[str, Any], gone: Sequence[Item], freed: int, later: int, restorable: bool
) -> dict[str, Any] | None:
    """As plan_difference.difference_of: never is there more than was chosen."""
    then = (document["freed_bytes"], document["freed_later_bytes"])
    restorable_then = bool(document.get("restorable_until"))
    same = freed + later == sum(then) and freed >= then[0] and restorable == restorable_then
    if not gone and same:
        return None
    manifests = [(item.repository, item.digest) for item in gone if item.kind != "tag"]
    tags = [(item.repository, item.tag) for item in gone if item.tag is not None]
    return {
        "smaller": freed + later <= sum(then) and restorable >= restorable_then,
        "added": [],
        "gone": named(manifests, "@"),
        "tags_added": [],
        "tags_gone": named(tags, ":"),
        "counts": {
            "added": 0,
            "gone": len(manifests),
            "tags_added": 0,
            "tags_gone": len(tags),
        },
        "planned": {
            "freed_bytes": then[0],
            "freed_later_bytes": then[1],
            "restorable": restorable_then,
        },
        "now": {"freed_bytes": freed, "freed_later_bytes": later, "restorable": restorable},
    }
