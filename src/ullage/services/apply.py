"""Carrying out a plan: exactly what was shown, or nothing (deletion.md section 4).

The deleting transaction looks again, with the same eyes. What goes must be what was going, on the
same tags, and free the same bytes. `allow_smaller` accepts that some of it is gone or is held by
now, never that anything else would go.

What is too large for one transaction is a job's (plan_jobs.py): the whole is looked at before it
begins, and each part again when it goes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ullage.failpoints import failpoint
from ullage.metadata import content, holding, plans
from ullage.metadata.database import Transaction
from ullage.oci.digest import Digest
from ullage.oci.errors import (
    ManifestUnknown,
    NameUnknown,
    PlanChanged,
    PlanRefused,
    PlanUnknown,
    Unavailable,
)
from ullage.oci.reference import RepositoryName, Tag
from ullage.services import Caller, Registry, softdelete
from ullage.services.delete import take_away, take_repository_away
from ullage.services.jobs import KEPT, queue_job
from ullage.services.outlook import Outlook, Wanted, look, sizes_of_uploads
from ullage.services.plan import receipt_of, unpacked

# A difference names this many of each kind; the counts say how many there are.
NAMED_DIFFERENCES = 100
# The audit log has this many digests of one plan.
AUDITED_DIGESTS = 10_000


def apply_plan(
    registry: Registry,
    plan_id: str,
    caller: Caller,
    *,
    allow_smaller: bool = False,
    allow: Collection[str] = (),
) -> dict[str, Any]:
    """Delete what the plan shows; returns the receipt, the same one to whoever asks again.

    A large plan's receipt names the job that carries it out, with what it has done so far.

    `allow` names rails that may be run into. The caller has looked whether this is anybody who may
    delete. Raises PlanUnknown, PlanRefused with the rails, PlanChanged with the difference.
    """
    now = registry.now()
    stored = registry.read(lambda tx: plans.find(tx, plan_id, now))
    if stored is None:
        raise PlanUnknown({"plan": plan_id})
    plan = Planned(unpacked(stored.document))
    if plan.chosen or (plan.large(registry) and plan.wanted.repository is not None):
        return _start(registry, plan, caller, now, allow_smaller, allow)
    sizes = sizes_of_uploads(registry, plan.wanted.repositories)
    if plan.large(registry):
        return _delete_large_repositories(
            registry, plan, caller, now, sizes, allow_smaller=allow_smaller, allow=allow
        )

    def carry_out(tx: Transaction) -> dict[str, Any]:
        receipt = _receipt(tx, plan, now)
        if receipt is not None:
            return receipt
        _require_allowed(plan.document, allow)
        receipt = _carry_out(tx, registry, plan, caller, now, sizes, allow_smaller)
        plans.mark_applied(tx, plan_id, json.dumps(receipt), now)
        return receipt

    receipt = registry.write(carry_out, freeing=True)
    failpoint("delete.after_row")
    registry.wake()
    return receipt


def _receipt(tx: Transaction, plan: Planned, now: datetime) -> dict[str, Any] | None:
    """What came of the plan if somebody applied it; its row is locked. Raises PlanUnknown."""
    current = plans.find(tx, plan.id, now, lock=True)
    if current is None:
        raise PlanUnknown({"plan": plan.id})
    return receipt_of(tx, current)


def _start(
    registry: Registry,
    plan: Planned,
    caller: Caller,
    now: datetime,
    allow_smaller: bool,
    allow: Collection[str],
) -> dict[str, Any]:
    """Let a job carry the plan out (plan_jobs.py); the receipt has its id."""

    def start(tx: Transaction) -> dict[str, Any]:
        receipt = _receipt(tx, plan, now)
        if receipt is not None:
            return receipt
        _require_allowed(plan.document, allow)
        request = {
            "plan": plan.id,
            "allow_smaller": allow_smaller,
            "include_locked": bool(plan.document["asked"].get("include_locked")),
            "repositories": [
                {"repository": part["repository"]} for part in plan.document["repositories"]
            ],
        }
        job_id = registry.fresh_key()
        queue_job(tx, registry, job_id, "plan", request, caller)
        receipt = {"plan": plan.id, "job": job_id, "by": caller.subject}
        plans.mark_applied(tx, plan.id, json.dumps(receipt), now, expires_at=now + KEPT)
        applied = plans.find(tx, plan.id, now)
        assert applied is not None
        return receipt_of(tx, applied) or receipt

    receipt = registry.write(start, freeing=True)
    registry.wake()
    return receipt


# How often a large repository is looked at again because somebody pushed to it meanwhile.
LOOKS = 3


def _delete_large_repositories(
    registry: Registry,
    plan: Planned,
    caller: Caller,
    now: datetime,
    sizes: Mapping[str, int],
    *,
    allow_smaller: bool,
    allow: Collection[str],
) -> dict[str, Any]:
    """As for small ones, but what takes long is looked at while others push and delete.

    If the repositories are as they were then, marking them deleted is a moment's work; the worker
    takes them apart. Raises Unavailable if they change all the time.
    """

    def look_on(tx: Transaction) -> tuple[Outlook, dict[RepositoryName, holding.Stamp | None]]:
        stamps = {name: holding.stamp(tx, name) for name in plan.wanted.repositories}
        return look_again(tx, registry, plan, now, sizes, to_delete=False), stamps

    def carry_out(
        tx: Transaction, outlook: Outlook, stamps: Mapping[RepositoryName, holding.Stamp | None]
    ) -> dict[str, Any] | None:
        receipt = _receipt(tx, plan, now)
        if receipt is not None:
            return receipt
        for name in sorted(plan.wanted.repositories):
            content.lock_repository(tx, name)
            if holding.stamp(tx, name) != stamps[name]:
                return None
        receipt = _delete(tx, registry, plan, caller, now, outlook, allow_smaller)
        plans.mark_applied(tx, plan.id, json.dumps(receipt), now)
        return receipt

    _require_allowed(plan.document, allow)
    for _ in range(LOOKS):
        outlook, stamps = registry.snapshot(look_on)
        receipt = registry.write(
            lambda tx, seen=(outlook, stamps): carry_out(tx, *seen),  # type: ignore[misc]
            freeing=True,
        )
        if receipt is not None:
            failpoint("delete.after_row")
            registry.wake()
            return receipt
    raise Unavailable(message="these repositories change all the time; try again")


def _require_allowed(document: Mapping[str, Any], allow: Collection[str]) -> None:
    refusing = [
        warning
        for warning in document["warnings"]
        if warning["refuses"] and warning["rail"] not in allow
    ]
    if refusing:
        words = sorted({str(warning["rail"]) for warning in refusing})
        raise PlanRefused(
            {"refused": refusing[:NAMED_DIFFERENCES], "allow": words},
            f"the plan {refusing[0]['message']}; to do so, allow {', '.join(words)}",
        )


# --- what was planned -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
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
    def wanted(self) -> Wanted:
        asked = self.document["asked"]
        repository = asked.get("repository")
        return Wanted(
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


def _going(outlook: Outlook) -> dict[tuple[str, str], list[str]]:
    return {
        (name, member.row.digest): [*outlook.tags.get(manifest_id, [])]
        for name, _, closure in outlook.closures
        for manifest_id, member in closure.going.items()
    }


# --- carrying out ---------------------------------------------------------------------------------


def _carry_out(
    tx: Transaction,
    registry: Registry,
    plan: Planned,
    caller: Caller,
    now: datetime,
    sizes: Mapping[str, int],
    allow_smaller: bool,
) -> dict[str, Any]:
    outlook = look_again(tx, registry, plan, now, sizes, to_delete=True)
    return _delete(tx, registry, plan, caller, now, outlook, allow_smaller)


def _delete(
    tx: Transaction,
    registry: Registry,
    plan: Planned,
    caller: Caller,
    now: datetime,
    outlook: Outlook,
    allow_smaller: bool,
) -> dict[str, Any]:
    difference = difference_of(plan, outlook)
    if difference and not (allow_smaller and difference["smaller"]):
        raise PlanChanged(difference, in_words(difference))
    keeping = None
    if any(closure.going for _, _, closure in outlook.closures):
        plan_id = plan.document["id"]
        keeping = softdelete.begin(tx, outlook.policy, plan_id, "plan.apply", caller, None, now)
    for name, repository_id, closure in outlook.closures:
        if not closure.going:
            continue
        if plan.wanted.repository is None:
            take_repository_away(tx, repository_id, name, now, keeping)
        else:
            rows = closure.rows()
            released = take_away(
                tx, registry, repository_id, rows, outlook.references, now, keeping
            )
            if released.freed_bytes != outlook.freed_bytes:
                # Somebody was promised one of these blobs at this very moment.
                raise PlanChanged({"freed_bytes": [outlook.freed_bytes, released.freed_bytes]})
        failpoint("delete.in_transaction")
        _audit(tx, registry, plan, caller, name, outlook)
    return {
        "plan": plan.document["id"],
        "applied": now.isoformat(),
        "by": caller.subject,
        "freed_bytes": outlook.freed_bytes,
        "freed_later_bytes": outlook.later_bytes,
        "manifest_count": sum(part.manifests_going for part in outlook.parts),
        "tag_count": sum(part.tags_going for part in outlook.parts),
        "operation": keeping.operation_id if keeping else None,
        "restorable_until": keeping.until.isoformat() if keeping else None,
        "difference": difference or None,
    }


def look_again(
    tx: Transaction,
    registry: Registry,
    plan: Planned,
    now: datetime,
    sizes: Mapping[str, int],
    *,
    to_delete: bool,
) -> Outlook:
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
        find = content.lock_repository if to_delete else content.find_repository
        if find(tx, name) == generation:
            same.append(name)
    nothing = Outlook([], {}, {}, [], [], [], [], {}, softdelete.find_policy(tx), now)
    if wanted.repository is None:
        narrowed = Wanted(repositories=tuple(same))
    elif not same:
        return nothing
    else:
        narrowed = _narrowed(tx, plan, wanted)
    try:
        return look(tx, registry, narrowed, now, sizes, to_delete=to_delete)
    except (NameUnknown, ManifestUnknown):
        return nothing


def _narrowed(tx: Transaction, plan: Planned, wanted: Wanted) -> Wanted:
    assert wanted.repository is not None
    repository_id = content.find_repository(tx, wanted.repository)
    assert repository_id is not None
    now_on = holding.tagged(tx, repository_id, wanted.tags)
    tags = tuple(
        tag
        for tag, digest in sorted(plan.tagged().items())
        if tag in now_on and now_on[tag].digest == digest
    )
    return Wanted(repository=wanted.repository, digests=wanted.digests, tags=tags)


def difference_of(plan: Planned, outlook: Outlook) -> dict[str, Any]:
    """What is not as it was shown; {} if all is. `smaller`: nothing goes that was not to go."""
    planned, now = plan.going(), _going(outlook)
    added = sorted(now.keys() - planned.keys())
    gone = sorted(planned.keys() - now.keys())
    both = sorted(planned.keys() & now.keys())
    tags_added = [(key[0], tag) for key in both for tag in now[key] if tag not in planned[key]]
    tags_gone = [(key[0], tag) for key in both for tag in planned[key] if tag not in now[key]]
    bytes_then = (plan.document["freed_bytes"], plan.document["freed_later_bytes"])
    bytes_now = (outlook.freed_bytes, outlook.later_bytes)
    # A lease that has ended since only brings bytes back sooner.
    as_shown = sum(bytes_now) == sum(bytes_then) and bytes_now[0] >= bytes_then[0]
    # What was shown as going for a while must not go for good.
    restorable_then = bool(plan.document.get("restorable_until"))
    as_shown = as_shown and restorable_then == outlook.policy.enabled
    if as_shown and not (added or gone or tags_added or tags_gone):
        return {}
    return {
        "smaller": not added
        and not tags_added
        and sum(bytes_now) <= sum(bytes_then)
        and outlook.policy.enabled >= restorable_then,
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
            "restorable": outlook.policy.enabled,
        },
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


def _audit(
    tx: Transaction,
    registry: Registry,
    plan: Planned,
    caller: Caller,
    name: RepositoryName,
    outlook: Outlook,
) -> None:
    going = [key[1] for key in _going(outlook) if key[0] == name]
    part = next(part for part in outlook.parts if part.repository == name)
    detail: dict[str, Any] = {
        "manifest_count": part.manifests_going,
        "tag_count": part.tags_going,
        "manifests": going[:AUDITED_DIGESTS],
    }
    if len(outlook.closures) == 1:
        detail |= {"freed_bytes": outlook.freed_bytes, "leased_bytes": outlook.later_bytes}
    registry.audit(
        tx, caller, "plan.apply", repository=name, target=plan.document["id"], detail=detail
    )
