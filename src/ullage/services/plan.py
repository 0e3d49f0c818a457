"""Plans: what a deletion would take and free, to the byte, before anybody does it.

A plan is made by the code that deletes (closure.py decides what goes along, forecast.py which bytes
come back) and kept for an hour under an id. Carrying it out looks again in the deleting
transaction: what differs from what was shown is refused, with the difference.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ullage.metadata import content, holding, plans, uploads
from ullage.metadata.content import ManifestRow
from ullage.metadata.database import Transaction
from ullage.metadata.plans import StoredPlan
from ullage.oci.digest import Digest
from ullage.oci.errors import (
    ManifestUnknown,
    NameUnknown,
    PlanUnknown,
    TooManyRequests,
)
from ullage.oci.reference import RepositoryName, Tag
from ullage.policy import Caps, Part, Warning, parse_size, rails
from ullage.services import Caller, Registry
from ullage.services.access import Action, Principal
from ullage.services.closure import Closure, Hold, Member, StoredGraph, Why, what_goes
from ullage.services.forecast import Fate, Loss, Outcome, forecast, total

__all__ = ["Caps", "Plan", "Wanted", "get_plan", "make_plan", "parse_size"]

PLAN_LIFETIME = timedelta(hours=1)
MAX_PLANS = 10_000
# The largest blobs of each fate that a plan names; their sums count all of them.
NAMED_BLOBS = 100
NAMED_HOLDERS = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants deleted: whole repositories, or digests and tags of one."""

    repositories: tuple[RepositoryName, ...] = ()
    repository: RepositoryName | None = None
    digests: tuple[Digest, ...] = ()
    tags: tuple[Tag, ...] = ()
    caps: Caps = field(default_factory=Caps)
    # A filter or a program made the list, so that nobody has read it.
    computed: bool = False

    def names(self) -> tuple[RepositoryName, ...]:
        """Every repository this is about."""
        return self.repositories if self.repository is None else (self.repository,)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was shown to whoever asked; `document` is JSON, without what only some may read."""

    id: str
    document: dict[str, Any]
    items: tuple[dict[str, Any], ...]

    def repositories(self) -> tuple[str, ...]:
        """Every repository the plan is about."""
        return tuple(part["repository"] for part in self.document["repositories"])


@dataclass(slots=True)
class _Outlook:
    """What a deletion would do now."""

    # Each repository's name, id and what goes and stays in it.
    closures: list[tuple[RepositoryName, int, Closure]]
    tags: dict[int, list[Tag]]
    # What each blob loses, and what becomes of it.
    references: Mapping[Digest, int]
    fates: list[Fate]
    parts: list[Part]
    absent: list[str]
    # (key, bytes) of every open session, where whole repositories go.
    uploads: list[tuple[str, int]]

    @property
    def freed_bytes(self) -> int:
        return total(self.fates, Outcome.FREED) + sum(size for _, size in self.uploads)

    @property
    def later_bytes(self) -> int:
        return total(self.fates, Outcome.LATER)


# --- making ---------------------------------------------------------------------------------------


def make_plan(registry: Registry, wanted: Wanted, principal: Principal, caller: Caller) -> Plan:
    """Say what deleting `wanted` would do, and remember it for an hour.

    What is missing of several digests and tags is listed as absent; raises NameUnknown, or
    ManifestUnknown if nothing that was asked for exists.
    """
    now = registry.now()
    sizes = _upload_sizes(registry, wanted)
    document = registry.snapshot(
        lambda tx: _document(tx, registry, wanted, _look(tx, registry, wanted, now, sizes))
    )
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
    plan = _shown(plan_id, _unpacked(stored.document), principal)
    if not all(principal.may(Action.METADATA_READ, name) for name in plan.repositories()):
        raise PlanUnknown({"plan": plan_id})
    if stored.receipt is not None:
        plan.document["receipt"] = json.loads(stored.receipt)
    return plan


def expire_plans(registry: Registry) -> None:
    """Forget plans that nobody carried out in time."""
    now = registry.now()
    if registry.read(lambda tx: plans.any_expired(tx, now)):
        registry.write(lambda tx: plans.forget_expired(tx, now), freeing=True)


def _packed(document: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 1)


def _unpacked(packed: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(zlib.decompress(packed))
    return document


def _shown(plan_id: str, document: dict[str, Any], principal: Principal) -> Plan:
    """Who else holds a blob is told by name only to those who may know of that repository."""
    document = dict(document)
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


# --- looking --------------------------------------------------------------------------------------


def _upload_sizes(registry: Registry, wanted: Wanted) -> dict[str, int]:
    """What open sessions of whole repositories really hold, asked outside any transaction."""

    def keys(tx: Transaction) -> list[str]:
        ids = [content.find_repository(tx, name) for name in wanted.repositories]
        return [key for id_ in ids if id_ is not None for key in uploads.keys_in(tx, id_)]

    if not wanted.repositories:
        return {}
    return {key: registry.blobs.size(key) or 0 for key in registry.read(keys)}


def _look(
    tx: Transaction,
    registry: Registry,
    wanted: Wanted,
    now: datetime,
    upload_sizes: Mapping[str, int],
    *,
    to_delete: bool = False,
) -> _Outlook:
    """What deleting `wanted` would do, as of this transaction.

    `to_delete` keeps everybody else off the blobs until it ends. Raises NameUnknown.
    """
    if wanted.repository is None:
        return _look_at_whole(tx, registry, wanted.repositories, now, upload_sizes)
    name = wanted.repository
    repository_id = _require_repository(tx, name)
    roots, absent = _roots(tx, repository_id, wanted)
    closure = what_goes(StoredGraph(tx, repository_id), roots)
    references = content.blobs_of(tx, closure.going.keys())
    if to_delete:
        content.lock_blobs(tx, references.keys(), to_drop=True)
    loss = Loss(frozenset({repository_id}), references)
    tags = holding.tags_on(tx, closure.going.keys() | closure.kept.keys())
    return _Outlook(
        closures=[(name, repository_id, closure)],
        tags=tags,
        references=references,
        fates=forecast(tx, registry.leases, loss, now),
        parts=[_part(tx, name, repository_id, closure.going.keys(), tags)],
        absent=absent,
        uploads=[],
    )


def _look_at_whole(
    tx: Transaction,
    registry: Registry,
    names: Sequence[RepositoryName],
    now: datetime,
    upload_sizes: Mapping[str, int],
) -> _Outlook:
    closures: list[tuple[RepositoryName, int, Closure]] = []
    tags: dict[int, list[Tag]] = {}
    parts: list[Part] = []
    sessions: list[tuple[str, int]] = []
    for name in sorted(set(names)):
        repository_id = _require_repository(tx, name)
        rows = holding.all_manifests(tx, repository_id)
        closure = Closure({row.id: Member(row, Why.REPOSITORY) for row in rows}, {})
        closures.append((name, repository_id, closure))
        own_tags = holding.tags_on(tx, closure.going.keys())
        tags |= own_tags
        parts.append(_part(tx, name, repository_id, closure.going.keys(), own_tags))
        for key, offset in uploads.keys_in(tx, repository_id).items():
            sessions.append((key, upload_sizes.get(key, offset)))
    ids = frozenset(repository_id for _, repository_id, _ in closures)
    references = {digest: count for digest, (_, count) in holding.blobs_in(tx, ids).items()}
    fates = forecast(tx, registry.leases, Loss(ids, references, whole=True), now)
    return _Outlook(closures, tags, references, fates, parts, [], sessions)


def _require_repository(tx: Transaction, name: RepositoryName) -> int:
    repository_id = content.find_repository(tx, name)
    if repository_id is None or not content.repository_exists(tx, name):
        raise NameUnknown({"name": name})
    return repository_id


def _roots(
    tx: Transaction, repository_id: int, wanted: Wanted
) -> tuple[list[ManifestRow], list[str]]:
    """The manifests that were asked for, by digest or by tag, and what there is not.

    Raises ManifestUnknown if there is none at all.
    """
    by_tag = holding.tagged(tx, repository_id, wanted.tags)
    by_digest = content.find_manifests(tx, repository_id, wanted.digests)
    absent: list[str] = [digest for digest in wanted.digests if digest not in by_digest]
    absent += [tag for tag in wanted.tags if tag not in by_tag]
    roots = {row.id: row for row in (*by_digest.values(), *by_tag.values())}
    if absent and not roots:
        raise ManifestUnknown({"name": wanted.repository, "unknown": absent[:10]})
    return list(roots.values()), absent


def _part(
    tx: Transaction,
    name: RepositoryName,
    repository_id: int,
    going: Collection[int],
    tags: Mapping[int, Sequence[Tag]],
) -> Part:
    share = holding.share(tx, repository_id)
    return Part(
        repository=name,
        manifests=share.manifests,
        manifests_going=len(going),
        tags=share.tags,
        tags_going=sum(len(tags.get(manifest_id, ())) for manifest_id in going),
        newest_going=share.newest_tag if share.newest_manifest_id in going else None,
    )


# --- the document ---------------------------------------------------------------------------------


def _document(
    tx: Transaction, registry: Registry, wanted: Wanted, outlook: _Outlook
) -> dict[str, Any]:
    """The plan as JSON: docs/reference/api.md describes it."""
    asked = {
        "repositories": wanted.repositories,
        "repository": wanted.repository,
        "digests": wanted.digests,
        "tags": wanted.tags,
    }
    warnings = rails(outlook.parts, outlook.freed_bytes, wanted.caps, computed=wanted.computed)
    return {
        "asked": {name: value for name, value in asked.items() if value},
        "freed_bytes": outlook.freed_bytes,
        "freed_later_bytes": outlook.later_bytes,
        "kept_bytes": total(outlook.fates, Outcome.KEPT),
        "manifest_count": sum(part.manifests_going for part in outlook.parts),
        "tag_count": sum(part.tags_going for part in outlook.parts),
        "upload_count": len(outlook.uploads),
        "repositories": [_part_shown(part) for part in outlook.parts],
        "absent": outlook.absent,
        "stays": _stays(outlook),
        "later": [_later_shown(fate) for fate in _largest(outlook.fates, Outcome.LATER)],
        "kept": [
            {
                "digest": fate.digest,
                "bytes": fate.size,
                "held_by": _holders(tx, outlook, fate.digest),
            }
            for fate in _largest(outlook.fates, Outcome.KEPT)
        ],
        "warnings": [_warning_shown(warning) for warning in warnings],
        "items": _items(outlook),
        # A repository that was deleted and pushed again is another one.
        "generations": [repository_id for _, repository_id, _ in outlook.closures],
    }


def _part_shown(part: Part) -> dict[str, Any]:
    return {
        "repository": part.repository,
        "manifests": part.manifests_going,
        "of_manifests": part.manifests,
        "tags": part.tags_going,
        "of_tags": part.tags,
    }


def _items(outlook: _Outlook) -> list[dict[str, Any]]:
    """Every manifest that goes, what was asked for first."""
    return [
        {
            "repository": name,
            "digest": member.row.digest,
            "tags": outlook.tags.get(member.row.id, []),
            "why": member.why,
        }
        | ({} if member.of is None else {"of": member.of})
        for name, _, closure in outlook.closures
        for member in closure.going.values()
    ]


def _stays(outlook: _Outlook) -> list[dict[str, Any]]:
    return [
        {
            "repository": name,
            "digest": member.row.digest,
            "tags": outlook.tags.get(member.row.id, []),
            "why": member.why,
            "held_by": [_hold_shown(hold) for hold in holds],
        }
        | ({} if member.of is None else {"of": member.of})
        for name, _, closure in outlook.closures
        for member, holds in closure.kept.values()
    ]


def _hold_shown(hold: Hold) -> dict[str, str]:
    return {"kind": hold.kind, "by": hold.by}


def _warning_shown(warning: Warning) -> dict[str, Any]:
    return asdict(warning)


def _holders(tx: Transaction, outlook: _Outlook, digest: Digest) -> list[str]:
    """Repositories that go on holding the blob: a few of them."""
    left = holding.some_holders(tx, digest, NAMED_HOLDERS + len(outlook.closures))
    for name, repository_id, _ in outlook.closures:
        going = outlook.references.get(digest, 0)
        if name in left and not holding.refers_more_often(tx, repository_id, digest, going):
            left.remove(name)
    return left[:NAMED_HOLDERS]


def _later_shown(fate: Fate) -> dict[str, Any]:
    return {
        "digest": fate.digest,
        "bytes": fate.size,
        "because": fate.because,
        "until": fate.until.isoformat() if fate.until else None,
    }


def _largest(fates: Sequence[Fate], outcome: Outcome) -> list[Fate]:
    some = [fate for fate in fates if fate.outcome is outcome]
    return sorted(some, key=lambda fate: (-fate.size, fate.digest))[:NAMED_BLOBS]
