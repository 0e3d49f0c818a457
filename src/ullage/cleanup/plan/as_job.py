"""Plans that a job carries out: what is too large for one transaction, and what filters chose.

Before anything goes, all of the plan is looked at again. What has changed since it was made stays
and is reported, if the apply allowed that less goes; else nothing goes at all. From then on each
batch looks again at what it takes (job/batch.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from ullage.cleanup.guardrails import RepositoryShare
from ullage.cleanup.job.documents import Findings, PlanJob
from ullage.cleanup.job.planning import AsPlanned, Chosen, Refused
from ullage.cleanup.plan.difference import (
    StoredPlan,
    compared,
    difference_of,
    in_words,
    look_again,
)
from ullage.cleanup.plan.documents import Bytes
from ullage.cleanup.plan.from_filter import forecast_items, items_of, tags_going
from ullage.cleanup.plan.plan import read_plan
from ullage.cleanup.queries import candidates, plans
from ullage.cleanup.queries.jobs import Item, ItemKind, JobRow
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.closure import Why
from ullage.documents import stored
from ullage.oci.errors import PlanUnknown
from ullage.oci.reference import Tag
from ullage.registry.context import Registry


def choose_plan(registry: Registry, job: JobRow, add: Callable[[Item], None]) -> Chosen:
    """Hand over what is left of the plan. Raises Refused with the difference."""
    now, request = registry.now(), stored(job.request, PlanJob)

    def read(tx: Transaction) -> StoredPlan:
        found = plans.find(tx, request.plan, now)
        if found is None:
            # It is kept for as long as a job may be asked about.
            raise PlanUnknown({"plan": request.plan})
        return StoredPlan(read_plan(tx, found))

    plan = registry.snapshot(read)
    look = _look_at_items if plan.chosen else _look_at_manifests
    items, as_planned = registry.snapshot(lambda tx: look(tx, registry, plan))
    difference = as_planned.difference
    if difference and not (request.allow_smaller and difference.smaller):
        raise Refused(Findings(notes=[in_words(difference)], difference=difference))
    for item in items:
        add(item)
    shares = [
        RepositoryShare(
            part.repository,
            part.of_manifests,
            part.manifests,
            part.of_tags,
            part.tags,
            named=True,
        )
        for part in plan.document.repositories
    ]
    return Chosen(shares, list(plan.document.notes or ()), as_planned=as_planned)


_Found = tuple[Sequence[Item], AsPlanned]
# Repository's id and tag -> the manifest that it points to, and since when.
_TagsNow = dict[tuple[int, Tag | None], tuple[int, datetime]]


def _look_at_manifests(tx: Transaction, registry: Registry, plan: StoredPlan) -> _Found:
    """What a person named, one by one."""
    preview = look_again(tx, registry, plan, registry.now(), to_delete=False)
    items: list[Item] = []
    for name, repository_id, closure in preview.closures:
        standing = candidates.standing(tx, closure.going.keys())
        for id_, member in closure.going.items():
            kind: ItemKind = "image" if member.why is Why.ASKED else "along"
            seen_at = standing[id_].updated_at
            items.append(Item(repository_id, name, kind, None, member.row.digest, id_, seen_at))
    tag_count = sum(part.tags_going for part in preview.parts)
    difference = difference_of(plan, preview)
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
    # Never is there more than was chosen.
    difference = compared(
        plan,
        Bytes(freed, later, restorable),
        gone=[(item.repository, item.digest) for item in gone if item.kind != "tag"],
        tags_gone=[(item.repository, item.tag) for item in gone if item.tag is not None],
    )
    return left, AsPlanned(tag_count, freed, later, difference)


def _tags_now(tx: Transaction, items: Sequence[Item]) -> _TagsNow:
    wanted: dict[int, list[Tag]] = {}
    for item in items:
        if item.tag is not None:
            wanted.setdefault(item.repository_id, []).append(item.tag)
    return {
        (repository_id, name): (tag.manifest_id, tag.updated_at)
        for repository_id, names in wanted.items()
        for name, tag in candidates.tags_now(tx, repository_id, names).items()
    }
