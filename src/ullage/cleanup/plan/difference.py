"""What has changed since a plan was made: the same deletion looked at again, and the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ullage.cleanup.plan.preview import PlanRequest, Preview, preview_of
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
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
    sizes: Mapping[str, int],
    *,
    to_delete: bool,
) -> Preview:
    """What the same deletion would do now, for the tags that still point where they did.

    `to_delete` locks everything that it is about. Repositories that were deleted, and maybe pushed
    again, since are left out.
    """
    wanted = plan.wanted
    same: list[RepositoryName] = []
    # In the order of their names, as they are in the plan: nobody waits in a circle.
    for name, generation in zip(
        sorted(set(wanted.names())), plan.document["generations"], strict=True
    ):
        find = lock_repository if to_delete else find_repository
        if find(tx, name) == generation:
            same.append(name)
    nothing = Preview([], {}, {}, [], [], [], [], {}, soft_delete.find_policy(tx), now)
    if wanted.repository is None:
        narrowed = PlanRequest(repositories=tuple(same))
    elif not same:
        return nothing
    else:
        narrowed = _narrowed(tx, plan, wanted)
    try:
        return preview_of(tx, registry, narrowed, now, sizes, to_delete=to_delete)
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


def difference_of(plan: StoredPlan, preview: Preview) -> dict[str, Any]:
    """What is not as it was shown; {} if all is. `smaller`: nothing goes that was not to go."""
    planned, now = plan.going(), going_of(preview)
    added = sorted(now.keys() - planned.keys())
    gone = sorted(planned.keys() - now.keys())
    both = sorted(planned.keys() & now.keys())
    tags_added = [(key[0], tag) for key in both for tag in now[key] if tag not in planned[key]]
    tags_gone = [(key[0], tag) for key in both for tag in planned[key] if tag not in now[key]]
    bytes_then = (plan.document["freed_bytes"], plan.document["freed_later_bytes"])
    bytes_now = (preview.freed_bytes, preview.later_bytes)
    # A lease that has ended since only brings bytes back sooner.
    as_shown = sum(bytes_now) == sum(bytes_then) and bytes_now[0] >= bytes_then[0]
    # What was shown as going for a while must not go for good.
    restorable_then = bool(plan.document.get("restorable_until"))
    as_shown = as_shown and restorable_then == preview.policy.enabled
    if as_shown and not (added or gone or tags_added or tags_gone):
        return {}
    return {
        "smaller": not added
        and not tags_added
        and sum(bytes_now) <= sum(bytes_then)
        and preview.policy.enabled >= restorable_then,
        "added": named(added, "@"),
        "gone": named(gone, "@"),
        "tags_added": named(tags_added, ":"),
        "tags_gone": named(tags_gone, ":"),
        "counts": {
            "added": len(added),
            "gone": len(gone),
            "tags_added": len(tags_added),
            "tags_gone": len(tags_gone),
        },
        "planned": {
            "freed_bytes": bytes_then[0],
            "freed_later_bytes": bytes_then[1],
            "restorable": restorable_then,
        },
        "now": {
            "freed_bytes": bytes_now[0],
            "freed_later_bytes": bytes_now[1],
            "restorable": preview.policy.enabled,
        },
    }


def going_of(preview: Preview) -> dict[tuple[str, str], list[str]]:
    """Each manifest that would go now, with its tags."""
    return {
        (name, member.row.digest): [*preview.tags.get(manifest_id, [])]
        for name, _, closure in preview.closures
        for manifest_id, member in closure.going.items()
    }


def in_words(difference: Mapping[str, Any]) -> str:
    """The difference for people, with an example of each kind."""
    words = {
        "added": "would go too",
        "gone": "would not go",
        "tags_added": "is a tag by now",
        "tags_gone": "is no tag any more",
    }
    parts = []
    for kind, said in words.items():
        named, count = difference[kind], difference["counts"][kind]
        more = f" and {count - 1} more" if count > 1 else ""
        parts += [f"{named[0]}{more} {said}"] if named else []
    then, now = difference["planned"], difference["now"]
    if then["restorable"] != now["restorable"]:
        parts.append(f"soft delete is {'on' if now['restorable'] else 'off'} by now")
    if (then["freed_bytes"], then["freed_later_bytes"]) != (
        now["freed_bytes"],
        now["freed_later_bytes"],
    ):
        parts.append(
            f"{now['freed_bytes']} bytes would be freed instead of {then['freed_bytes']}, "
            f"{now['freed_later_bytes']} later instead of {then['freed_later_bytes']}"
        )
    smaller = "; only less would go, which allow_smaller accepts" if difference["smaller"] else ""
    return f"the registry has changed since the plan was made: {', '.join(parts)}{smaller}"


def named(pairs: Sequence[tuple[str, str]], between: str) -> list[str]:
    """Some of these pairs, joined."""
    return [f"{name}{between}{what}" for name, what in pairs[:NAMED_DIFFERENCES]]


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan's document, read."""

    document: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def chosen(self) -> bool:
        """Whether a filter or a search made the list, so that its items are what counts."""
        return "chosen" in self.document

    def large(self, registry: Registry) -> bool:
        """Whether carrying it out in one transaction would keep others waiting."""
        return len(self.document["items"]) > registry.limits.max_plan_at_once

    @property
    def wanted(self) -> PlanRequest:
        asked = self.document["asked"]
        repository = asked.get("repository")
        return PlanRequest(
            repositories=tuple(map(RepositoryName, asked.get("repositories", ()))),
            repository=RepositoryName(repository) if repository is not None else None,
            digests=tuple(map(Digest, asked.get("digests", ()))),
            tags=tuple(map(Tag, asked.get("tags", ()))),
        )

    def tagged(self) -> dict[Tag, Digest]:
        """What the tags that were asked for pointed to."""
        asked = set(self.document["asked"].get("tags", ()))
        return {
            Tag(tag): Digest(item["digest"])
            for item in (*self.document["items"], *self.document["stays"])
            for tag in item["tags"]
            if tag in asked
        }

    def going(self) -> dict[tuple[str, str], list[str]]:
        """Each manifest that goes, with its tags."""
        return {
            (item["repository"], item["digest"]): item["tags"] for item in self.document["items"]
        }
