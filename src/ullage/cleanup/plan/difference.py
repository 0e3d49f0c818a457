"""What has changed since a plan was made: the same deletion looked at again, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ullage.cleanup.plan.documents import Bytes, Difference, DifferenceCounts, StoredPlanDocument
from ullage.cleanup.plan.preview import PlanRequest, Preview, preview_of
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.documents import UNSET
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown, NameUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.queries.content.repositories import find_repository, lock_repository
from ullage.registry.queries.references.manifests import tagged

# A difference names this many of each kind; the counts say how many there are.
NAMED_DIFFERENCES = 100


# --- looking again --------------------------------------------------------------------------------


def look_again(
    tx: Transaction,
    registry: Registry,
    plan: StoredPlan,
    now: datetime,
    *,
    to_delete: bool,
) -> Preview:
    """What the same deletion would do now, for the tags that still point where they did.

    `to_delete` locks everything that it is about. Repositories that were deleted, and maybe pushed
    again, since are left out.
    """
    wanted = plan.wanted
    same: list[RepositoryName] = []
    # In the order of their names, as they are in the plan: no two wait for each other.
    for name, generation in zip(
        sorted(set(wanted.names())), plan.document.generations, strict=True
    ):
        find = lock_repository if to_delete else find_repository
        if find(tx, name) == generation:
            same.append(name)
    nothing = Preview([], {}, {}, [], [], [], 0, {}, soft_delete.find_policy(tx), now)
    if wanted.repository is None:
        narrowed = PlanRequest(repositories=tuple(same))
    elif not same:
        return nothing
    else:
        narrowed = _narrowed(tx, plan, wanted)
    try:
        return preview_of(tx, registry, narrowed, now, to_delete=to_delete)
    except (NameUnknown, ManifestUnknown):
        return nothing


def _narrowed(tx: Transaction, plan: StoredPlan, wanted: PlanRequest) -> PlanRequest:
    assert wanted.repository is not None
    repository_id = find_repository(tx, wanted.repository)
    assert repository_id is not None
    now_on = tagged(tx, repository_id, wanted.tags)
    tags = tuple(
        tag
        for tag, digest in sorted(plan.tagged().items())
        if tag in now_on and now_on[tag].digest == digest
    )
    return PlanRequest(repository=wanted.repository, digests=wanted.digests, tags=tags)


# --- the difference -------------------------------------------------------------------------------


def difference_of(plan: StoredPlan, preview: Preview) -> Difference | None:
    """What is not as the plan has it; None if all is. `smaller`: nothing else goes than was to."""
    planned, now = plan.going(), going_of(preview)
    both = sorted(planned.keys() & now.keys())
    return compared(
        plan,
        Bytes(preview.freed_bytes, preview.later_bytes, preview.policy.enabled),
        added=sorted(now.keys() - planned.keys()),
        gone=sorted(planned.keys() - now.keys()),
        tags_added=[(key[0], tag) for key in both for tag in now[key] if tag not in planned[key]],
        tags_gone=[(key[0], tag) for key in both for tag in planned[key] if tag not in now[key]],
    )


Pairs = Sequence[tuple[str, str]]


def compared(
    plan: StoredPlan,
    now: Bytes,
    *,
    gone: Pairs,
    tags_gone: Pairs,
    added: Pairs = (),
    tags_added: Pairs = (),
) -> Difference | None:
    """The difference of a plan and of what would go now; None if there is none."""
    then = plan.bytes
    bytes_then = then.freed_bytes + then.freed_later_bytes
    bytes_now = now.freed_bytes + now.freed_later_bytes
    # A lease that has ended since only brings bytes back sooner. What was to go for a while must
    # not go for good.
    same = bytes_now == bytes_then and now.freed_bytes >= then.freed_bytes
    same = same and now.restorable == then.restorable
    if same and not (added or gone or tags_added or tags_gone):
        return None
    less = bytes_now <= bytes_then and now.restorable >= then.restorable
    return Difference(
        less and not added and not tags_added,
        _named(added, "@"),
        _named(gone, "@"),
        _named(tags_added, ":"),
        _named(tags_gone, ":"),
        DifferenceCounts(len(added), len(gone), len(tags_added), len(tags_gone)),
        then,
        now,
    )


def going_of(preview: Preview) -> dict[tuple[str, str], list[str]]:
    """Each manifest that would go now, with its tags."""
    return {
        (name, member.row.digest): [*preview.tags.get(manifest_id, [])]
        for name, _, closure in preview.closures
        for manifest_id, member in closure.going.items()
    }


def in_words(difference: Difference) -> str:
    """The difference for people, with an example of each kind."""
    counts, then, now = difference.counts, difference.planned, difference.now
    kinds = (
        (difference.added, counts.added, "would go too"),
        (difference.gone, counts.gone, "would not go"),
        (difference.tags_added, counts.tags_added, "is a tag by now"),
        (difference.tags_gone, counts.tags_gone, "is no tag any more"),
    )
    parts = []
    for named, count, words in kinds:
        more = f" and {count - 1} more" if count > 1 else ""
        parts += [f"{named[0]}{more} {words}"] if named else []
    if then.restorable != now.restorable:
        parts.append(f"soft delete is {'on' if now.restorable else 'off'} by now")
    freed, later = now.freed_bytes, now.freed_later_bytes
    if (then.freed_bytes, then.freed_later_bytes) != (freed, later):
        parts.append(
            f"{freed} bytes would be freed instead of {then.freed_bytes}, "
            f"{later} later instead of {then.freed_later_bytes}"
        )
    smaller = "; only less would go, which allow_smaller accepts" if difference.smaller else ""
    return f"the registry has changed since the plan was made: {', '.join(parts)}{smaller}"


def _named(pairs: Pairs, between: str) -> list[str]:
    """Some of these pairs, joined."""
    return [f"{name}{between}{what}" for name, what in pairs[:NAMED_DIFFERENCES]]


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan's document, and what follows from it."""

    document: StoredPlanDocument

    @property
    def id(self) -> str:
        return self.document.id

    @property
    def chosen(self) -> bool:
        """Whether a filter or a search made the list, so that its items are what counts."""
        return self.document.chosen is not UNSET

    @property
    def bytes(self) -> Bytes:
        """What carrying it out was to free."""
        document = self.document
        restorable = document.restorable_until is not None
        return Bytes(document.freed_bytes, document.freed_later_bytes, restorable)

    def large(self, registry: Registry) -> bool:
        """Whether carrying it out in one transaction would keep others waiting."""
        return len(self.document.items) > registry.limits.max_plan_at_once

    @property
    def wanted(self) -> PlanRequest:
        asked = self.document.asked
        return PlanRequest(
            repositories=tuple(map(RepositoryName, asked.repositories or ())),
            repository=RepositoryName(asked.repository) if asked.repository else None,
            digests=tuple(map(Digest, asked.digests or ())),
            tags=tuple(map(Tag, asked.tags or ())),
        )

    def tagged(self) -> dict[Tag, Digest]:
        """What the tags that were asked for pointed to."""
        asked = set(self.document.asked.tags or ())
        found = [(item.digest, item.tags) for item in self.document.items]
        found += [(item.digest, item.tags) for item in self.document.stays]
        return {Tag(tag): Digest(digest) for digest, tags in found for tag in tags if tag in asked}

    def going(self) -> dict[tuple[str, str], Sequence[str]]:
        """Each manifest that goes, with its tags."""
        return {(item.repository, item.digest): item.tags for item in self.document.items}
