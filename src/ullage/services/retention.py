"""Retention: rules in the database, run by the worker as a job a day (retention.py decides).

What the rules choose is looked at again when it is deleted (cleaning.py): a tag that was pushed
again, a manifest that was tagged again (acr#520), listed, locked or pulled meanwhile stays. A
repository that the rules would empty, or take most tags of, stays as it is unless they say so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ullage.metadata import candidates, content, jobs, policies, pulls
from ullage.metadata.candidates import Candidate, TagCandidate
from ullage.metadata.database import Transaction
from ullage.metadata.jobs import Item, JobRow
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown, NameUnknown, ValueInvalid
from ullage.oci.reference import RepositoryName, Tag
from ullage.policy import Caps, Rail, Swath, Warning, purge_rails
from ullage.pullers import RECENTLY
from ullage.retention import (
    Decider,
    Fact,
    Matches,
    Retention,
    Rule,
    Untagged,
    Verdict,
    parse_days,
    parse_retention,
    parse_rules,
    retention_document,
    rule_document,
)
from ullage.services import Caller, Registry
from ullage.services.access import NOBODY_ASKS
from ullage.services.choosing import PAGE, take, without_attached
from ullage.services.jobs import Chosen, get_job, queue_job
from ullage.services.patterns import part, whole
from ullage.services.pulls import pullers, write_pulls

KIND = "retention"
POLICY = "retention"
# When rules ran last, in a row of its own: nobody sets it.
LAST_RUN = "retention.last"
# Whom the audit log names for what rules delete.
WORKER = Caller(subject="retention", address="local", agent="ullage")
_FAR = datetime(9999, 1, 1, tzinfo=UTC)


# --- the policy -----------------------------------------------------------------------------------


def find_retention(tx: Transaction, *, lock: bool = False) -> Retention:
    """The policy that is in force."""
    found = policies.find(tx, POLICY, lock=lock)
    if found is None:
        return Retention()
    document = dict(found.document)
    return parse_retention(document, _read_untagged(document.pop("untagged", {})))


def _read_untagged(stored: Mapping[str, Any]) -> Untagged:
    since, updated = stored.get("since"), stored.get("updated")
    return Untagged(
        enabled=stored.get("enabled", False),
        days=stored.get("days", Untagged().days),
        since=datetime.fromisoformat(since) if since else None,
        updated=datetime.fromisoformat(updated) if updated else None,
    )


def _put(tx: Transaction, retention: Retention, now: datetime) -> None:
    untagged = retention.untagged
    stored = {
        "enabled": untagged.enabled,
        "days": untagged.days,
        "since": untagged.since.isoformat() if untagged.since else None,
        "updated": untagged.updated.isoformat() if untagged.updated else None,
    }
    policies.put(tx, POLICY, retention_document(retention) | {"untagged": stored}, now)
    if policies.find(tx, LAST_RUN) is None:
        # Whoever sets rules has the time of one interval to look at what they would do.
        policies.put(tx, LAST_RUN, {"at": now.isoformat()}, now)
    # What older rules have chosen and not yet deleted stays.
    jobs.cancel_open(tx, KIND)


def get_retention(registry: Registry) -> dict[str, Any]:
    """The rules as JSON, and when they run."""

    def read(tx: Transaction) -> dict[str, Any]:
        retention, last = find_retention(tx), _last_run(tx)
        running = bool(retention.in_force()) and last is not None
        return retention_document(retention) | {
            "last_run": last.isoformat() if last else None,
            "next_run": (last + retention.every).isoformat() if running and last else None,
        }

    return registry.read(read)


def set_retention(
    registry: Registry, document: Mapping[str, Any], caller: Caller
) -> dict[str, Any]:
    """Set the rules, in place of all that were. Raises ValueInvalid."""
    compiled(parse_retention(document, Untagged()).rules)

    def put(tx: Transaction) -> None:
        wanted = parse_retention(document, find_retention(tx, lock=True).untagged)
        _put(tx, wanted, registry.now())
        detail = retention_document(wanted)
        registry.audit(tx, caller, "policy.set", target=POLICY, detail=detail)

    registry.write(put)
    return get_retention(registry)


def get_untagged(registry: Registry) -> dict[str, Any]:
    """`az acr config retention show` (acr-contract 3.5)."""
    untagged = registry.read(find_retention).untagged
    return {
        "days": untagged.days,
        "lastUpdatedTime": untagged.updated.isoformat() if untagged.updated else None,
        "status": "enabled" if untagged.enabled else "disabled",
    }


def set_untagged(
    registry: Registry, status: str | None, days: object, caller: Caller
) -> dict[str, Any]:
    """`az acr config retention update` (acr-contract 3.3). Raises ValueInvalid."""
    if status not in (None, "enabled", "disabled"):
        raise ValueInvalid(message="status: expected enabled or disabled")
    checked = None if days is None else parse_days(days)
    now = registry.now()

    def put(tx: Transaction) -> None:
        before = find_retention(tx, lock=True)
        old = before.untagged
        enabled = old.enabled if status is None else status == "enabled"
        new = Untagged(
            enabled=enabled,
            days=old.days if checked is None else checked,
            since=(old.since if old.enabled else now) if enabled else None,
            updated=now,
        )
        _put(tx, replace(before, untagged=new), now)
        detail = {"enabled": new.enabled, "days": new.days}
        registry.audit(tx, caller, "policy.set", target="untagged", detail=detail)

    registry.write(put)
    return get_untagged(registry)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A rule with what tells which names it means."""

    rule: Rule
    repository: Matches
    tag: Matches


def compiled(rules: Sequence[Rule]) -> list[Compiled]:
    """Raises ValueInvalid for what is no expression."""
    return [Compiled(rule, whole(rule.repositories), part(rule.tags or "")) for rule in rules]


def decider(rules: Sequence[Compiled], name: str, now: datetime) -> Decider | None:
    """Decides about a repository; None if no rule is about it."""
    mine = [(each.rule, each.tag) for each in rules if each.repository(name)]
    return Decider(mine, now) if mine else None


# --- running --------------------------------------------------------------------------------------


def start_run(registry: Registry, caller: Caller, *, dry_run: bool) -> dict[str, Any]:
    """Run the rules now, or say what they would do; the job as JSON."""
    job_id = registry.fresh_key()

    def start(tx: Transaction) -> None:
        _queue(tx, registry, job_id, find_retention(tx, lock=True), caller, dry_run=dry_run)

    registry.write(start, freeing=True)
    registry.wake()
    return get_job(registry, job_id, NOBODY_ASKS)


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
    retention, last = find_retention(tx), _last_run(tx)
    return bool(retention.in_force()) and last is not None and now >= last + retention.every


def _last_run(tx: Transaction) -> datetime | None:
    found = policies.find(tx, LAST_RUN)
    return None if found is None else datetime.fromisoformat(found.document["at"])


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
    allowed = any(Rail.PULLED in rule.allow for rule in rules)
    request = {
        "rules": [rule_document(rule) for rule in rules if rule.since is None],
        "untagged": [
            {"days": rule.older_than.days, "since": rule.since.isoformat()}
            for rule in rules
            if rule.since is not None and rule.older_than is not None
        ],
        "at": now.isoformat(),
        # Whatever was pulled since is not deleted: at least all that is not known by now.
        "unpulled_since": (now if allowed else now - RECENTLY).isoformat(),
        "dry_run": dry_run,
        "caps": {"max_manifests": retention.max_manifests, "max_bytes": retention.max_bytes},
        "repositories": [
            {"id": repository_id, "repository": name, "named": True}
            for repository_id, name in candidates.repositories(tx)
            if any(each.repository(name) for each in matchers)
        ],
    }
    if not dry_run:
        policies.put(tx, LAST_RUN, {"at": now.isoformat()}, now)
    queue_job(tx, registry, job_id, KIND, request, caller)


def _rules_of(request: Mapping[str, Any]) -> list[Compiled]:
    """The rules as they were when the job was queued."""
    last = [
        Untagged(
            enabled=True, days=each["days"], since=datetime.fromisoformat(each["since"])
        ).rule()
        for each in request["untagged"]
    ]
    return compiled([*parse_rules(request["rules"]), *(rule for rule in last if rule)])


def choose_retention(registry: Registry, job: JobRow, add: Callable[[Item], None]) -> Chosen:
    """Everything that the rules take, but of no repository that they must not take so much of."""
    rules, now = _rules_of(job.request), datetime.fromisoformat(job.request["at"])
    swaths: list[Swath] = []
    warnings: list[Warning] = []
    for found in job.request["repositories"]:
        name = RepositoryName(found["repository"])
        taken = _take(registry, found["id"], name, rules, now)
        if taken is None:
            continue
        refusal = spared(taken.swath, taken.of_tags, taken.of_orphans)
        if refusal is not None:
            warnings.append(refusal)
            continue
        for item in taken.items:
            add(item)
        swaths.append(taken.swath)
    return Chosen(swaths, [], warnings)


@dataclass(slots=True)
class _Taken:
    swath: Swath
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
    swath = Swath(name, True, sums.tags, len(tags), sums.manifests, manifests)
    of_tags, of_orphans = (
        {verdict.rule for _, verdict in some if verdict.rule} for some in (tags, orphans)
    )
    return _Taken(swath, items, of_tags, of_orphans)


def spared(swath: Swath, of_tags: Collection[Rule], of_orphans: Collection[Rule]) -> Warning | None:
    """Why a repository stays as it is, if rules about tags and others would take too much of it."""
    for warning in purge_rails([replace(swath, named=False)], 0, Caps(), keep=0):
        by = {*of_tags, *of_orphans} if warning.rail is Rail.EMPTIES else {*of_tags}
        if warning.refuses and any(warning.rail not in rule.allow for rule in by):
            names = ", ".join(sorted(rule.name for rule in by))
            message = (
                f"leaves {swath.repository} as it is, because otherwise it {warning.message}, "
                f"which the rules do not allow ({names})"
            )
            return replace(warning, message=message, refuses=False)
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
            page = candidates.tag_page(tx, repository_id, _FAR, after, PAGE)
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
            page = candidates.orphan_page(tx, repository_id, _FAR, after, PAGE)
            ids = [each.id for each in page]
            return page, pulls.of_manifests(tx, ids, pullers(tx).counted)

        page, pulled = registry.read(read)
        for each in page:
            fact = Fact(each.updated_at, pulled.get(each.id), each.locked)
            yield each, deciding.orphan(fact)
        if len(page) < PAGE:
            return
        after = page[-1]


# --- explaining -----------------------------------------------------------------------------------


def explain_retention(
    registry: Registry, name: RepositoryName, reference: Tag | Digest
) -> dict[str, Any]:
    """Which rule decides about a tag or a manifest, and what it says, as JSON.

    Raises NameUnknown, ManifestUnknown.
    """
    write_pulls(registry)

    def read(tx: Transaction) -> tuple[int, int, list[Tag], bool, Retention]:
        repository_id = content.find_repository(tx, name)
        if repository_id is None or not content.repository_exists(tx, name):
            raise NameUnknown({"name": name})
        found = content.get_manifest(tx, name, reference)
        if found is None:
            raise ManifestUnknown({"name": name, "reference": reference})
        tags = content.tags_of(tx, [found.id])
        listed = bool(content.parents_of(tx, [found.id]))
        return repository_id, found.id, tags, listed, find_retention(tx)

    repository_id, manifest_id, tags, listed, retention = registry.read(read)
    answer: dict[str, Any] = {"repository": name, "reference": reference}
    deciding = decider(compiled(retention.in_force()), name, registry.now())
    if deciding is None:
        return answer | _said(None)
    if isinstance(reference, Digest) and listed:
        return answer | _said(None, "an index holds it, and goes with it or keeps it")
    if isinstance(reference, Digest) and not tags:
        found = _first(judged_orphans(registry, repository_id, deciding), id_=manifest_id)
        if found is None:
            return answer | _said(None, "it belongs to an image that is there")
        return answer | _said(found)
    wanted = set(tags) if isinstance(reference, Digest) else {reference}
    verdicts = {
        tag.name: verdict
        for tag, verdict in judged_tags(registry, repository_id, deciding)
        if tag.name in wanted
    }
    if isinstance(reference, Tag):
        attached = "it belongs to an image that is there"
        return answer | _said(verdicts.get(reference), attached)
    goes = len(verdicts) == len(wanted) and all(each.goes for each in verdicts.values())
    because = "all of its tags go" if goes else "a tag of it stays"
    shown = {tag: _said(verdict) for tag, verdict in sorted(verdicts.items())}
    return answer | {"goes": goes, "rule": None, "because": because, "tags": shown}


def _first(judged: Iterator[tuple[Candidate, Verdict]], id_: int) -> Verdict | None:
    return next((verdict for each, verdict in judged if each.id == id_), None)


def _said(verdict: Verdict | None, otherwise: str = "no rule is about it") -> dict[str, Any]:
    if verdict is None:
        return {"goes": False, "rule": None, "because": otherwise}
    rule = verdict.rule.name if verdict.rule else None
    return {"goes": verdict.goes, "rule": rule, "because": verdict.because}
