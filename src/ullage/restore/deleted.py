"""What was deleted softly: listed, with the bytes that it keeps, and freed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ullage.authorization import Action, Principal
from ullage.cleanup.queries import jobs
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.forecast import forecast_whole
from ullage.deletion.queries.operations import records
from ullage.deletion.queries.operations.records import (
    end_if_empty,
    find,
    first_begun_before,
    newest,
)
from ullage.deletion.queries.operations.repositories import (
    KeptRepository,
    kept_by,
    lock_kept,
    unkeep,
)
from ullage.deletion.queries.operations.tags import count_remembered, forget_all_tags, remembered
from ullage.deletion.soft_delete import SoftDelete
from ullage.documents import changed
from ullage.failpoints import failpoint
from ullage.oci.errors import OperationDisallowed, OperationUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.queries.reclaim.erase_repository import mark_deleted
from ullage.restore.documents import Freed, Operation, RepositoryPart, UntaggedTag

# What it takes to free something for good.
TO_FREE = (Action.DELETE, Action.DELETED_RESTORE)
# Without a request there is no account.
WORKER = Caller("", "", "worker")


@dataclass(frozen=True, slots=True)
class Page:
    """Some operations, and what comes behind them; `next` is None at the end."""

    items: list[Operation]
    next: str | None


# --- listing --------------------------------------------------------------------------------------


def list_operations(registry: Registry, principal: Principal, n: int, last: str | None) -> Page:
    """Operations, the last first, of those the caller may read about in all their repositories."""

    def read(tx: Transaction) -> Page:
        policy = soft_delete.find_policy(tx)
        before = None
        if last is not None:
            found = find(tx, last)
            before = (found.deleted_at, found.id) if found is not None else None
            if before is None:
                return Page([], None)
        items: list[Operation] = []
        while len(items) < n:
            some = newest(tx, before, n)
            items += _documents(tx, registry, some, policy, principal)
            if len(some) < n:
                break
            before = (some[-1].deleted_at, some[-1].id)
        first = items[:n]
        return Page(first, first[-1].id if len(items) >= n > 0 else None)

    return registry.snapshot(read) if n else Page([], None)


def get_operation(registry: Registry, operation_id: str, principal: Principal) -> Operation:
    """One operation, with `exclusive_bytes`: what freeing it now would give back at once.

    Raises OperationUnknown, also where the caller may not read about one of its repositories.
    """

    def read(tx: Transaction) -> Operation:
        found = find(tx, operation_id)
        some = [found] if found is not None else []
        documents = _documents(tx, registry, some, soft_delete.find_policy(tx), principal)
        if not documents:
            raise OperationUnknown({"operation": operation_id})
        tags = remembered(tx, operation_id, 1000)
        untagged = [UntaggedTag(tag.repository, tag.name, tag.digest) for tag in tags]
        return changed(documents[0], untagged=untagged)

    return registry.snapshot(read)


def operations_beginning(registry: Registry, prefix: str, principal: Principal) -> list[str]:
    """The ids of operations that begin so, of those the caller may read about."""

    def read(tx: Transaction) -> list[str]:
        some = [find(tx, id_) for id_ in records.beginning_with(tx, prefix)]
        there = [operation for operation in some if operation is not None]
        policy = soft_delete.find_policy(tx)
        return [each.id for each in _documents(tx, registry, there, policy, principal)]

    return registry.snapshot(read)


def _documents(
    tx: Transaction,
    registry: Registry,
    some: Sequence[records.Operation],
    policy: SoftDelete,
    principal: Principal,
) -> list[Operation]:
    """Those of these operations that the caller may read about."""
    ids = [operation.id for operation in some]
    kept = kept_by(tx, ids)
    untagged = count_remembered(tx, ids)
    readable = []
    for operation in some:
        own, tags = kept.get(operation.id, []), untagged.get(operation.id, {})
        names = {each.name for each in own} | tags.keys()
        if all(principal.may(Action.DELETED_READ, name) for name in names):
            readable.append(_document(tx, registry, operation, policy, own, tags))
    return readable


def _document(
    tx: Transaction,
    registry: Registry,
    operation: records.Operation,
    policy: SoftDelete,
    kept: Sequence[KeptRepository],
    untagged: Mapping[str, int],
) -> Operation:
    manifests = {str(each.name): each.manifest_count for each in kept}
    tags = {str(each.name): each.tag_count for each in kept}
    return Operation(
        id=operation.id,
        kind=operation.kind,
        by=operation.subject,
        target=operation.target,
        deleted=operation.deleted_at.isoformat(),
        until=policy.until(operation.counts_from).isoformat(),
        manifest_count=sum(each.manifest_count for each in kept),
        tag_count=sum(each.tag_count for each in kept) + sum(untagged.values()),
        bytes=sum(each.blob_bytes for each in kept),
        exclusive_bytes=_frees(tx, registry, kept),
        repositories=[
            RepositoryPart(name, manifests.get(name, 0), tags.get(name, 0) + untagged.get(name, 0))
            for name in sorted({*manifests, *untagged})
        ],
    )


def _frees(tx: Transaction, registry: Registry, kept: Collection[KeptRepository]) -> int:
    """What freeing these would give back at once."""
    ids = frozenset(each.repository_id for each in kept)
    if not ids:
        return 0
    return forecast_whole(tx, registry.leases, ids, registry.now(), hidden=True).freed_bytes


def lacking(
    registry: Registry, operation_id: str, principal: Principal, *actions: Action
) -> list[RepositoryName]:
    """Repositories of an operation on which the caller lacks one of these rights.

    Raises OperationUnknown, also where the caller may not read about one of its repositories.
    """
    operation = get_operation(registry, operation_id, principal)
    names = [RepositoryName(part.repository) for part in operation.repositories]
    return [name for name in names if not principal.may_all(actions, name)]


# --- freeing --------------------------------------------------------------------------------------


def free_operation(registry: Registry, operation_id: str, caller: Caller) -> Freed:
    """Give an operation up for good; the worker erases what it kept.

    How many bytes that frees, to the byte, unless the same ones are deleted or restored meanwhile.
    Raises OperationUnknown, OperationDisallowed while a job goes on deleting.
    """

    def choose(tx: Transaction) -> list[records.Operation]:
        found = find(tx, operation_id)
        if found is None:
            raise OperationUnknown({"operation": operation_id})
        if _is_at_work(tx, operation_id):
            raise OperationDisallowed(
                {"job": operation_id}, "its job is still at work; cancel it, or wait for its end"
            )
        return [found]

    return _free_now(registry, choose, caller)


def free_all(
    registry: Registry,
    principal: Principal,
    caller: Caller,
    repository: RepositoryName | None = None,
) -> Freed:
    """As free_operation, of every operation whose repositories the caller may delete for good.

    With `repository` only of those that took something from it.
    """

    def choose(tx: Transaction) -> list[records.Operation]:
        some: list[records.Operation] = []
        before = None
        while page := newest(tx, before, 1000):
            some += page
            before = (page[-1].deleted_at, page[-1].id)
        ids = [operation.id for operation in some]
        kept, untagged = kept_by(tx, ids), count_remembered(tx, ids)
        names = {
            id_: {part.name for part in kept.get(id_, [])} | untagged.get(id_, {}).keys()
            for id_ in ids
        }
        return [
            each
            for each in some
            if (repository is None or repository in names[each.id])
            and all(principal.may_all(TO_FREE, name) for name in names[each.id])
            and not _is_at_work(tx, each.id)
        ]

    return _free_now(registry, choose, caller)


def _free_now(
    registry: Registry, choose: Callable[[Transaction], list[records.Operation]], caller: Caller
) -> Freed:
    def measure(tx: Transaction) -> int:
        kept = kept_by(tx, [operation.id for operation in choose(tx)])
        return _frees(tx, registry, [each for some in kept.values() for each in some])

    def free(tx: Transaction) -> Freed:
        return _free(tx, registry, choose(tx), caller)

    # Counting takes as long as there is much of it, so no other writer has to wait for it.
    freed_bytes = registry.snapshot(measure)
    freed = registry.write(free, freeing=True)
    failpoint("deleted.after_row")
    registry.wake()
    return changed(freed, freed_bytes=freed_bytes)


def expire_operations(registry: Registry) -> int:
    """Free the oldest operation if its days are over, by the policy of this moment; 0 if not."""
    now = registry.now()

    def due(tx: Transaction) -> str | None:
        policy = soft_delete.find_policy(tx)
        return first_begun_before(tx, now - timedelta(days=policy.days))

    if registry.read(due) is None:
        return 0

    def free(tx: Transaction) -> int:
        # Looked for again: the policy, or the operation, may have changed in between.
        operation_id = due(tx)
        found = find(tx, operation_id) if operation_id is not None else None
        if found is None:
            return 0
        _free(tx, registry, [found], WORKER)
        return 1

    freed = registry.write(free, freeing=True)
    failpoint("deleted.after_row")
    return freed


def _is_at_work(tx: Transaction, operation_id: str) -> bool:
    job = jobs.find(tx, operation_id)
    return job is not None and job.finished_at is None


def _free(
    tx: Transaction, registry: Registry, some: Sequence[records.Operation], caller: Caller
) -> Freed:
    now = registry.now()
    found = kept_by(tx, [operation.id for operation in some])
    hidden = sorted(each.repository_id for parts in found.values() for each in parts)
    locked = [lock_kept(tx, repository_id) for repository_id in hidden]
    kept = [each for each in locked if each is not None]
    for each in kept:
        unkeep(tx, each.repository_id)
        mark_deleted(tx, each.repository_id, now)
    for operation in some:
        forget_all_tags(tx, operation.id)
        end_if_empty(tx, operation.id)
        detail = {"repositories": sorted({each.name for each in found.get(operation.id, [])})}
        registry.audit(tx, caller, "operation.free", target=operation.id, detail=detail)
    ids = [operation.id for operation in some]
    return Freed(ids, sum(each.manifest_count for each in kept), freed_bytes=0)
