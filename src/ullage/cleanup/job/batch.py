"""Deleting what a job has chosen, a batch at a time, each in a transaction of its own.

The transaction looks again (deletion.md section 2): whatever was pushed, tagged, locked or listed
by an index since it was chosen stays, and never goes anything that was not chosen. What became of
each item and how far the job has come are written by the same transaction, so that a process that
is killed in between has forgotten nothing and does nothing twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import takewhile

from ullage.cleanup.job.documents import findings, terms
from ullage.cleanup.queries import candidates, jobs
from ullage.cleanup.queries.jobs import BatchOutcome, Item, JobRow, PlacedItem
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.closure import Closure, StoredGraph
from ullage.deletion.delete import take_away
from ullage.deletion.soft_delete import Keeping
from ullage.deletion.unlocked import roots_of, unlocked
from ullage.failpoints import failpoint
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks, image_locks, immutable_tags
from ullage.registry.pull.pull_log import pullers
from ullage.registry.queries import attributes, pulls
from ullage.registry.queries.attributes import Lock
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests
from ullage.registry.queries.content.remove_manifests import blobs_of, tags_of
from ullage.registry.queries.content.repositories import (
    add_to_repository,
    lock_repository_id,
    touch_repository,
)
from ullage.registry.queries.reclaim.release_links import Released

# Why something stays that was chosen.
GONE = "it was gone already"
CHANGED = "it was pushed, tagged or changed meanwhile"
NEEDED = "a tag, an index or a subject holds it by now"
MORE = "something that was not chosen would go along"
PULLED = "somebody pulled it meanwhile"


@dataclass(slots=True)
class _Batch:
    """What one transaction did."""

    tags: list[Tag] = field(default_factory=list)
    manifests: list[ManifestRow] = field(default_factory=list)
    released: Released = field(default_factory=Released)
    # What stays, and why.
    skipped: dict[int, str] = field(default_factory=dict)
    # Set if what went can be restored: under the job's own id.
    keeping: Keeping | None = None


def clean_some(tx: Transaction, registry: Registry, job: JobRow, n: int, now: datetime) -> int:
    """Deal with up to `n` items of a job whose row is locked; how many, 0 when none is left."""
    placed = jobs.item_page(tx, job.id, job.position, n, to_do=True)
    if not placed:
        return 0
    first = placed[0].item
    some = list(takewhile(lambda each: _kind_of(each.item) == _kind_of(first), placed))
    batch = _Batch()
    if not lock_repository_id(tx, first.repository_id):
        batch.skipped = {each.position: GONE for each in some}
    elif first.kind == "tag":
        _drop_tags(tx, job, some, batch, now)
    else:
        _drop_manifests(tx, registry, job, some, batch, now)
    failpoint("job.in_transaction")
    _record(tx, registry, job, some, batch)
    return len(some)


def _kind_of(item: Item) -> tuple[int, str]:
    """What is dealt with together."""
    return item.repository_id, item.kind


def _record(
    tx: Transaction, registry: Registry, job: JobRow, some: Sequence[PlacedItem], batch: _Batch
) -> None:
    is_tags = some[0].item.kind == "tag"
    jobs.record_batch(
        tx,
        job,
        BatchOutcome(
            position=some[-1].position,
            skipped=batch.skipped,
            tag_positions=[each.position for each in some if each.position not in batch.skipped]
            if is_tags
            else [],
            manifest_ids=[row.id for row in batch.manifests],
            tags_deleted=len(batch.tags),
            freed_bytes=batch.released.freed_bytes,
            leased_bytes=batch.released.leased_bytes + batch.released.kept_bytes,
            restorable=batch.keeping is not None,
        ),
    )
    kept = len(batch.skipped)
    tx.after_commit(partial(registry.tallies.add, "job_items", job.kind, "kept", n=kept))
    went = len(some) - kept
    tx.after_commit(partial(registry.tallies.add, "job_items", job.kind, "deleted", n=went))
    if not batch.tags and not batch.manifests:
        return
    registry.audit(
        tx,
        _asker(job),
        f"{job.kind}.delete",
        repository=some[0].item.repository,
        target=job.id,
        detail={
            "tags": batch.tags,
            "manifests": [row.digest for row in batch.manifests],
            "freed_bytes": batch.released.freed_bytes,
            "leased_bytes": batch.released.leased_bytes,
        }
        | ({"operation": batch.keeping.operation_id} if batch.keeping else {}),
    )


def _asker(job: JobRow) -> Caller:
    return Caller(job.subject, job.address, "", job.request_id)


def _begin(tx: Transaction, job: JobRow, now: datetime) -> Keeping | None:
    """All of a job is one operation: one restore takes it back.

    What could be taken back when it was chosen still can, whatever the policy says by now.
    """
    policy = soft_delete.find_policy(tx)
    if findings(job).restorable:
        policy = replace(policy, enabled=True)
    return soft_delete.begin(tx, policy, job.id, f"{job.kind}.delete", _asker(job), None, now)


def _include_locked(job: JobRow) -> bool:
    return terms(job).include_locked


def _pulled_since(tx: Transaction, job: JobRow, manifest_ids: Collection[int]) -> set[int]:
    """Which of these a policy must not delete, because they were pulled since."""
    since = terms(job).unpulled_since
    if since is None:
        return set()
    moment = datetime.fromisoformat(since)
    last = pulls.of_manifests(tx, manifest_ids, pullers(tx).counted)
    return {id_ for id_, at in last.items() if at >= moment}


# --- tags -----------------------------------------------------------------------------------------


def _drop_tags(
    tx: Transaction, job: JobRow, some: Sequence[PlacedItem], batch: _Batch, now: datetime
) -> None:
    repository_id, name = some[0].item.repository_id, some[0].item.repository
    if not attributes.of_repository(tx, repository_id).write_enabled:
        reason = attribute_locks.described(name, Lock("repository", name, "write_enabled"))
        batch.skipped = {each.position: reason for each in some}
        return
    there = candidates.tags_now(
        tx, repository_id, [each.item.tag for each in some if each.item.tag is not None]
    )
    pulled = _pulled_since(tx, job, {each.item.manifest_id for each in some})
    touched: set[int] = set()
    covered = image_locks.covered(tx, repository_id, now)
    immutable = immutable_tags.in_force(tx, name)
    for position, item, _, _ in some:
        assert item.tag is not None
        lock = covered.of_tag(item.tag, item.manifest_id)
        by_rule = immutable.of(item.tag)
        current = there.get(item.tag)
        if current is None:
            batch.skipped[position] = GONE
        elif (current.manifest_id, current.updated_at) != (item.manifest_id, item.seen_at):
            batch.skipped[position] = CHANGED
        elif lock is not None:
            batch.skipped[position] = image_locks.in_words(lock)
        elif by_rule is not None:
            batch.skipped[position] = by_rule
        elif current.locked and not _include_locked(job):
            batch.skipped[position] = f"tag '{item.tag}' is locked"
        elif item.manifest_id in pulled:
            batch.skipped[position] = PULLED
        else:
            batch.tags.append(item.tag)
            touched.add(item.manifest_id)
    if not batch.tags:
        return
    batch.keeping = _begin(tx, job, now)
    if batch.keeping is not None:
        soft_delete.remember_tags(tx, repository_id, name, batch.tags, batch.keeping)
    candidates.drop_tags(tx, repository_id, batch.tags)
    add_to_repository(tx, repository_id, tag_count=-len(batch.tags))
    jobs.saw_again(tx, job.id, touched, now)
    candidates.touch_manifests(tx, touched, now)
    touch_repository(tx, repository_id, now)


# --- manifests ------------------------------------------------------------------------------------


def _drop_manifests(
    tx: Transaction,
    registry: Registry,
    job: JobRow,
    some: Sequence[PlacedItem],
    batch: _Batch,
    now: datetime,
) -> None:
    repository_id, name = some[0].item.repository_id, some[0].item.repository
    positions = {each.item.manifest_id: each.position for each in some}
    standing = candidates.standing(tx, positions)
    pulled = _pulled_since(tx, job, positions)
    for position, item, _, _ in some:
        current = standing.get(item.manifest_id)
        if current is None:
            batch.skipped[position] = GONE
        elif current.updated_at != item.seen_at:
            batch.skipped[position] = CHANGED
        elif current.referenced and item.kind != "image":
            batch.skipped[position] = NEEDED
        elif item.manifest_id in pulled:
            batch.skipped[position] = PULLED
    wanted = [each.item.digest for each in some if each.position not in batch.skipped]
    roots = list(find_manifests(tx, repository_id, wanted).values())
    closure = _as_chosen(tx, job, repository_id, name, roots, positions, batch, now)
    for id_, (_, keeping) in closure.kept.items():
        if id_ in positions:
            batch.skipped[positions[id_]] = keeping[0].by
    rows = closure.rows()
    if rows:
        ids = [row.id for row in rows]
        # A purge counts the tags that it was asked for, a plan all that vanish.
        batch.tags = tags_of(tx, ids) if job.kind == "plan" else []
        references = blobs_of(tx, ids)
        batch.keeping = _begin(tx, job, now)
        batch.released = take_away(
            tx, registry, repository_id, rows, references, now, batch.keeping
        )
        batch.manifests = rows


def _as_chosen(
    tx: Transaction,
    job: JobRow,
    repository_id: int,
    name: RepositoryName,
    roots: list[ManifestRow],
    positions: Mapping[int, int],
    batch: _Batch,
    now: datetime,
) -> Closure:
    """What goes, without those roots with which something else would go than was chosen."""
    while True:
        despite = [row.id for row in roots] if _include_locked(job) else []
        graph = StoredGraph(tx, repository_id)
        closure = unlocked(tx, name, repository_id, roots, graph, now, despite)
        along = closure.going.keys() - {row.id for row in roots}
        reasons = _not_as_chosen(tx, job, along) if along else {}
        if not reasons:
            return closure
        of = roots_of(closure)
        spared = {of[id_]: reason for id_, reason in reasons.items()}
        for id_, reason in spared.items():
            batch.skipped[positions[id_]] = reason
        roots = [row for row in roots if row.id not in spared]


def _not_as_chosen(tx: Transaction, job: JobRow, ids: set[int]) -> dict[int, str]:
    """Which of these manifests were not chosen, or have been pushed or changed since."""
    chosen, current = jobs.planned(tx, job.id, ids), candidates.standing(tx, ids)
    reasons = dict.fromkeys(ids - chosen.keys(), MORE)
    for id_, seen_at in chosen.items():
        if current[id_].updated_at != seen_at:
            reasons[id_] = CHANGED
    return reasons
