"""Rules tried out on what has been: what they would have deleted, and later pulls of it.

Pushes and deletions come from the audit log, which every one of them is in; pulls from the history
that pull_log.py keeps. Each day at midnight, UTC, the rules decide about the repository as it would
have been. Then whatever of their choice was pulled later is a regret.

Not known is which index listed what is gone by now, so a manifest that never had a tag is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import merge

from ullage.cleanup.guardrails import RepositoryShare
from ullage.cleanup.queries import candidates
from ullage.cleanup.retention.documents import (
    BacktestReport,
    GoneDocument,
    RegretDocument,
    RuleDocument,
)
from ullage.cleanup.retention.policy import Compiled, compiled, decider, find_retention
from ullage.cleanup.retention.rules import Fact, Rule, rules_of
from ullage.cleanup.retention.run import spared
from ullage.database.transaction import Transaction
from ullage.documents import changed
from ullage.oci.errors import ValueInvalid
from ullage.oci.reference import RepositoryName
from ullage.quantities import parse_duration
from ullage.registry.context import Registry
from ullage.registry.pull.pull_log import HISTORY, pullers, write_pulls
from ullage.registry.queries import audit, pulls
from ullage.registry.queries.audit import AuditEntry
from ullage.registry.queries.content.manifests import all_digests
from ullage.registry.queries.content.repositories import find_repository
from ullage.registry.queries.pulls import PullDay

PAGE = 1000
# Deletions that a report names, those that would be regretted first; the sums count all of them.
NAMED = 1000
REMEMBERED = 50_000
DAY = timedelta(days=1)
_PUSH = "manifest.push"
_ACTIONS = (
    *(_PUSH, "tag.delete", "manifest.delete", "plan.apply", "purge.delete", "retention.delete"),
    "repository.delete",
)


@dataclass(slots=True)
class Regret:
    """Pulls of what would have been gone."""

    at: datetime
    by: str
    pulls: int


@dataclass(slots=True)
class Gone:
    """A tag, or a manifest if `tag` is None, that the rules would have deleted."""

    repository: str
    tag: str | None
    digest: str
    rule: str
    at: datetime
    regret: Regret | None = None


def parse_since(text: str) -> timedelta:
    """How far to go back: a duration of at most what is remembered. Raises ValueInvalid."""
    since = parse_duration(text)
    if not DAY <= since <= HISTORY:
        raise ValueInvalid(message=f"since: from 1d to {HISTORY.days}d")
    return since


def try_rules(
    registry: Registry, rules: Sequence[RuleDocument] | None, since: timedelta
) -> BacktestReport:
    """What the rules (None: those that are set) would have deleted. Raises ValueInvalid.

    Costs what happened, times a look at each repository for each day.
    """
    write_pulls(registry)
    now = registry.now()
    # The same tags are asked about every day.
    wanted = [
        replace(each, tag=lru_cache(maxsize=REMEMBERED)(each.tag))
        for each in compiled(_wanted(registry, rules))
    ]
    counted = {str(each) for each in registry.read(pullers).counted}
    runs = _midnights(now - since, now)
    gone: list[Gone] = []
    notes: dict[str, str] = {}
    repositories = there = unseen = 0
    for name in _repositories(registry):
        if decider(wanted, name, now) is None:
            continue
        repositories += 1
        replay = Replay(name, wanted)
        for at, event in _events(registry, name, counted):
            while runs[replay.runs :] and runs[replay.runs] <= at:
                replay.run(runs[replay.runs])
            replay.happen(at, event)
        while runs[replay.runs :]:
            replay.run(runs[replay.runs])
        gone += replay.gone
        digests = registry.read(lambda tx, name=name: _digests(tx, name))  # type: ignore[misc]
        there += len(digests)
        unseen += len(digests - replay.seen)
        if replay.note is not None:
            notes[name] = replay.note
    oldest = registry.read(pulls.oldest_day)
    report = _report(gone, notes, repositories, now - since, now, oldest)
    return changed(report, manifest_count=there, unseen_count=unseen)


def _digests(tx: Transaction, name: RepositoryName) -> set[str]:
    """The manifests that there are."""
    repository_id = find_repository(tx, name)
    return set() if repository_id is None else {*map(str, all_digests(tx, repository_id))}


def _wanted(registry: Registry, rules: Sequence[RuleDocument] | None) -> Sequence[Rule]:
    return registry.read(find_retention).in_force() if rules is None else rules_of(rules)


def _midnights(since: datetime, until: datetime) -> list[datetime]:
    first = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = (first + n * DAY for n in range((until - first) // DAY + 1))
    return [day for day in days if since <= day <= until]


# --- what happened --------------------------------------------------------------------------------

Event = AuditEntry | PullDay


def _repositories(registry: Registry) -> list[RepositoryName]:
    """Those that there are, and those that there were."""

    def read(tx: Transaction) -> set[str]:
        return {*audit.repositories(tx), *(name for _, name in candidates.repositories(tx))}

    return [RepositoryName(name) for name in sorted(registry.read(read))]


def _events(
    registry: Registry, name: RepositoryName, counted: set[str]
) -> Iterator[tuple[datetime, Event]]:
    """Pushes, deletions and pulls that count, in the order of time."""
    days = registry.read(lambda tx: pulls.history(tx, name, registry.now() - HISTORY))
    pulled: list[tuple[datetime, Event]] = [(d.at, d) for d in days if d.puller in counted]
    return merge(_changes(registry, name), pulled, key=lambda event: event[0])


def _changes(registry: Registry, name: RepositoryName) -> Iterator[tuple[datetime, Event]]:
    after = 0
    while True:
        page = registry.read(
            lambda tx, after=after: audit.about(tx, name, _ACTIONS, after, PAGE)  # type: ignore[misc]
        )
        yield from ((entry.at, entry) for entry in page)
        if len(page) < PAGE:
            return
        after = page[-1].id


# --- what would have happened ---------------------------------------------------------------------


@dataclass(slots=True)
class Replay:
    """One repository as it would have been."""

    name: str
    rules: Sequence[Compiled]
    runs: int = 0
    # What each tag points to, and since when.
    tags: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    # How many tags point to each manifest.
    tag_counts: Counter[str] = field(default_factory=Counter)
    # What lost its last tag, and when.
    untagged: dict[str, datetime] = field(default_factory=dict)
    pulled_tags: dict[str, datetime] = field(default_factory=dict)
    pulled: dict[str, datetime] = field(default_factory=dict)
    gone: list[Gone] = field(default_factory=list)
    # Every manifest that had a tag once: of others nothing is known.
    seen: set[str] = field(default_factory=set)
    # What is gone and was not pushed again since.
    missing: dict[tuple[str | None, str], Gone] = field(default_factory=dict)
    note: str | None = None

    def happen(self, at: datetime, event: Event) -> None:
        if isinstance(event, PullDay):
            self._pull(event)
        elif event.action == _PUSH:
            self._push(at, str(event.target), event.detail["tags"])
        elif event.action == "repository.delete":
            self.tags.clear()
            self.tag_counts.clear()
            self.untagged.clear()
        elif event.action == "tag.delete":
            self._untag(str(event.target), at)
        else:
            for tag in event.detail.get("tags", ()):
                self._untag(tag, at)
            self._drop(event.detail.get("manifests", ()))

    def _push(self, at: datetime, digest: str, tags: Sequence[str]) -> None:
        self.missing.pop((None, digest), None)
        if tags:
            self.seen.add(digest)
        for tag in tags:
            self._untag(tag, at)
            self.tags[tag] = (digest, at)
            self.tag_counts[digest] += 1
            self.missing.pop((tag, ""), None)
        if tags:
            self.untagged.pop(digest, None)
        elif digest in self.untagged:
            self.untagged[digest] = at

    def _untag(self, tag: str, at: datetime) -> None:
        digest, _ = self.tags.pop(tag, ("", at))
        if not digest:
            return
        self.tag_counts[digest] -= 1
        if not self.tag_counts[digest]:
            del self.tag_counts[digest]
            self.untagged[digest] = at

    def _drop(self, digests: Sequence[str]) -> None:
        some = set(digests)
        if some & self.tag_counts.keys():
            self.tags = {tag: (d, at) for tag, (d, at) in self.tags.items() if d not in some}
        for digest in some:
            self.tag_counts.pop(digest, None)
            self.untagged.pop(digest, None)

    def _pull(self, day: PullDay) -> None:
        self.pulled[day.digest] = max(day.at, self.pulled.get(day.digest, day.at))
        if day.tag is not None:
            self.pulled_tags[day.tag] = max(day.at, self.pulled_tags.get(day.tag, day.at))
        found = self.missing.get((day.tag, "")) if day.tag is not None else None
        found = found or self.missing.get((None, day.digest))
        if found is None:
            return
        if found.regret is None:
            found.regret = Regret(day.at, day.puller, 0)
        found.regret.pulls += day.pulls

    def run(self, now: datetime) -> None:
        """Let the rules decide, as `now` has it."""
        self.runs += 1
        deciding = decider(self.rules, self.name, now)
        if deciding is None or not (self.tags or self.untagged):
            return
        newest = sorted(self.tags.items(), key=lambda each: (each[1][1], each[0]), reverse=True)
        tags: dict[str, Rule] = {}
        for tag, (digest, updated_at) in newest:
            verdict = deciding.tag(tag, self._fact(updated_at, tag, digest))
            if verdict.goes and verdict.rule is not None:
                tags[tag] = verdict.rule
        orphans: dict[str, Rule] = {}
        for digest, updated_at in sorted(
            self.untagged.items(), key=lambda each: (each[1], each[0]), reverse=True
        ):
            verdict = deciding.orphan(self._fact(updated_at, None, digest))
            if verdict.goes and verdict.rule is not None:
                orphans[digest] = verdict.rule
        if tags or orphans:
            self._delete(now, tags, orphans)

    def _fact(self, updated_at: datetime, tag: str | None, digest: str) -> Fact:
        moments = (self.pulled_tags.get(tag) if tag else None, self.pulled.get(digest))
        return Fact(updated_at, max((at for at in moments if at), default=None))

    def _bared(self, tags: dict[str, Rule]) -> dict[str, Rule]:
        """Images that lose their last tag with these."""
        rules = {self.tags[tag][0]: rule for tag, rule in tags.items()}
        losing = Counter(self.tags[tag][0] for tag in tags)
        return {
            digest: rules[digest]
            for digest, number in losing.items()
            if number == self.tag_counts[digest]
        }

    def _delete(self, now: datetime, tags: dict[str, Rule], orphans: dict[str, Rule]) -> None:
        manifests = self._bared(tags) | orphans
        there = len(self.tag_counts) + len(self.untagged)
        share = RepositoryShare(self.name, there, len(manifests), len(self.tags), len(tags))
        refusal = spared(share, set(tags.values()), set(orphans.values()))
        if refusal is not None:
            self.note = refusal.message
            return
        for tag, rule in tags.items():
            digest, _ = self.tags[tag]
            self._untag(tag, now)
            self._miss(Gone(self.name, tag, digest, rule.name, now), (tag, ""))
        for digest, rule in manifests.items():
            self.untagged.pop(digest, None)
            self._miss(Gone(self.name, None, digest, rule.name, now), (None, digest))

    def _miss(self, gone: Gone, key: tuple[str | None, str]) -> None:
        self.gone.append(gone)
        self.missing[key] = gone


# --- the report -----------------------------------------------------------------------------------


def _report(
    gone: Sequence[Gone],
    notes: dict[str, str],
    repositories: int,
    since: datetime,
    until: datetime,
    oldest: datetime | None,
) -> BacktestReport:
    regretted = [each for each in gone if each.regret is not None]
    named = sorted(gone, key=lambda each: (each.regret is None, each.at, each.repository))[:NAMED]
    return BacktestReport(
        since=since.isoformat(),
        until=until.isoformat(),
        pulls_since=oldest.isoformat() if oldest else None,
        repositories=repositories,
        tags_deleted=sum(each.tag is not None for each in gone),
        manifests_deleted=sum(each.tag is None for each in gone),
        pulled_later=len(regretted),
        regret_percent=round(100 * len(regretted) / len(gone), 2) if gone else 0.0,
        notes=[notes[name] for name in sorted(notes)],
        deleted=[_document(each) for each in named],
        omitted=len(gone) - len(named),
    )


def _document(gone: Gone) -> GoneDocument:
    regret, later = gone.regret, None
    if regret is not None:
        later = RegretDocument(regret.at.isoformat(), regret.by, regret.pulls)
    at = gone.at.isoformat()
    return GoneDocument(gone.repository, gone.tag, gone.digest, gone.rule, at, later)
