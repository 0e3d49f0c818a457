"""What the check asks the database alone: its rows, and the counters beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from ullage.check.findings import Finding, Issue, Mode, done
from ullage.check.invariants import (
    empty_issues,
    jobless_issues,
    kept_issues,
    late_operation_issues,
    link_issues,
    manifest_issues,
    overdue_issues,
    ownerless_issues,
    repository_issues,
    stalled_issues,
    tag_issues,
)
from ullage.check.queries import manifest_rows, other_rows, repairs, rows, totals
from ullage.check.queries.paging import Only, Which
from ullage.check.run import OVERDUE, Progress, Run
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.oci.digest import Digest
from ullage.registry.identity import is_own_store
from ullage.registry.queries import uploads
from ullage.registry.queries.reclaim.reviews import schedule_review

_recount_totals = done(repairs.recount_totals)


def integrity(run: Run) -> Iterator[Progress]:
    problems = run.registry.db.integrity_problems()
    if problems:
        # Like everything else, only what is found twice.
        again = set(run.registry.db.integrity_problems())
        for problem, times in Counter(problems).items():
            if problem in again:
                message = problem if times == 1 else f"{problem} ({times} times)"
                run.found("I29", "corruption", "the database", message)
    yield Progress("integrity", 1, 1, 0)


def survey(run: Run) -> Iterator[Progress]:
    stored = run.registry.read(totals.stored_totals)
    run.expected = {"manifests": stored["manifest_count"], "blobs": stored["blob_count"]}
    if run.mode is not Mode.FAST:
        objects = run.registry.blobs.list()
        run.store_is_empty = all(found.problem is not None for found in objects)
        run.store_is_own = is_own_store(run.registry)
    yield Progress("survey", 1, 1, 0)


def manifests(run: Run) -> Iterator[Progress]:
    return run.walk("manifests", manifest_rows.manifests, manifest_issues)


def tags(run: Run) -> Iterator[Progress]:
    return run.walk("tags", rows.tags, tag_issues)


def links(run: Run) -> Iterator[Progress]:
    """Rows that refer to rows that are not there. The database's foreign keys forbid them."""
    yield from run.walk("broken links", other_rows.broken_links, link_issues)
    for fetch in (other_rows.ownerless_references, other_rows.ownerless_children):
        yield from run.walk("broken links", fetch, ownerless_issues)
    run.checked["links"] = run.registry.read(totals.count_links)


def forgotten(run: Run) -> Iterator[Progress]:
    """Unused links are reviewed when their lease ends, and the worker is in time."""

    def overdue(tx: Transaction, which: Which[Any]) -> Sequence[other_rows.LinkFacts]:
        return other_rows.overdue_reviews(tx, which, run.registry.now() - OVERDUE)

    yield from run.walk(
        "forgotten links", other_rows.forgotten_links, partial(_forgotten_issues, run)
    )
    yield from run.walk("overdue reviews", overdue, overdue_issues)


def _forgotten_issues(run: Run, link: other_rows.LinkFacts) -> Iterator[Issue]:
    if link.repository is None or link.size is None:
        return
    repository_id, digest = link.key
    now = run.registry.now()

    def requeue(tx: Transaction) -> bool:
        if not other_rows.forgotten_links(tx, Only([link.key])):
            return False
        schedule_review(tx, repository_id, Digest(digest), now)
        return True

    message = f"{link.size} bytes that no manifest needs would never be given back"
    finding = Finding("I9", "leak", f"{link.repository} blob {digest}", message)
    yield Issue(finding, requeue, trusts_references=True)


def jobs(run: Run) -> Iterator[Progress]:
    def stalled(tx: Transaction, which: Which[Any]) -> Sequence[other_rows.JobFacts]:
        return other_rows.stalled_jobs(tx, which, run.registry.now() - OVERDUE)

    yield from run.walk("jobs", other_rows.jobless_items, jobless_issues)
    yield from run.walk("jobs", stalled, stalled_issues)


def operations(run: Run) -> Iterator[Progress]:
    """What was deleted softly is hidden, belongs to an operation, and is freed in time."""
    policy = run.registry.read(soft_delete.find_policy)

    def overdue(tx: Transaction, which: Which[Any]) -> Sequence[other_rows.OperationFacts]:
        days = timedelta(days=policy.days)
        return other_rows.overdue_operations(tx, which, run.registry.now() - days - OVERDUE)

    yield from run.walk("operations", other_rows.odd_kept, kept_issues)
    yield from run.walk("operations", other_rows.empty_operations, empty_issues)
    yield from run.walk("operations", overdue, late_operation_issues)


def counters(run: Run) -> Iterator[Progress]:
    yield from run.walk("repositories", rows.repositories, repository_issues)
    # Twice, like everything else. While others push, only the difference stays the same.
    first = _drift(run)
    drift = _drift(run) if any(first.values()) else {}
    for name, difference in drift.items():
        if difference and first[name] == difference:
            message = f"is {abs(difference)} too {'high' if difference > 0 else 'low'}"
            finding = Finding("I14", "accounting", f"counter {name}", message)
            run.record([Issue(finding, _recount_totals)])
    yield Progress("counters", 1, 1, run.bytes["hashed"])


def _drift(run: Run) -> dict[str, int]:
    """By how much each registry-wide counter is wrong."""

    def compare(tx: Transaction) -> dict[str, int]:
        stored, counted = totals.stored_totals(tx), totals.counted_totals(tx)
        run.bytes["blobs"] = counted["blob_bytes"]
        run.bytes["uploads"] = uploads.uploading_bytes(tx)
        run.bytes["pending"] = counted["pending_bytes"]
        return {name: stored[name] - counted[name] for name in stored}

    return run.registry.snapshot(compare)
