"""Soft delete: whether deletions can be taken back, and for how long (deletion.md section 7)."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ullage.database.transaction import Transaction
from ullage.deletion.forecast import Fate, Forecast, Outcome
from ullage.deletion.queries.move_manifests import move_manifests
from ullage.deletion.queries.operations import records
from ullage.deletion.queries.operations import tags as tags_queries
from ullage.deletion.queries.operations.move_manifests import drop_tags, tags_there
from ullage.deletion.queries.operations.repositories import hidden_repository, lock_kept
from ullage.oci.digest import Digest
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.queries import policies
from ullage.registry.queries.content.blobs import lock_blobs
from ullage.registry.queries.content.manifests import ManifestRow
from ullage.registry.queries.content.remove_manifests import blobs_of
from ullage.registry.queries.content.repositories import add_to_repository
from ullage.registry.queries.reclaim.release_links import Released, bytes_linked_once, release_links
from ullage.registry.queries.references import manifests

POLICY = "soft-delete"
LEAST_DAYS, MOST_DAYS = 1, 90
DEFAULT_DAYS = 7
# Why bytes come back later.
SOFT_DELETED = "soft-deleted"


@dataclass(frozen=True, slots=True)
class SoftDelete:
    """The policy. Its days also count for what was deleted before it was changed or disabled."""

    enabled: bool = False
    days: int = DEFAULT_DAYS
    # None: it was never set.
    updated_at: datetime | None = None

    def until(self, counts_from: datetime) -> datetime:
        """When what was deleted then is freed."""
        return counts_from + timedelta(days=self.days)


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where to keep what is deleted, so that it can be restored."""

    operation_id: str
    until: datetime


# --- the policy -----------------------------------------------------------------------------------


def find_policy(tx: Transaction) -> SoftDelete:
    """The policy as of this transaction."""
    found = policies.find(tx, POLICY)
    if found is None:
        return SoftDelete()
    return SoftDelete(found.document["enabled"], found.document["days"], found.updated_at)


def of_document(document: str | None) -> SoftDelete:
    """The policy from its stored form; None if it was never set."""
    if document is None:
        return SoftDelete()
    values = json.loads(document)
    return SoftDelete(values["enabled"], values["days"])


def get_policy(registry: Registry) -> SoftDelete:
    return registry.read(find_policy)


def set_policy(
    registry: Registry, caller: Caller, *, enabled: bool | None = None, days: int | None = None
) -> SoftDelete:
    """Change what is not None; the policy as it is then. Raises ValueInvalid."""
    if days is not None and not LEAST_DAYS <= days <= MOST_DAYS:
        raise ValueInvalid(
            {"days": days}, f"days: expected a number from {LEAST_DAYS} to {MOST_DAYS}"
        )
    now = registry.now()

    def change(tx: Transaction) -> SoftDelete:
        old = find_policy(tx)
        new = SoftDelete(
            old.enabled if enabled is None else enabled, old.days if days is None else days, now
        )
        document = {"enabled": new.enabled, "days": new.days}
        policies.put(tx, POLICY, document, now)
        registry.audit(tx, caller, "policy.update", target=POLICY, detail=document)
        return new

    changed = registry.write(change, freeing=True)
    # Fewer days may have made something due.
    registry.wake()
    return changed


# --- what becomes of bytes meanwhile --------------------------------------------------------------


def kept_forecast(found: Forecast, policy: SoftDelete, now: datetime) -> Forecast:
    """The same with soft delete: nothing is freed before the days are over."""
    if not policy.enabled:
        return found
    return replace(
        found,
        alone_bytes=0,
        doubted_bytes=found.doubted_bytes + found.alone_bytes,
        fates=kept_fates(found.fates, policy, now),
    )


def kept_fates(fates: list[Fate], policy: SoftDelete, now: datetime) -> list[Fate]:
    """As kept_forecast, of blobs that have a fate of their own."""
    if not policy.enabled:
        return fates
    until = policy.until(now)
    return [
        fate
        if fate.outcome is Outcome.KEPT
        else replace(
            fate,
            outcome=Outcome.LATER,
            until=max(until, fate.until or until),
            because=SOFT_DELETED,
        )
        for fate in fates
    ]


# --- keeping --------------------------------------------------------------------------------------


def begin(
    tx: Transaction,
    policy: SoftDelete,
    operation_id: str,
    kind: str,
    caller: Caller,
    target: str | None,
    now: datetime,
) -> Keeping | None:
    """Write down an operation to keep things under; None if the policy says that nothing is."""
    if not policy.enabled:
        return None
    records.begin(tx, operation_id, kind, caller.subject, target, now)
    return Keeping(operation_id, policy.until(now))


def keep_manifests(
    tx: Transaction,
    registry: Registry,
    repository_id: int,
    rows: Sequence[ManifestRow],
    references: Collection[Digest],
    keeping: Keeping,
    now: datetime,
) -> Released:
    """As delete.take_away, but nothing is lost: it goes to a hidden repository of the operation.

    Children that stay, because something else keeps them, are copied: what is kept is complete.
    """
    hidden_id, there_before = hidden_repository(tx, keeping.operation_id, repository_id)
    copies = _staying_children(tx, rows)
    more = blobs_of(tx, [row.id for row in copies]) if copies else {}
    lock_blobs(tx, {*references, *more}, to_drop=True)
    if there_before:
        _set_clashing_tags_aside(tx, repository_id, hidden_id, rows, keeping)
    move_manifests(tx, repository_id, hidden_id, rows, copies, now, touch=False)
    released = release_links(
        tx,
        registry.leases,
        repository_id,
        references,
        now=now,
        due=registry.due(now),
    )
    return Released(
        released.freed_bytes,
        released.freed_blobs,
        released.leased_bytes,
        bytes_linked_once(tx, references),
    )


def _staying_children(tx: Transaction, rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """What these manifests list, and what that lists, that is not among them."""
    known = {row.id for row in rows}
    found: dict[int, ManifestRow] = {}
    parents = known
    while parents:
        children = {child.id: child for _, child in manifests.children(tx, parents)}
        parents = children.keys() - known - found.keys()
        found |= {id_: children[id_] for id_ in parents}
    return list(found.values())


def _set_clashing_tags_aside(
    tx: Transaction,
    repository_id: int,
    hidden_id: int,
    rows: Sequence[ManifestRow],
    keeping: Keeping,
) -> None:
    """A job that goes on may take a tag whose name it has taken before, from another manifest."""
    tags = tags_there(tx, [row.id for row in rows], hidden_id)
    if tags:
        kept = lock_kept(tx, hidden_id)
        assert kept is not None
        tags_queries.remember_tags(tx, keeping.operation_id, repository_id, kept.name, tags)
        dropped = drop_tags(tx, repository_id, tags)
        add_to_repository(tx, repository_id, tag_count=-dropped)


def remember_tags(
    tx: Transaction,
    repository_id: int,
    repository: RepositoryName,
    tags: Collection[Tag],
    keeping: Keeping,
) -> None:
    """Keep what these tags point to, before they go from manifests that stay."""
    tags_queries.remember_tags(tx, keeping.operation_id, repository_id, repository, tags)
