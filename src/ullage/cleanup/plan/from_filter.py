"""Plans of what a filter or a search has chosen: tags and manifests of any number of repositories.

The same code chooses as for a purge (candidates.py). The plan names every item as it was when it
was chosen; carrying it out is a job (as_job.py), which never takes anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ullage.authorization import Principal
from ullage.cleanup import purge
from ullage.cleanup.candidates import Kept
from ullage.cleanup.guardrails import Caps, RepositoryShare, purge_guardrails
from ullage.cleanup.plan.documents import (
    Asked,
    ChosenManifest,
    Extent,
    KeptItem,
    PlanDocument,
    ShareDocument,
    StoredPlanDocument,
    share_document,
)
from ullage.cleanup.plan.plan import keep_plan, kept_blobs, later_blobs
from ullage.cleanup.queries import candidates
from ullage.cleanup.queries.jobs import Item
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.closure import Why
from ullage.deletion.forecast import Forecast, Outcome, forecast_manifests, total
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.content.remove_manifests import parents_of
from ullage.registry.queries.references.manifests import tags_on

# What a filter takes a manifest for.
ORPHAN, LAST_TAG = "nothing leads to it", "its last tag goes"
# Of what locks keep from a filter, so many are named.
NAMED_KEPT = 1000


@dataclass(frozen=True, slots=True)
class ChosenItems:
    """What was chosen: items in the order in which they go, and how much of each repository."""

    items: Sequence[Item]
    shares: Sequence[RepositoryShare]
    asked: Asked
    kept: Sequence[KeptItem] = ()
    notes: Sequence[str] = ()
    caps: Caps = field(default_factory=Caps)
    # How many of the newest stay: then tags may be most of a repository's.
    keep: int = 0
    # What a manifest was chosen for, where that is not what a filter chooses by.
    reasons: Mapping[int, str] = field(default_factory=dict)


def plan_filter(
    registry: Registry, wanted: purge.PurgeRequest, principal: Principal, caller: Caller
) -> PlanDocument:
    """What a purge would do now, remembered for an hour. Raises ValueInvalid."""
    request = purge.request_of(registry, wanted, principal)
    items: list[Item] = []
    kept: list[Kept] = []
    shares = purge.choose_as_asked(registry, request, items.append, kept.append)
    asked = Asked(
        filters=request.filters,
        ago_seconds=request.ago_seconds,
        keep=request.keep,
        untagged=request.untagged,
        untagged_only=request.untagged_only,
        include_locked=request.include_locked,
        before=request.before,
    )
    selection = ChosenItems(
        items,
        shares,
        asked,
        [purge.kept_document(each) for each in kept],
        wanted.notes,
        wanted.caps,
        wanted.purge.keep,
    )
    return plan_selection(registry, selection, principal, caller)


def plan_selection(
    registry: Registry, selection: ChosenItems, principal: Principal, caller: Caller
) -> PlanDocument:
    """Say what deleting these items would free, and remember it for an hour."""
    document = registry.snapshot(lambda tx: _document(tx, registry, selection))
    return keep_plan(registry, document, principal, caller)


def _document(tx: Transaction, registry: Registry, selection: ChosenItems) -> StoredPlanDocument:
    items = selection.items
    names = list({item.repository_id: item.repository for item in items}.items())
    places = {repository_id: place for place, (repository_id, _) in enumerate(names)}
    reached = reached_from(tx, items)
    tags = tags_going(tx, items)
    found = forecast_items(tx, registry, items)
    freed, later = found.freed_bytes, found.later_bytes
    policy = soft_delete.find_policy(tx)
    until = policy.until(registry.now()) if policy.enabled else None
    touched = [share for share in selection.shares if share.manifests_going or share.tags_going]
    return StoredPlanDocument(
        asked=selection.asked,
        freed_bytes=freed,
        freed_later_bytes=later,
        kept_bytes=total(found.fates, Outcome.KEPT),
        restorable_until=until.isoformat() if until else None,
        manifest_count=sum(item.kind != "tag" for item in items),
        tag_count=sum(item.kind == "tag" for item in items) + sum(map(len, tags.values())),
        upload_count=0,
        repositories=_shares(tx, touched, items, found),
        absent=[],
        stays=selection.kept[:NAMED_KEPT],
        later=later_blobs(found.fates),
        kept=kept_blobs(tx, found.fates, found.references, names),
        warnings=purge_guardrails(
            selection.shares, freed + later, selection.caps, keep=selection.keep
        ),
        notes=selection.notes,
        generations=[repository_id for repository_id, _ in names],
        names=[name for _, name in names],
        chosen=_manifests(selection, places, reached, tags),
    )


def _shares(
    tx: Transaction,
    touched: Sequence[RepositoryShare],
    items: Sequence[Item],
    found: Forecast,
) -> list[ShareDocument]:
    going: dict[str, list[int]] = {}
    ids: dict[str, int] = {}
    for item in items:
        ids[item.repository] = item.repository_id
        if item.kind != "tag":
            going.setdefault(item.repository, []).append(item.manifest_id)
    return [
        share_document(
            share,
            Extent(
                found.parts.get(ids[share.repository], 0),
                candidates.pushed(tx, going.get(share.repository, ())),
            ),
        )
        for share in touched
    ]


def forecast_items(tx: Transaction, registry: Registry, items: Sequence[Item]) -> Forecast:
    """What becomes of the blobs of the manifests among these items, as things stand."""
    going: dict[int, list[int]] = {}
    for item in items:
        if item.kind != "tag":
            going.setdefault(item.repository_id, []).append(item.manifest_id)
    now = registry.now()
    found = forecast_manifests(tx, registry.leases, going, now)
    return soft_delete.kept_forecast(found, soft_delete.find_policy(tx), now)


def reached_from(tx: Transaction, items: Sequence[Item]) -> dict[int, tuple[Why, Digest]]:
    """Of what goes along: whether as a child or a referrer, and of what."""
    along = {item.manifest_id: item for item in items if item.kind == "along"}
    going = {item.digest for item in items if item.kind != "tag"} if along else set()
    reached: dict[int, tuple[Why, Digest]] = {}
    for id_, parents in parents_of(tx, along.keys()).items() if along else ():
        listing = sorted(digest for digest in parents.values() if digest in going)
        if listing:
            reached[id_] = (Why.CHILD, listing[0])
    for repository_id in {item.repository_id for item in along.values()}:
        digests = [item.digest for item in along.values() if item.repository_id == repository_id]
        for row in find_manifests(tx, repository_id, digests).values():
            if row.subject in going and row.subject is not None:
                reached[row.id] = (Why.REFERRER, row.subject)
    return reached


def tags_going(tx: Transaction, items: Sequence[Item]) -> dict[int, list[Tag]]:
    """The tags that vanish with a manifest, without those that are items themselves."""
    own = {(item.manifest_id, item.tag) for item in items if item.kind == "tag"}
    ids = [item.manifest_id for item in items if item.kind in ("image", "along")]
    left = {
        id_: [tag for tag in tags if (id_, tag) not in own]
        for id_, tags in tags_on(tx, ids).items()
    }
    return {id_: tags for id_, tags in left.items() if tags}


def _manifests(
    selection: ChosenItems,
    places: Mapping[int, int],
    reached: Mapping[int, tuple[Why, Digest]],
    tags: Mapping[int, list[Tag]],
) -> list[ChosenManifest]:
    """Each manifest that goes with its tags, then those that only lose some."""
    losing: dict[int, list[Item]] = {}
    for item in selection.items:
        if item.kind == "tag":
            losing.setdefault(item.manifest_id, []).append(item)
    found: list[ChosenManifest] = []
    for item in selection.items:
        if item.kind == "tag":
            continue
        own = losing.pop(item.manifest_id, [])
        why, of = reached.get(item.manifest_id, (Why.ASKED, None))
        because = selection.reasons.get(item.manifest_id, LAST_TAG if own else ORPHAN)
        found.append(
            ChosenManifest(
                places[item.repository_id],
                item.kind,
                item.digest,
                item.manifest_id,
                to_micros(item.seen_at),
                tags.get(item.manifest_id, ()),
                _own(own),
                why,
                of,
                because if why is Why.ASKED else None,
            )
        )
    for id_, own in losing.items():
        place, digest = places[own[0].repository_id], own[0].digest
        found.append(ChosenManifest(place, "tag", digest, id_, 0, own=_own(own), why=Why.UNTAGGED))
    return found


def _own(tags: Sequence[Item]) -> list[tuple[str, int]]:
    return [(str(item.tag), to_micros(item.seen_at)) for item in tags]


def items_of(document: StoredPlanDocument) -> list[Item]:
    """What a plan has chosen, in the order in which it goes: of each repository, tags first."""
    tags: dict[int, list[Item]] = {}
    manifests: dict[int, list[Item]] = {}
    for each in document.chosen or ():
        repository_id = document.generations[each.place]
        name = RepositoryName(document.names[each.place])
        digest, id_ = Digest(each.digest), each.manifest_id
        for tag, at in each.own:
            item = Item(repository_id, name, "tag", Tag(tag), digest, id_, from_micros(at))
            tags.setdefault(each.place, []).append(item)
        if each.kind != "tag":
            seen_at = from_micros(each.seen_at)
            item = Item(repository_id, name, each.kind, None, digest, id_, seen_at)
            manifests.setdefault(each.place, []).append(item)
    places = range(len(document.names))
    return [item for place in places for part in (tags, manifests) for item in part.get(place, ())]
