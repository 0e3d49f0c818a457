"""Plans: what a deletion would take and free, to the byte, before anybody does it.

A plan is made by the code that deletes (closure.py decides what goes along, forecast.py which bytes
come back) and kept for an hour under an id. Carrying it out looks again in the deleting
transaction: what differs from what was shown is refused, with the difference.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from ullage.authorization import Action, Principal
from ullage.cleanup.guardrails import Caps, RepositoryShare, Warning, guardrails
from ullage.cleanup.plan.preview import PlanRequest, Preview, preview_of, sizes_of_uploads
from ullage.cleanup.queries import jobs, plans
from ullage.cleanup.queries.plans import StoredPlan
from ullage.database.transaction import Transaction
from ullage.deletion.closure import KeptBy, Why
from ullage.deletion.forecast import Fate, Outcome, total
from ullage.oci.digest import Digest
from ullage.oci.errors import PlanUnknown, TooManyRequests
from ullage.oci.reference import RepositoryName
from ullage.quantities import parse_size
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import write_pulls
from ullage.registry.queries.references.blobs import refers_more_often, some_repositories_with

__all__ = ["Caps", "Plan", "PlanRequest", "get_plan", "make_plan", "parse_size"]

PLAN_LIFETIME = timedelta(hours=1)
MAX_PLANS = 10_000
# The largest blobs of each fate that a plan names; their sums count all of them.
NAMED_BLOBS = 100
NAMED_HOLDERS = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What was shown to whoever asked; `document` is JSON, without what only some may read."""

    id: str
    document: dict[str, Any]
    items: tuple[dict[str, Any], ...]

    def repositories(self) -> tuple[str, ...]:
        """Every repository the plan is about."""
        return tuple(part["repository"] for part in self.document["repositories"])


# --- making ---------------------------------------------------------------------------------------


def make_plan(
    registry: Registry, wanted: PlanRequest, principal: Principal, caller: Caller
) -> Plan:
    """Say what deleting `wanted` would do, and remember it for an hour.

    What is missing of several digests and tags is listed as absent; raises NameUnknown, or
    ManifestUnknown if nothing that was asked for exists.
    """
    now = registry.now()
    write_pulls(registry)
    sizes = sizes_of_uploads(registry, wanted.repositories)
    document = registry.snapshot(
        lambda tx: _document(tx, registry, wanted, preview_of(tx, registry, wanted, now, sizes))
    )
    return keep_plan(registry, document, principal, caller)


def keep_plan(
    registry: Registry, document: dict[str, Any], principal: Principal, caller: Caller
) -> Plan:
    """Remember a plan for an hour under a new id."""
    now = registry.now()
    plan_id = registry.fresh_key()
    expires_at = now + PLAN_LIFETIME
    document |= {"id": plan_id, "created": now.isoformat(), "expires": expires_at.isoformat()}

    def keep(tx: Transaction) -> None:
        if plans.count(tx) >= MAX_PLANS:
            raise TooManyRequests(message="too many plans; they are forgotten after an hour")
        plans.insert(tx, StoredPlan(plan_id, caller.subject, now, expires_at, _packed(document)))

    # A plan is how a full registry gets room again.
    registry.write(keep, freeing=True)
    return _shown(plan_id, document, principal)


def get_plan(registry: Registry, plan_id: str, principal: Principal) -> Plan:
    """The plan as it was made, with its receipt if it was carried out.

    Raises PlanUnknown, also if the caller may not see one of its repositories.
    """
    now = registry.now()
    stored = registry.read(lambda tx: plans.find(tx, plan_id, now))
    if stored is None:
        raise PlanUnknown({"plan": plan_id})
    plan = _shown(plan_id, unpacked(stored.document), principal)
    if not all(principal.may(Action.METADATA_READ, name) for name in plan.repositories()):
        raise PlanUnknown({"plan": plan_id})
    receipt = registry.read(lambda tx: receipt_of(tx, stored))
    if receipt is not None:
        plan.document["receipt"] = receipt
    return plan


def receipt_of(tx: Transaction, plan: StoredPlan) -> dict[str, Any] | None:
    """What came of a plan, or has come of it so far; None if it is still to be carried out.

    A job that was refused, cancelled or failed leaves a plan that may be applied again.
    """
    if plan.receipt is None:
        return None
    receipt: dict[str, Any] = json.loads(plan.receipt)
    if "job" not in receipt:
        return receipt
    job = jobs.find(tx, receipt["job"])
    if job is None or job.state in ("refused", "cancelled", "failed"):
        return None
    return receipt | {
        "applied": job.finished_at.isoformat() if job.finished_at else None,
        "freed_bytes": job.freed_bytes,
        "freed_later_bytes": job.leased_bytes,
        "manifest_count": job.manifests_deleted,
        "tag_count": job.tags_deleted,
        "difference": job.findings.get("difference"),
        "operation": job.findings.get("operation"),
    }


def expire_plans(registry: Registry) -> None:
    """Forget plans that nobody carried out in time."""
    now = registry.now()
    if registry.read(lambda tx: plans.any_expired(tx, now)):
        registry.write(lambda tx: plans.forget_expired(tx, now), freeing=True)


def _packed(document: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)


def unpacked(packed: bytes) -> dict[str, Any]:
    """A stored plan's document."""
    document: dict[str, Any] = json.loads(zlib.decompress(packed))
    return document


def _shown(plan_id: str, document: dict[str, Any], principal: Principal) -> Plan:
    """Who else holds a blob is told by name only to those who may know of that repository."""
    document = dict(document)
    if "chosen" in document:
        items = tuple(_chosen_shown(document.pop("names"), document.pop("chosen")))
    else:
        items = tuple(document.pop("items"))
    document.pop("generations")
    document["kept"] = [
        blob
        | {
            "held_by": [
                name for name in blob["held_by"] if principal.may(Action.METADATA_READ, name)
            ]
        }
        for blob in document["kept"]
    ]
    return Plan(plan_id, document, items)


def _chosen_shown(names: Sequence[str], chosen: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Each manifest that a filter chose, or that only loses tags, with the tags that vanish."""
    losing: dict[int, list[Any]] = {}
    for each in chosen:
        if each[1] == "tag":
            losing.setdefault(each[4], []).append(each)
    for place, kind, _, digest, manifest_id, _, *more in chosen:
        if kind == "tag":
            continue
        own, why, *of = more or ([], Why.ASKED)
        lost = [tag[2] for tag in losing.pop(manifest_id, ())]
        shown = {"repository": names[place], "digest": digest, "tags": lost + own, "why": why}
        yield shown | ({"of": of[0]} if of else {})
    for tags in losing.values():
        yield {
            "repository": names[tags[0][0]],
            "digest": tags[0][3],
            "tags": [tag[2] for tag in tags],
            "why": Why.UNTAGGED,
        }


# --- the document ---------------------------------------------------------------------------------


def _document(
    tx: Transaction, registry: Registry, wanted: PlanRequest, preview: Preview
) -> dict[str, Any]:
    """The plan as JSON: docs/reference/api.md describes it."""
    asked = {
        "repositories": wanted.repositories,
        "repository": wanted.repository,
        "digests": wanted.digests,
        "tags": wanted.tags,
    }
    until = preview.restorable_until
    gone = preview.freed_bytes + (preview.later_bytes if until else 0)
    warnings = guardrails(preview.parts, gone, wanted.caps, computed=wanted.computed)
    return {
        "asked": {name: value for name, value in asked.items() if value},
        "freed_bytes": preview.freed_bytes,
        "freed_later_bytes": preview.later_bytes,
        "kept_bytes": total(preview.fates, Outcome.KEPT),
        # With soft delete: until when an apply at this moment could be taken back.
        "restorable_until": until.isoformat() if until else None,
        "manifest_count": sum(part.manifests_going for part in preview.parts),
        "tag_count": sum(part.tags_going for part in preview.parts),
        "upload_count": len(preview.uploads),
        "repositories": [_share_document(part, preview) for part in preview.parts],
        "absent": preview.absent,
        "stays": _stays(preview),
        "later": later_shown(preview.fates),
        "kept": kept_shown(
            tx,
            preview.fates,
            preview.references,
            [(repository_id, name) for name, repository_id, _ in preview.closures],
        ),
        "warnings": [_warning_shown(warning) for warning in warnings],
        "items": _items(preview),
        # A repository that was deleted and pushed again is another one.
        "generations": [repository_id for _, repository_id, _ in preview.closures],
    }


def _share_document(part: RepositoryShare, preview: Preview) -> dict[str, Any]:
    locked = preview.locked.get(RepositoryName(part.repository))
    return ({"locked": locked} if locked is not None else {}) | {
        "repository": part.repository,
        "manifests": part.manifests_going,
        "of_manifests": part.manifests,
        "tags": part.tags_going,
        "of_tags": part.tags,
    }


def _items(preview: Preview) -> list[dict[str, Any]]:
    """Every manifest that goes, what was asked for first."""
    return [
        {
            "repository": name,
            "digest": member.row.digest,
            "tags": preview.tags.get(member.row.id, []),
            "why": member.why,
        }
        | ({} if member.of is None else {"of": member.of})
        | ({} if id_ not in preview.pulled else {"pulled": preview.pulled[id_].isoformat()})
        for name, _, closure in preview.closures
        for id_, member in closure.going.items()
    ]


def _stays(preview: Preview) -> list[dict[str, Any]]:
    return [
        {
            "repository": name,
            "digest": member.row.digest,
            "tags": preview.tags.get(member.row.id, []),
            "why": member.why,
            "held_by": [_hold_shown(hold) for hold in holds],
        }
        | ({} if member.of is None else {"of": member.of})
        for name, _, closure in preview.closures
        for member, holds in closure.kept.values()
    ]


def _hold_shown(hold: KeptBy) -> dict[str, str]:
    return {"kind": hold.kind, "by": hold.by}


def _warning_shown(warning: Warning) -> dict[str, Any]:
    return asdict(warning)


def kept_shown(
    tx: Transaction,
    fates: Sequence[Fate],
    references: Mapping[Digest, int],
    repositories: Sequence[tuple[int, RepositoryName]],
) -> list[dict[str, Any]]:
    """The largest blobs that stay, and who goes on holding them."""
    return [
        {
            "digest": fate.digest,
            "bytes": fate.size,
            "held_by": _holders(tx, fate.digest, references.get(fate.digest, 0), repositories),
        }
        for fate in _largest(fates, Outcome.KEPT)
    ]


def _holders(
    tx: Transaction,
    digest: Digest,
    going: int,
    repositories: Sequence[tuple[int, RepositoryName]],
) -> list[str]:
    """Repositories that go on holding the blob: a few of them."""
    left = some_repositories_with(tx, digest, NAMED_HOLDERS + len(repositories))
    for repository_id, name in repositories:
        if name in left and not refers_more_often(tx, repository_id, digest, going):
            left.remove(name)
    return left[:NAMED_HOLDERS]


def later_shown(fates: Sequence[Fate]) -> list[dict[str, Any]]:
    """The largest blobs that go later, and when and why."""
    return [
        {
            "digest": fate.digest,
            "bytes": fate.size,
            "because": fate.because,
            "until": fate.until.isoformat() if fate.until else None,
        }
        for fate in _largest(fates, Outcome.LATER)
    ]


def _largest(fates: Sequence[Fate], outcome: Outcome) -> list[Fate]:
    some = [fate for fate in fates if fate.outcome is outcome]
    return sorted(some, key=lambda fate: (-fate.size, fate.digest))[:NAMED_BLOBS]
