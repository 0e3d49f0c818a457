"""Planning a job: all of what goes is chosen and written down before anything is deleted.

What kind of job it is says what chooses; the rails are looked at here. A plan that a crash cut
short is made again from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ullage.cleanup.guardrails import RepositoryShare, Warning, purge_guardrails
from ullage.cleanup.job.claims import ClaimLost, renew_claim
from ullage.cleanup.job.documents import Findings, terms
from ullage.cleanup.plan.documents import Difference, KeptItem, share_document
from ullage.cleanup.queries import jobs
from ullage.cleanup.queries.jobs import Item, JobRow
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.forecast import forecast_manifests
from ullage.documents import UNSET, changed, plain
from ullage.failpoints import failpoint
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import pulled_words, pullers, write_pulls
from ullage.registry.pull.user_agents import RECENTLY
from ullage.registry.queries import pulls

# Items are written down in transactions of this many.
WRITTEN_TOGETHER = 500
# Whole repositories that a plan of a job names; the sums count all of them.
NAMED = 1000


# --- what a chooser finds -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """What planning a job has found, beside the items."""

    shares: list[RepositoryShare]
    notes: list[str]
    # What else there is to warn of.
    warnings: Sequence[Warning] = ()
    # What might have gone, and why it does not.
    stays: list[KeptItem] = field(default_factory=list)
    # Of a plan that was looked at, its rails included: how many tags go, and which bytes.
    as_planned: AsPlanned | None = None


@dataclass(frozen=True, slots=True)
class AsPlanned:
    """What a plan that a job carries out comes to."""

    tag_count: int
    freed_bytes: int
    later_bytes: int
    difference: Difference | None


class Refused(Exception):
    """The job is not done at all; `findings` say why not."""

    def __init__(self, findings: Findings) -> None:
        super().__init__()
        self.findings = findings


# Chooses what a job deletes, or raises Refused: hands every item to the function that it gets last.
Chooser = Callable[[Registry, JobRow, Callable[[Item], None]], Chosen]


# --- planning -------------------------------------------------------------------------------------


class _Writer:
    """Writes items down, some in each transaction."""

    def __init__(self, registry: Registry, job_id: str, token: str) -> None:
        self._registry, self._job_id, self._token = registry, job_id, token
        self._waiting: list[Item] = []
        self._written = 0
        self.counts = {"tag": 0, "manifest": 0}

    def add(self, item: Item) -> None:
        self._waiting.append(item)
        self.counts["tag" if item.kind == "tag" else "manifest"] += 1
        if len(self._waiting) >= WRITTEN_TOGETHER:
            self.flush()

    def flush(self) -> None:
        def write(tx: Transaction) -> None:
            row = renew_claim(tx, self._registry, self._job_id, self._token)
            if row.cancelled:
                raise ClaimLost
            jobs.add_items(tx, self._job_id, self._written + 1, self._waiting)
            jobs.change(
                tx,
                self._job_id,
                tag_count=self.counts["tag"],
                manifest_count=self.counts["manifest"],
            )

        self._registry.write(write, freeing=True)
        self._written += len(self._waiting)
        self._waiting = []


def plan_job(registry: Registry, chooser: Chooser, row: JobRow, token: str) -> None:
    """Choose what goes, from the beginning: nothing is deleted before all of it is known."""
    while registry.write(lambda tx: _begin_again(tx, registry, row.id, token), freeing=True):
        pass
    writer = _Writer(registry, row.id, token)
    write_pulls(registry)
    try:
        chosen = chooser(registry, row, writer.add)
    except Refused as error:
        _planned(registry, row, token, "refused", error.findings)
        return
    writer.flush()
    planned = chosen.as_planned
    if planned is not None:
        registry.write(lambda tx: _count_tags(tx, registry, row.id, token, planned.tag_count))
        findings = _findings(chosen, (), planned.freed_bytes, planned.later_bytes)
        findings = changed(findings, difference=planned.difference or UNSET)
        _planned(registry, row, token, "running", findings)
        return
    freed, later = registry.snapshot(lambda tx: _bytes_of(tx, registry, row.id))
    request = terms(row)
    chosen = replace(chosen, shares=_with_pulls(registry, row.id, chosen.shares))
    warnings = purge_guardrails(chosen.shares, freed + later, request.caps, keep=request.keep)
    warnings = (*warnings, *chosen.warnings)
    refused = any(warning.refuses and warning.rail not in request.allow for warning in warnings)
    state = "done" if request.dry_run else "refused" if refused else "running"
    _planned(registry, row, token, state, _findings(chosen, warnings, freed, later))


def _begin_again(tx: Transaction, registry: Registry, job_id: str, token: str) -> int:
    """Forget some of what an earlier plan has written down; how much. Raises ClaimLost."""
    renew_claim(tx, registry, job_id, token)
    jobs.change(tx, job_id, state="planning")
    return jobs.drop_items(tx, job_id, WRITTEN_TOGETHER)


def _count_tags(
    tx: Transaction, registry: Registry, job_id: str, token: str, tag_count: int
) -> None:
    renew_claim(tx, registry, job_id, token)
    jobs.change(tx, job_id, tag_count=tag_count)


def _bytes_of(tx: Transaction, registry: Registry, job_id: str) -> tuple[int, int]:
    """What all of a job's manifests free, at once and later."""
    going = jobs.manifests_of(tx, job_id)
    now = registry.now()
    found = forecast_manifests(tx, registry.leases, going, now)
    found = soft_delete.kept_forecast(found, soft_delete.find_policy(tx), now)
    return found.freed_bytes, found.later_bytes


def _planned(registry: Registry, row: JobRow, token: str, state: str, findings: Findings) -> None:
    def end(tx: Transaction) -> None:
        renew_claim(tx, registry, row.id, token)
        ended = None if state == "running" else registry.now()
        found = changed(findings, restorable=soft_delete.find_policy(tx).enabled)
        jobs.change(tx, row.id, state=state, findings=plain(found), finished_at=ended)

    registry.write(end, freeing=True)
    failpoint("job.after_batch")


def _with_pulls(
    registry: Registry, job_id: str, shares: list[RepositoryShare]
) -> list[RepositoryShare]:
    """What goes of what was pulled lately."""
    since = registry.now() - RECENTLY
    found = registry.read(lambda tx: pulls.recent_of_job(tx, job_id, since, pullers(tx).counted))
    return [
        replace(
            share,
            pulled_going=found[name].number,
            pulled=pulled_words(found[name].digest, found[name].at),
        )
        if (name := RepositoryName(share.repository)) in found
        else share
        for share in shares
    ]


def _findings(chosen: Chosen, warnings: tuple[Warning, ...], freed: int, later: int) -> Findings:
    touched = [share for share in chosen.shares if share.tags_going or share.manifests_going]
    return Findings(
        planned_bytes=freed,
        planned_later_bytes=later,
        repositories=[share_document(share) for share in touched[:NAMED]],
        warnings=warnings,
        notes=chosen.notes,
        stays=chosen.stays[:NAMED],
    )
