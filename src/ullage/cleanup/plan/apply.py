"""Carrying out a plan: exactly what it shows, or nothing (deletion.md section 4).

The deleting transaction looks again, by the same code. What goes must be what was going, on the
same tags, and free the same bytes. `allow_smaller` accepts that some of it is gone or is needed by
now, never that anything else would go.

What is too large for one transaction is a job's (as_job.py): the whole is looked at before it
begins, and each part again when it goes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from ullage.cleanup.job.documents import AboutRepository, PlanJob
from ullage.cleanup.job.jobs import KEPT, queue_job
from ullage.cleanup.plan.difference import (
    NAMED_DIFFERENCES,
    StoredPlan,
    difference_of,
    going_of,
    in_words,
    look_again,
)
from ullage.cleanup.plan.documents import Receipt, StoredPlanDocument
from ullage.cleanup.plan.plan import read_plan, receipt_of
from ullage.cleanup.plan.preview import Preview
from ullage.cleanup.queries import plans
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.delete import take_away, take_repositories_away
from ullage.documents import packed, plain
from ullage.failpoints import failpoint
from ullage.oci.errors import PlanChanged, PlanRefused, PlanUnknown, Unavailable
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import image_locks
from ullage.registry.queries.content.repositories import lock_repository
from ullage.registry.queries.references.repositories import Stamp, stamp

# The audit log has this many digests of one plan.
AUDITED_DIGESTS = 10_000
# How often a large repository is looked at again because of pushes to it meanwhile.
LOOKS = 3


def apply_plan(
    registry: Registry,
    plan_id: str,
    caller: Caller,
    *,
    allow_smaller: bool = False,
    allow: Collection[str] = (),
) -> Receipt:
    """As apply, and count what became of it."""
    try:
        return apply(registry, plan_id, caller, allow_smaller=allow_smaller, allow=allow)
    except PlanChanged:
        registry.tallies.add("plans", "changed")
        raise
    except PlanRefused:
        registry.tallies.add("plans", "refused")
        raise


def apply(
    registry: Registry,
    plan_id: str,
    caller: Caller,
    *,
    allow_smaller: bool,
    allow: Collection[str],
) -> Receipt:
    """Delete what the plan shows; returns the receipt, the same one to every later call.

    A large plan's receipt names the job that carries it out, with what it has done so far.

    `allow` names rails that may be run into. The caller has checked the rights. Raises
    PlanUnknown, PlanRefused with the rails, PlanChanged with the difference.
    """
    now = registry.now()

    def read(tx: Transaction) -> StoredPlan:
        stored = plans.find(tx, plan_id, now)
        if stored is None:
            raise PlanUnknown({"plan": plan_id})
        return StoredPlan(read_plan(tx, stored))

    plan = registry.snapshot(read)
    if plan.chosen or (plan.large(registry) and plan.wanted.repository is not None):
        return _start(registry, plan, caller, now, allow_smaller, allow)
    if plan.large(registry):
        return _delete_large_repositories(
            registry, plan, caller, now, allow_smaller=allow_smaller, allow=allow
        )

    def carry_out(tx: Transaction) -> Receipt:
        receipt = _receipt(tx, plan, now)
        if receipt is not None:
            return receipt
        _require_allowed(plan.document, allow)
        receipt = _carry_out(tx, registry, plan, caller, now, allow_smaller)
        _mark_applied(tx, registry, plan, receipt, now)
        return receipt

    receipt = registry.write(carry_out, freeing=True)
    failpoint("delete.after_row")
    registry.wake()
    return receipt


def _receipt(tx: Transaction, plan: StoredPlan, now: datetime) -> Receipt | None:
    """What came of the plan if it was applied; its row is locked. Raises PlanUnknown."""
    current = plans.find(tx, plan.id, now, lock=True)
    if current is None:
        raise PlanUnknown({"plan": plan.id})
    return receipt_of(tx, current)


def _start(
    registry: Registry,
    plan: StoredPlan,
    caller: Caller,
    now: datetime,
    allow_smaller: bool,
    allow: Collection[str],
) -> Receipt:
    """Let a job carry the plan out (as_job.py); the receipt has its id."""

    def start(tx: Transaction) -> Receipt:
        receipt = _receipt(tx, plan, now)
        if receipt is not None:
            return receipt
        _require_allowed(plan.document, allow)
        request = PlanJob(
            plan=plan.id,
            allow_smaller=allow_smaller,
            include_locked=bool(plan.document.asked.include_locked),
            repositories=[AboutRepository(part.repository) for part in plan.document.repositories],
        )
        job_id = registry.fresh_key()
        queue_job(tx, registry, job_id, "plan", request, caller)
        receipt = Receipt(plan=plan.id, job=job_id, by=caller.subject)
        _mark_applied(tx, registry, plan, receipt, now, expires_at=now + KEPT)
        applied = plans.find(tx, plan.id, now)
        assert applied is not None
        return receipt_of(tx, applied) or receipt

    receipt = registry.write(start, freeing=True)
    registry.wake()
    return receipt


def _delete_large_repositories(
    registry: Registry,
    plan: StoredPlan,
    caller: Caller,
    now: datetime,
    *,
    allow_smaller: bool,
    allow: Collection[str],
) -> Receipt:
    """As for small ones, but what takes long is looked at while others push and delete.

    If the repositories are as they were then, marking them deleted is a moment's work; the worker
    takes them apart. Raises Unavailable if they change all the time.
    """

    def look_on(tx: Transaction) -> tuple[Preview, dict[RepositoryName, Stamp | None]]:
        stamps = {name: stamp(tx, name) for name in plan.wanted.repositories}
        return look_again(tx, registry, plan, now, to_delete=False), stamps

    def carry_out(
        tx: Transaction, preview: Preview, stamps: Mapping[RepositoryName, Stamp | None]
    ) -> Receipt | None:
        receipt = _receipt(tx, plan, now)
        if receipt is not None:
            return receipt
        for name in sorted(plan.wanted.repositories):
            lock_repository(tx, name)
            if stamp(tx, name) != stamps[name] or _protected_since(tx, preview, name, now):
                return None
        receipt = _delete(tx, registry, plan, caller, now, preview, allow_smaller)
        _mark_applied(tx, registry, plan, receipt, now)
        return receipt

    _require_allowed(plan.document, allow)
    for _ in range(LOOKS):
        preview, stamps = registry.snapshot(look_on)
        receipt = registry.write(
            lambda tx, seen=(preview, stamps): carry_out(tx, *seen),  # type: ignore[misc]
            freeing=True,
        )
        if receipt is not None:
            failpoint("delete.after_row")
            registry.wake()
            return receipt
    raise Unavailable(message="these repositories change all the time; try again", retry_after=1)


def _protected_since(
    tx: Transaction, preview: Preview, name: RepositoryName, now: datetime
) -> bool:
    """Whether a whole repository that goes by the preview has something locked or deployed now."""
    going = {each: id_ for each, id_, closure in preview.closures if closure.going}
    return name in going and image_locks.covered(tx, going[name], now).first() is not None


def _mark_applied(
    tx: Transaction,
    registry: Registry,
    plan: StoredPlan,
    receipt: Receipt,
    now: datetime,
    expires_at: datetime | None = None,
) -> None:
    plans.mark_applied(tx, plan.id, packed(receipt).decode(), now, expires_at=expires_at)
    tx.after_commit(lambda: registry.tallies.add("plans", "applied"))
    # To the byte: a deletion at once that would free anything else is rolled back. Of a job nothing
    # is known yet (job/execution.py).
    planned = receipt.freed_bytes
    tx.after_commit(lambda: registry.tallies.add("planned_bytes", n=planned))


def _require_allowed(document: StoredPlanDocument, allow: Collection[str]) -> None:
    refusing = [each for each in document.warnings if each.refuses and each.rail not in allow]
    if refusing:
        words = sorted({str(warning.rail) for warning in refusing})
        raise PlanRefused(
            {"refused": plain(refusing[:NAMED_DIFFERENCES]), "allow": words},
            f"the plan {refusing[0].message}; to do so, allow {', '.join(words)}",
        )


# --- carrying out ---------------------------------------------------------------------------------


def _carry_out(
    tx: Transaction,
    registry: Registry,
    plan: StoredPlan,
    caller: Caller,
    now: datetime,
    allow_smaller: bool,
) -> Receipt:
    preview = look_again(tx, registry, plan, now, to_delete=True)
    return _delete(tx, registry, plan, caller, now, preview, allow_smaller)


def _delete(
    tx: Transaction,
    registry: Registry,
    plan: StoredPlan,
    caller: Caller,
    now: datetime,
    preview: Preview,
    allow_smaller: bool,
) -> Receipt:
    difference = difference_of(plan, preview)
    if difference and not (allow_smaller and difference.smaller):
        raise PlanChanged(plain(difference), in_words(difference))
    keeping = None
    if any(closure.going for _, _, closure in preview.closures):
        keeping = soft_delete.begin(tx, preview.policy, plan.id, "plan.apply", caller, None, now)
    whole = plan.wanted.repository is None
    if whole:
        going = {name: id_ for name, id_, closure in preview.closures if closure.going}
        take_repositories_away(tx, registry, going, now, keeping)
    for name, repository_id, closure in preview.closures:
        if not closure.going:
            continue
        if not whole:
            rows = closure.rows()
            released = take_away(
                tx, registry, repository_id, rows, preview.references, now, keeping
            )
            if released.freed_bytes != preview.freed_bytes:
                # One of these blobs was leased to a pusher at this very moment.
                raise PlanChanged({"freed_bytes": [preview.freed_bytes, released.freed_bytes]})
        failpoint("delete.in_transaction")
        _audit(tx, registry, plan, caller, name, preview)
    return Receipt(
        plan=plan.id,
        applied=now.isoformat(),
        by=caller.subject,
        freed_bytes=preview.freed_bytes,
        freed_later_bytes=preview.later_bytes,
        manifest_count=sum(part.manifests_going for part in preview.parts),
        tag_count=sum(part.tags_going for part in preview.parts),
        operation=keeping.operation_id if keeping else None,
        restorable_until=keeping.until.isoformat() if keeping else None,
        difference=difference,
    )


def _audit(
    tx: Transaction,
    registry: Registry,
    plan: StoredPlan,
    caller: Caller,
    name: RepositoryName,
    preview: Preview,
) -> None:
    going = [key[1] for key in going_of(preview) if key[0] == name]
    part = next(part for part in preview.parts if part.repository == name)
    detail: dict[str, Any] = {
        "manifest_count": part.manifests_going,
        "tag_count": part.tags_going,
        "manifests": going[:AUDITED_DIGESTS],
    }
    if len(preview.closures) == 1:
        detail |= {"freed_bytes": preview.freed_bytes, "leased_bytes": preview.later_bytes}
    registry.audit(tx, caller, "plan.apply", repository=name, target=plan.id, detail=detail)
