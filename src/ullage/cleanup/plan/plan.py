"""Plans: what a deletion would take and free, to the byte, before it is done.

A plan is made by the code that deletes (closure.py decides what goes along, forecast.py which bytes
come back) and kept for an hour under an id. Carrying it out looks again in the deleting
transaction: what differs from what was shown is refused, with the difference.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from ullage.authorization import Action, Principal
from ullage.cleanup.guardrails import guardrails
from ullage.cleanup.job.documents import findings
from ullage.cleanup.plan.documents import (
    Asked,
    ChosenManifest,
    Extent,
    KeptBlob,
    KeptItem,
    LaterBlob,
    PlanDocument,
    PlanHead,
    PlanItem,
    Receipt,
    ShareDocument,
    StoredPlanDocument,
    share_document,
)
from ullage.cleanup.plan.preview import PlanRequest, Preview, preview_of
from ullage.cleanup.queries import candidates, jobs, plans
from ullage.cleanup.queries.plans import StoredPlan
from ullage.database.transaction import Transaction
from ullage.deletion.forecast import Fate, Outcome, total
from ullage.documents import UNSET, changed, packed, unpacked
from ullage.oci.digest import Digest
from ullage.oci.errors import PlanUnknown, TooManyRequests
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import write_pulls
from ullage.registry.queries.references.blobs import refers_more_often, some_repositories_with

T = TypeVar("T")

PLAN_LIFETIME = timedelta(hours=1)
MAX_PLANS = 10_000
# Of these, most of one account, so that none takes all.
MAX_ACCOUNT_PLANS = 1000
# What goes is kept by so many together: as many as a client is given at once.
PAGE = 1000
# The largest blobs of each fate that a plan names; their sums count all of them.
NAMED_BLOBS = 100
NAMED_REPOSITORIES = 5


# --- making ---------------------------------------------------------------------------------------


def make_plan(
    registry: Registry, wanted: PlanRequest, principal: Principal, caller: Caller
) -> PlanDocument:
    """Say what deleting `wanted` would do, and remember it for an hour.

    What is missing of several digests and tags is listed as absent; raises NameUnknown, or
    ManifestUnknown if nothing that was asked for exists.
    """
    now = registry.now()
    write_pulls(registry)
    document = registry.snapshot(
        lambda tx: _document(tx, registry, wanted, preview_of(tx, registry, wanted, now))
    )
    return keep_plan(registry, document, principal, caller)


def keep_plan(
    registry: Registry, document: StoredPlanDocument, principal: Principal, caller: Caller
) -> PlanDocument:
    """Remember a plan for an hour under a new id. Raises TooManyRequests."""
    now = registry.now()
    plan_id = registry.fresh_key()
    expires_at = now + PLAN_LIFETIME
    times = {"created": now.isoformat(), "expires": expires_at.isoformat()}
    items = document.items if document.chosen is UNSET else document.chosen
    document = changed(document, id=plan_id, item_count=len(items), **times)
    head = _packed(changed(document, items=(), chosen=UNSET if document.chosen is UNSET else ()))
    pages = [_packed(items[start : start + PAGE]) for start in range(0, len(items), PAGE)]

    def keep(tx: Transaction) -> None:
        _require_few(tx, caller.subject, now)
        plans.insert(tx, StoredPlan(plan_id, caller.subject, now, expires_at, head), pages)

    # A plan is how a full registry gets room again.
    registry.write(keep, freeing=True)
    registry.tallies.add("plans", "made")
    return _public(document, principal)


def _require_few(tx: Transaction, subject: str, now: datetime) -> None:
    """Raises TooManyRequests where there is no room for another plan of this account."""
    shares: list[tuple[int, str | None, str]] = [(MAX_PLANS, None, "")]
    if subject:
        # Without accounts all clients are one.
        shares.insert(0, (MAX_ACCOUNT_PLANS, subject, " of this account"))
    for most, whose, words in shares:
        found, forgotten_at = plans.count(tx, now, whose)
        if found >= most and forgotten_at is not None:
            seconds = math.ceil((forgotten_at - now).total_seconds())
            raise TooManyRequests(
                {"retry_after_seconds": seconds},
                f"{most} plans{words} are kept already; the first is forgotten in {seconds} s",
                retry_after=seconds,
            )


def get_plan(
    registry: Registry, plan_id: str, principal: Principal, start: int = 0, n: int | None = None
) -> PlanDocument:
    """The plan as it was made, with its receipt if it was carried out, and `n` of its items.

    What that costs does not depend on how many others there are. Raises PlanUnknown, also if the
    caller may not see one of its repositories.
    """
    now = registry.now()

    def read(tx: Transaction) -> tuple[StoredPlanDocument, Receipt | None]:
        stored = plans.find(tx, plan_id, now)
        if stored is None:
            raise PlanUnknown({"plan": plan_id})
        return _with_items(tx, stored, start, n), receipt_of(tx, stored)

    document, receipt = registry.snapshot(read)
    plan = _public(document, principal)
    if not all(principal.may(Action.METADATA_READ, name) for name in plan.names()):
        raise PlanUnknown({"plan": plan_id})
    return plan if receipt is None else changed(plan, receipt=receipt)


def plans_beginning(registry: Registry, prefix: str, principal: Principal) -> list[str]:
    """The ids of plans that begin so, of those the caller may see."""
    ids = registry.read(lambda tx: plans.beginning_with(tx, prefix, registry.now()))
    return [id_ for id_ in ids if _may_see(registry, id_, principal)]


def _may_see(registry: Registry, plan_id: str, principal: Principal) -> bool:
    try:
        get_plan(registry, plan_id, principal, 0, 0)
    except PlanUnknown:
        return False
    return True


def receipt_of(tx: Transaction, plan: StoredPlan) -> Receipt | None:
    """What came of a plan, or has come of it so far; None if it is still to be carried out.

    A job that was refused, cancelled or failed leaves a plan that may be applied again.
    """
    if plan.receipt is None:
        return None
    receipt = unpacked(plan.receipt, Receipt)
    if receipt.job is UNSET:
        return receipt
    job = jobs.find(tx, receipt.job)
    if job is None or job.state in ("refused", "cancelled", "failed"):
        return None
    found = findings(job)
    return changed(
        receipt,
        applied=job.finished_at.isoformat() if job.finished_at else None,
        freed_bytes=job.freed_bytes,
        freed_later_bytes=job.leased_bytes,
        manifest_count=job.manifests_deleted,
        tag_count=job.tags_deleted,
        difference=found.difference or None,
        operation=found.operation or None,
    )


def expire_plans(registry: Registry) -> None:
    """Forget plans that were not carried out in time."""
    now = registry.now()
    if registry.read(lambda tx: plans.any_expired(tx, now)):
        registry.write(lambda tx: plans.forget_expired(tx, now), freeing=True)


def _packed(document: object) -> bytes:
    return zlib.compress(packed(document), 1)


def read_plan(tx: Transaction, plan: StoredPlan) -> StoredPlanDocument:
    """A stored plan's document, with all that goes."""
    return _with_items(tx, plan, 0, None)


def _with_items(tx: Transaction, plan: StoredPlan, start: int, n: int | None) -> StoredPlanDocument:
    """A stored plan's document with `n` of its items, or all of them, from `start` on."""
    head = unpacked(zlib.decompress(plan.document), StoredPlanDocument)
    end = head.item_count if n is None else min(start + n, head.item_count)
    if start >= end:
        return head
    first = start // PAGE
    pages = plans.pages(tx, plan.id, first, -(-end // PAGE))
    these = slice(start - first * PAGE, end - first * PAGE)
    if head.chosen is UNSET:
        return changed(head, items=_joined(pages, PlanItem)[these])
    return changed(head, chosen=_joined(pages, ChosenManifest)[these])


def _joined(pages: Sequence[bytes], kind: type[T]) -> list[T]:
    return [each for page in pages for each in unpacked(zlib.decompress(page), list[kind])]  # type: ignore[valid-type]


def _public(stored: StoredPlanDocument, principal: Principal) -> PlanDocument:
    """As the caller may see it: other repositories are named only where they may be known."""
    head = {name: getattr(stored, name) for name in PlanHead.__struct_fields__}
    items = tuple(stored.items)
    if stored.chosen is not UNSET:
        items = tuple(_chosen_items(stored.names, stored.chosen))
    kept = [
        changed(
            blob,
            held_by=[name for name in blob.held_by if principal.may(Action.METADATA_READ, name)],
        )
        for blob in stored.kept
    ]
    return PlanDocument(
        **head | {"kept": kept},
        id=stored.id,
        created=stored.created,
        expires=stored.expires,
        items=items,
    )


def _chosen_items(names: Sequence[str], chosen: Sequence[ChosenManifest]) -> Iterator[PlanItem]:
    """Each manifest that a filter chose, or that only loses tags, with the tags that vanish."""
    for each in chosen:
        yield PlanItem(
            repository=names[each.place],
            digest=each.digest,
            tags=[*(tag for tag, _ in each.own), *each.tags],
            why=each.why,
            of=UNSET if each.of is None else each.of,
            because=UNSET if each.because is None else each.because,
        )


# --- the document ---------------------------------------------------------------------------------


def _document(
    tx: Transaction, registry: Registry, wanted: PlanRequest, preview: Preview
) -> StoredPlanDocument:
    until = preview.restorable_until
    gone = preview.freed_bytes + (preview.later_bytes if until else 0)
    return StoredPlanDocument(
        asked=Asked(
            repositories=wanted.repositories or UNSET,
            repository=wanted.repository or UNSET,
            digests=wanted.digests or UNSET,
            tags=wanted.tags or UNSET,
        ),
        freed_bytes=preview.freed_bytes,
        freed_later_bytes=preview.later_bytes,
        kept_bytes=total(preview.fates, Outcome.KEPT),
        restorable_until=until.isoformat() if until else None,
        manifest_count=sum(part.manifests_going for part in preview.parts),
        tag_count=sum(part.tags_going for part in preview.parts),
        upload_count=preview.uploads,
        repositories=_shares(tx, preview),
        absent=preview.absent,
        stays=_stays(preview),
        later=later_blobs(preview.fates),
        kept=kept_blobs(
            tx,
            preview.fates,
            preview.references,
            [(repository_id, name) for name, repository_id, _ in preview.closures],
        ),
        warnings=guardrails(preview.parts, gone, wanted.caps, computed=wanted.computed),
        items=_items(preview),
        generations=[repository_id for _, repository_id, _ in preview.closures],
    )


def _shares(tx: Transaction, preview: Preview) -> list[ShareDocument]:
    """What goes of each repository. Of images, all that comes back is of the one they are in."""
    everything = preview.freed_bytes + preview.later_bytes
    ids = {name: (id_, closure.going.keys()) for name, id_, closure in preview.closures}
    shares: list[ShareDocument] = []
    for part in preview.parts:
        name = RepositoryName(part.repository)
        repository_id, going = ids[name]
        count = preview.shares.get(repository_id, 0) if preview.shares else everything
        extent = Extent(count, candidates.pushed(tx, going))
        shares.append(share_document(part, extent, preview.locked.get(name, UNSET)))
    return shares


def _items(preview: Preview) -> list[PlanItem]:
    """Every manifest that goes, what was asked for first."""
    return [
        PlanItem(
            repository=name,
            digest=member.row.digest,
            tags=preview.tags.get(member.row.id, ()),
            why=member.why,
            of=UNSET if member.of is None else member.of,
            pulled=preview.pulled[id_].isoformat() if id_ in preview.pulled else UNSET,
        )
        for name, _, closure in preview.closures
        for id_, member in closure.going.items()
    ]


def _stays(preview: Preview) -> list[KeptItem]:
    return [
        KeptItem(
            repository=name,
            digest=member.row.digest,
            tags=preview.tags.get(member.row.id, ()),
            why=member.why,
            held_by=keepers,
            of=UNSET if member.of is None else member.of,
        )
        for name, _, closure in preview.closures
        for member, keepers in closure.kept.values()
    ]


def kept_blobs(
    tx: Transaction,
    fates: Sequence[Fate],
    references: Mapping[Digest, int],
    repositories: Sequence[tuple[int, RepositoryName]],
) -> list[KeptBlob]:
    """The largest blobs that stay, and what goes on needing them."""
    return [
        KeptBlob(
            fate.digest,
            fate.size,
            _still_need(tx, fate.digest, references.get(fate.digest, 0), repositories),
        )
        for fate in _largest(fates, Outcome.KEPT)
    ]


def _still_need(
    tx: Transaction,
    digest: Digest,
    going: int,
    repositories: Sequence[tuple[int, RepositoryName]],
) -> list[str]:
    """Repositories that go on needing the blob: a few of them."""
    left = some_repositories_with(tx, digest, NAMED_REPOSITORIES + len(repositories))
    for repository_id, name in repositories:
        if name in left and not refers_more_often(tx, repository_id, digest, going):
            left.remove(name)
    return left[:NAMED_REPOSITORIES]


def later_blobs(fates: Sequence[Fate]) -> list[LaterBlob]:
    """The largest blobs that go later, and when and why."""
    return [
        LaterBlob(
            fate.digest,
            fate.size,
            fate.because,
            fate.until.isoformat() if fate.until else None,
        )
        for fate in _largest(fates, Outcome.LATER)
    ]


def _largest(fates: Sequence[Fate], outcome: Outcome) -> list[Fate]:
    some = [fate for fate in fates if fate.outcome is outcome]
    return sorted(some, key=lambda fate: (-fate.size, fate.digest))[:NAMED_BLOBS]
