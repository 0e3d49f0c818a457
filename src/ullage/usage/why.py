"""Why something is not freed: everything that holds a manifest or a blob, or what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ullage.authorization import Action, Principal
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.soft_delete import SoftDelete
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks, image_locks
from ullage.registry.pull.pull_log import last_pulls, write_pulls
from ullage.registry.queries import attributes
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.content.remove_manifests import parents_of
from ullage.registry.queries.references.blobs import referenced_blobs
from ullage.registry.queries.references.links import LinkState, links_of
from ullage.registry.queries.references.manifests import tags_on
from ullage.usage.queries import why
from ullage.usage.queries.why import Place, Waiting
from ullage.usage.usage import sees_everything


def explain(registry: Registry, digest: Digest, principal: Principal) -> dict[str, Any]:
    """Who holds the manifest or blob, in the repositories that the caller may read; as JSON.

    `elsewhere` says that others hold it too, without saying which. Raises BlobUnknown if the caller
    can see nothing of it.
    """
    write_pulls(registry)
    return registry.snapshot(lambda tx: _explain(tx, registry, digest, principal))


def _explain(
    tx: Transaction, registry: Registry, digest: Digest, principal: Principal
) -> dict[str, Any]:
    answer: dict[str, Any] = {"digest": digest}
    policy = soft_delete.find_policy(tx)
    seen = [place for place in why.manifests_called(tx, digest) if _may_see(principal, place)]
    if seen:
        now = registry.now()
        answer["manifest"] = [_manifest(tx, place, policy, now) for place in seen]
    blob = _blob(tx, registry, digest, principal, policy)
    if blob is not None:
        answer["blob"] = blob
    waiting = why.tombstones_of(tx, digest) if sees_everything(principal) else []
    if waiting:
        answer["deleted"] = [
            {"bytes": each.bytes, "due": each.due_at.isoformat()} for each in waiting
        ]
    if len(answer) == 1:
        raise BlobUnknown(
            {"digest": digest}, "no manifest or blob that you may read about has this digest"
        )
    return answer | {"because": _in_words(answer, waiting)}


# --- manifests ------------------------------------------------------------------------------------


def _may_see(principal: Principal, place: Place) -> bool:
    right = Action.METADATA_READ if place.operation is None else Action.DELETED_READ
    return principal.may(right, place.repository)


def _kept(place: Place, policy: SoftDelete) -> dict[str, str]:
    """By which operation it is kept and until when; nothing if it is live."""
    if place.operation is None or place.counts_from is None:
        return {}
    until = policy.until(place.counts_from).isoformat()
    return {"operation": place.operation, "soft_deleted_until": until}


def _manifest(tx: Transaction, place: Place, policy: SoftDelete, now: datetime) -> dict[str, Any]:
    """What holds it in one repository; nothing if it is an orphan."""
    held_by = [
        {"kind": "tag", "by": str(tag)}
        for tag in tags_on(tx, [place.manifest_id]).get(place.manifest_id, [])
    ]
    parents = parents_of(tx, [place.manifest_id]).get(place.manifest_id, {})
    held_by += [{"kind": "index", "by": str(digest)} for _, digest in sorted(parents.items())]
    subject = place.subject
    if subject and find_manifests(tx, place.repository_id, [subject]):
        held_by.append({"kind": "subject", "by": str(subject)})
    lock = attributes.locks_on(tx, [place.manifest_id]).get(place.manifest_id)
    if lock is not None:
        said = attribute_locks.described(RepositoryName(place.repository), lock)
        held_by.append({"kind": "lock", "by": said})
    covered = image_locks.covered(tx, place.repository_id, now)
    held_by += [{"kind": "hold", "by": said} for said in covered.of([place.manifest_id]).values()]
    last_pull = last_pulls(tx, [place.manifest_id]).get(place.manifest_id)
    shown = {"repository": place.repository, "held_by": held_by, "last_pull": last_pull}
    return shown | _kept(place, policy)


# --- blobs ----------------------------------------------------------------------------------------


def _blob(
    tx: Transaction,
    registry: Registry,
    digest: Digest,
    principal: Principal,
    policy: SoftDelete,
) -> dict[str, Any] | None:
    facts = referenced_blobs(tx, [digest]).get(digest)
    if facts is None:
        return None
    places = why.manifests_referring(tx, digest)
    seen = [place for place in places if _may_see(principal, place)]
    links = links_of(tx, [digest]).get(digest, [])
    held = {place.repository_id for place in places}
    # Links that no manifest uses: promises to pushers, and what is being erased.
    unused = [state for state in links if state.link.repository_id not in held]
    promised = [
        state
        for state in unused
        if state.name is not None
        and principal.may(Action.DELETED_READ if state.hidden else Action.METADATA_READ, state.name)
    ]
    everything = sees_everything(principal)
    erasing = sum(state.name is None for state in unused) if everything else 0
    if not seen and not promised and not everything:
        return None
    tags = tags_on(tx, [place.manifest_id for place in seen])
    return {
        "bytes": facts.size,
        "held_by": [
            {
                "repository": place.repository,
                "digest": place.digest,
                "tags": tags.get(place.manifest_id, []),
            }
            | _kept(place, policy)
            for place in seen
        ],
        "waits": _waits(tx, registry, promised),
        "erasing": erasing,
        "elsewhere": len(seen) < len(places) or len(promised) + erasing < len(unused),
    }


def _waits(
    tx: Transaction, registry: Registry, states: Sequence[LinkState]
) -> list[dict[str, Any]]:
    leased = registry.leases.peek(tx, [state.link for state in states], registry.now())
    return [
        {
            "repository": state.name,
            "leased": state.link in leased,
            "until": until.isoformat() if until is not None else None,
        }
        for state in states
        for until in [leased.get(state.link) or state.review_at]
    ]


def _in_words(answer: dict[str, Any], waiting: Sequence[Waiting]) -> str:
    """One sentence for people."""
    if "manifest" in answer:
        live, until = _live_or_kept(answer["manifest"])
        holds = sum(len(place["held_by"]) for place in live)
        if holds:
            return f"held by {holds} tags, indexes, subjects or locks"
        if live:
            return "nothing holds this manifest; it stays until it is deleted"
        return f"nothing: soft-deleted until {until}"
    blob = answer.get("blob")
    if blob is None:
        return f"nothing: deleted, due {waiting[0].due_at.isoformat()}"
    live, until = _live_or_kept(blob["held_by"])
    if live:
        return f"held by {len(live)} manifest{'s' if len(live) > 1 else ''}"
    if until and not blob["elsewhere"]:
        return f"nothing: soft-deleted until {until}"
    if blob["elsewhere"]:
        return "held in repositories that you may not read"
    if blob["waits"]:
        first = max(blob["waits"], key=lambda wait: str(wait["until"]))
        kind = "lease" if first["leased"] else "to be looked at: not used since its lease"
        return f"nothing: {kind} until {first['until']}"
    return "nothing: a deleted repository is being erased"


def _live_or_kept(places: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Those that are live, and until when the last of the others is kept."""
    live = [place for place in places if "operation" not in place]
    kept = [str(place["soft_deleted_until"]) for place in places if "operation" in place]
    return live, max(kept, default="")
