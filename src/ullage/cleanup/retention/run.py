"""Retention: rules in the database, run by the worker as a job a day (rules.py decides).

What the rules choose is looked at again when it is deleted (job/batch.py): a tag that was pushed
again, a manifest that was tagged again (acr#520), listed, locked or pulled meanwhile stays. A
repository that the rules would empty, or take most tags of, stays as it is unless they say so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.cleanup.candidates import FAR_FUTURE, PAGE, take, without_attached
from ullage.cleanup.guardrails import (
    Caps,
    Guardrail,
    RepositoryShare,
    RunCaps,
    Warning,
    purge_guardrails,
)
from ullage.cleanup.job.documents import AboutRepository, Job, RetentionJob
from ullage.cleanup.job.jobs import get_job, queue_job
from ullage.cleanup.job.planning import Chosen
from ullage.cleanup.queries import candidates, jobs
from ullage.cleanup.queries.candidates import Candidate, TagCandidate
from ullage.cleanup.queries.jobs import Item, JobRow
from ullage.cleanup.retention.documents import UntaggedRule
from ullage.cleanup.retention.policy import (
    KIND,
    Compiled,
    compiled,
    counts_from,
    decider,
    find_retention,
    note_run,
)
from ullage.cleanup.retention.rules import (
    Decider,
    Fact,
    Retention,
    Rule,
    Untagged,
    Verdict,
    rule_document,
    rules_of,
)
from ullage.database.transaction import Transaction
from ullage.documents import changed, stored
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import immutable_tags
from ullage.registry.pull.pull_log import pullers
from ullage.registry.pull.user_agents import RECENTLY
from ullage.registry.queries import pulls

# The audit log's subject of what rules delete.
WORKER = Caller(subject="retention", address="local", agent="ullage")


# --- running --------------------------------------------------------------------------------------


def start_run(registry: Registry, caller: Caller, *, dry_run: bool) -> Job:
    """Run the rules now, or say what they would do."""
    job_id = registry.fresh_key()

    def start(tx: Transaction) -> None:
        _queue(tx, registry, job_id, find_retention(tx, lock=True), caller, dry_run=dry_run)

    registry.write(start, freeing=True)
    registry.wake()
    return get_job(registry, job_id, WITHOUT_ACCOUNTS)


def start_if_due(registry: Registry) -> bool:
    """Queue a run if it is time for one, in whatever process looks first."""
    if not registry.read(lambda tx: _due(tx, registry.now())):
        return False
    job_id = registry.fresh_key()

    def start(tx: Transaction) -> bool:
        retention = find_retention(tx, lock=True)
        if not _due(tx, registry.now()) or jobs.count_open(tx, KIND):
            return False
        _queue(tx, registry, job_id, retention, WORKER, dry_run=False)
        return True

    started = registry.write(start, freeing=True)
    if started:
        registry.wake()
    return started


def _due(tx: Transaction, now: datetime) -> bool:
    retention, since = find_retention(tx), counts_from(tx)
    return bool(retention.in_force()) and since is not None and now >= since + retention.every


def _queue(
    tx: Transaction,
    registry: Registry,
    job_id: str,
    retention: Retention,
    caller: Caller,
    *,
    dry_run: bool,
) -> None:
    rules, now = retention.in_force(), registry.now()
    matchers = compiled(rules)
    allowed = any(Guardrail.PULLED in rule.allow for rule in rules)
    request = RetentionJob(
        rules=[rule_document(rule) for rule in rules if rule.since is None],
        untagged=[
            UntaggedRule(rule.older_than.days, rule.since.isoformat())
            for rule in rules
            if rule.since is not None and rule.older_than is not None
        ],
        at=now.isoformat(),
        unpulled_since=(now if allowed else now - RECENTLY).isoformat(),
        dry_run=dry_run,
        caps=RunCaps(retention.max_manifests, retention.max_bytes),
        repositories=[
            AboutRepository(name, repository_id, named=True)
            for repository_id, name in candidates.repositories(tx)
            if any(each.repository(name) for each in matchers)
        ],
    )
    if not dry_run:
        note_run(tx, now, ran=True)
    queue_job(tx, registry, job_id, KIND, request, caller)


def _compiled(request: RetentionJob) -> list[Compiled]:
    """The rules as they were when the job was queued."""
    last = [
        Untagged(enabled=True, days=each.days, since=datetime.fromisoformat(each.since)).rule()
        for each in request.untagged
    ]
    return compiled([*rules_of(request.rules), *(rule for rule in last if rule)])


def choose_retention(registry: Registry, job: JobRow, add: Callable[[Item], None]) -> Chosen:
    """Everything that the rules take, but of no repository that they must not take so much of."""
    request = stored(job.request, RetentionJob)
    rules, now = _compiled(request), datetime.fromisoformat(request.at)
    found = [(each.id, RepositoryName(each.repository)) for each in request.repositories or ()]
    return _choose(registry, rules, now, found, add)


def look_ahead(registry: Registry, add: Callable[[Item], None]) -> Chosen | None:
    """What a run of the rules would take now; None if there are none. Costs as a dry run."""
    rules = compiled(registry.read(find_retention).in_force())
    if not rules:
        return None
    found = registry.read(candidates.repositories)
    return _choose(registry, rules, registry.now(), found, add)


def _choose(
    registry: Registry,
    rules: Sequence[Compiled],
    now: datetime,
    repositories: Sequence[tuple[int, RepositoryName]],
    add: Callable[[Item], None],
) -> Chosen:
    shares: list[RepositoryShare] = []
    warnings: list[Warning] = []
    for repository_id, name in repositories:
        taken = _take(registry, repository_id, name, rules, now)
        if taken is None:
            continue
        refusal = spared(taken.share, taken.of_tags, taken.of_orphans)
        if refusal is not None:
            warnings.append(refusal)
            continue
        for item in taken.items:
            add(item)
        shares.append(taken.share)
    return Chosen(shares, [], warnings)


@dataclass(slots=True)
class _Taken:
    share: RepositoryShare
    items: list[Item]
    # Which rules it is by.
    of_tags: Collection[Rule]
    of_orphans: Collection[Rule]


def _take(
    registry: Registry,
    repository_id: int,
    name: RepositoryName,
    rules: Sequence[Compiled],
    now: datetime,
) -> _Taken | None:
    sums = registry.read(lambda tx: candidates.sums(tx, repository_id))
    deciding = decider(rules, name, now)
    if sums is None or deciding is None or not sums.writable:
        return None
    tags = [each for each in judged_tags(registry, repository_id, deciding) if each[1].goes]
    orphans = [each for each in judged_orphans(registry, repository_id, deciding) if each[1].goes]
    items: list[Item] = []
    manifests = take(
        registry,
        repository_id,
        name,
        [tag for tag, _ in tags],
        [orphan for orphan, _ in orphans],
        items.append,
    )
    share = RepositoryShare(name, sums.manifests, manifests, sums.tags, len(tags), named=True)
    of_tags, of_orphans = (
        {verdict.rule for _, verdict in some if verdict.rule} for some in (tags, orphans)
    )
    return _Taken(share, items, of_tags, of_orphans)


def spared(
    share: RepositoryShare, of_tags: Collection[Rule], of_orphans: Collection[Rule]
) -> Warning | None:
    """Why a repository stays as it is, if rules about tags and others would take too much of it."""
    for warning in purge_guardrails([replace(share, named=False)], 0, Caps(), keep=0):
        by = {*of_tags, *of_orphans} if warning.rail is Guardrail.EMPTIES else {*of_tags}
        if warning.refuses and any(warning.rail not in rule.allow for rule in by):
            names = ", ".join(sorted(rule.name for rule in by))
            message = (
                f"leaves {share.repository} as it is, because otherwise it {warning.message}, "
                f"which the rules do not allow ({names})"
            )
            return changed(warning, message=message, refuses=False)
    return None


# --- deciding about what there is -----------------------------------------------------------------


def judged_tags(
    registry: Registry, repository_id: int, deciding: Decider
) -> Iterator[tuple[TagCandidate, Verdict]]:
    """Every tag that rules may decide about, newest first."""
    after: TagCandidate | None = None
    while True:

        def read(
            tx: Transaction, after: TagCandidate | None = after
        ) -> tuple[list[TagCandidate], dict[str, Fact]]:
            page = candidates.tag_page(tx, repository_id, FAR_FUTURE, after, PAGE)
            return page, _facts_of_tags(tx, repository_id, page)

        page, facts = registry.read(read)
        for tag in without_attached(registry, repository_id, page):
            yield tag, deciding.tag(tag.name, facts[tag.name])
        if len(page) < PAGE:
            return
        after = page[-1]


def _facts_of_tags(
    tx: Transaction, repository_id: int, page: Sequence[TagCandidate]
) -> dict[str, Fact]:
    """What rules have to know: the tag was pulled, or its image, by whatever name."""
    counted = pullers(tx).counted
    immutable = immutable_tags.in_force_in(tx, repository_id)
    by_tag = pulls.by_tag(tx, repository_id, [tag.name for tag in page], counted)
    by_image = pulls.of_manifests(tx, {tag.manifest_id for tag in page}, counted)
    return {
        tag.name: Fact(
            tag.updated_at,
            max(
                (at for at in (by_tag.get(tag.name), by_image.get(tag.manifest_id)) if at),
                default=None,
            ),
            tag.locked,
            immutable.of(tag.name),
        )
        for tag in page
    }


def judged_orphans(
    registry: Registry, repository_id: int, deciding: Decider
) -> Iterator[tuple[Candidate, Verdict]]:
    """Everything that nothing leads to, newest first."""
    after: Candidate | None = None
    while True:

        def read(
            tx: Transaction, after: Candidate | None = after
        ) -> tuple[list[Candidate], dict[int, datetime]]:
            page = candidates.orphan_page(tx, repository_id, FAR_FUTURE, after, PAGE)
            ids = [each.id for each in page]
            return page, pulls.of_manifests(tx, ids, pullers(tx).counted)

        page, pulled = registry.read(read)
        for each in page:
            fact = Fact(each.updated_at, pulled.get(each.id), each.locked)
            yield each, deciding.orphan(fact)
        if len(page) < PAGE:
            return
        after = page[-1]
