"""Retention rules: what a registry deletes by itself, and why it leaves the rest alone.

Pure: facts in, verdicts out; `now` is an argument. One code decides for a run, a dry run, for
`explain` and for trying rules out on what has been.

The rules are in order. The first one whose expressions match a tag decides about it: it keeps it,
or deletes it if all of its conditions hold. What nothing leads to (no tag, no index, no subject) is
decided by the first rule about untagged manifests that is for its repository.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple

from ullage.cleanup.guardrails import Guardrail
from ullage.cleanup.retention.documents import RetentionDocument, RetentionRequest, RuleDocument
from ullage.documents import UNSET
from ullage.oci.errors import ValueInvalid, shown
from ullage.quantities import bytes_of, parse_duration
from ullage.registry.pull.user_agents import RECENTLY

MAX_NAME = 100
SHORTEST_EVERY = timedelta(minutes=10)
USUAL_EVERY = timedelta(days=1)
# azure.md section 3.3.
MAX_DAYS = 365
USUAL_DAYS = 7
UNTAGGED = "config retention"

# What a rule may say it runs into all the same.
ALLOWED = (Guardrail.EMPTIES, Guardrail.ONLY_TAG, Guardrail.MOST, Guardrail.PULLED)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tags (or untagged manifests) of which repositories, and on what conditions they go.

    All conditions that are given have to hold. `keep` has none: what it matches always stays.
    """

    name: str
    # Has to match a repository's whole name.
    repositories: str = ".*"
    # Has to match some part of a tag; None for a rule about untagged manifests.
    tags: str | None = None
    keep: bool = False
    # Since it was pushed, or since it lost its last tag.
    older_than: timedelta | None = None
    # What was never pulled counts from its push.
    not_pulled_for: timedelta | None = None
    # Of those that the rule decides about in one repository.
    keep_newest: int = 0
    allow: tuple[str, ...] = ()
    # Only what became untagged since: the promise of `az acr config retention`.
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Untagged:
    """`az acr config retention` (azure.md sections 3.3, 5.5)."""

    enabled: bool = False
    days: int = USUAL_DAYS
    # What was untagged before that is not affected.
    since: datetime | None = None
    updated: datetime | None = None

    def rule(self) -> Rule | None:
        if not self.enabled:
            return None
        return Rule(UNTAGGED, older_than=timedelta(days=self.days), since=self.since)


@dataclass(frozen=True, slots=True)
class Retention:
    """The whole policy. Disabled rules are kept, and not run."""

    enabled: bool = True
    every: timedelta = USUAL_EVERY
    # How much one run may delete: beyond, it deletes nothing.
    max_manifests: int | None = None
    max_bytes: int | None = None
    rules: tuple[Rule, ...] = ()
    untagged: Untagged = Untagged()

    def in_force(self) -> tuple[Rule, ...]:
        """What runs, in order; az's policy comes last."""
        last = self.untagged.rule()
        return (self.rules if self.enabled else ()) + (() if last is None else (last,))


# --- as JSON --------------------------------------------------------------------------------------


def retention_of(document: RetentionRequest, untagged: Untagged) -> Retention:
    """`{"enabled": true, "every": "24h", "max_bytes": "1TB", "rules": [{…}]}`. Raises ValueInvalid.

    Whether an expression is one is for its compiler to say.
    """
    every = USUAL_EVERY if document.every is None else parse_duration(document.every)
    if every < SHORTEST_EVERY:
        raise ValueInvalid(message="every: at least 10m")
    return Retention(
        enabled=document.enabled,
        every=every,
        max_manifests=document.max_manifests,
        max_bytes=bytes_of(document.max_bytes),
        rules=rules_of(document.rules),
        untagged=untagged,
    )


def rules_of(documents: Sequence[RuleDocument]) -> tuple[Rule, ...]:
    """Rules from their documents. Raises ValueInvalid."""
    rules = tuple(_rule(each, number) for number, each in enumerate(documents, 1))
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names) or UNTAGGED in names:
        raise ValueInvalid(message="two rules have the same name")
    return rules


def _rule(document: RuleDocument, number: int) -> Rule:
    name = document.name or f"rule {number}"
    if (document.tags is None) != document.untagged:
        raise ValueInvalid(message=f'{name}: expected either "tags" or "untagged": true')
    if any(each not in ALLOWED for each in document.allow):
        raise ValueInvalid(message=f"{name}: allow: expected some of {', '.join(ALLOWED)}")
    rule = Rule(
        name=name[:MAX_NAME],
        repositories=document.repositories or ".*",
        tags=document.tags,
        keep=document.keep,
        older_than=_duration(document.older_than),
        not_pulled_for=_duration(document.not_pulled_for),
        keep_newest=document.keep_newest or 0,
        allow=document.allow,
    )
    times = (rule.older_than, rule.not_pulled_for)
    if rule.keep == (times != (None, None) or rule.keep_newest > 0):
        raise ValueInvalid(
            message=f"{name}: expected keep, or a condition: older_than, not_pulled_for, "
            "keep_newest"
        )
    return rule


def _duration(text: str | None) -> timedelta | None:
    return None if text is None else parse_duration(text)


def parse_days(days: object) -> int:
    """Whole days from 0 to 365. Raises ValueInvalid in az's words (azure.md section 3.3)."""
    if not isinstance(days, int) or isinstance(days, bool) or not 0 <= days <= MAX_DAYS:
        raise ValueInvalid(
            {"days": shown(str(days)[:40])}, "Invalid value for days: should be from 0 to 365"
        )
    return days


def rule_document(rule: Rule) -> RuleDocument:
    """What `rules_of` reads."""
    return RuleDocument(
        name=rule.name,
        repositories=rule.repositories,
        tags=rule.tags,
        untagged=rule.tags is None,
        keep=rule.keep,
        older_than=_spelled(rule.older_than),
        not_pulled_for=_spelled(rule.not_pulled_for),
        keep_newest=rule.keep_newest or None,
        allow=rule.allow,
    )


def _spelled(duration: timedelta | None) -> str | None:
    """As `parse_duration` reads it."""
    if duration is None:
        return None
    milliseconds = duration // timedelta(milliseconds=1)
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % length == 0:
            return f"{milliseconds // length}{unit}"
    return f"{milliseconds}ms"


def retention_document(retention: Retention) -> RetentionDocument:
    """What `retention_of` reads."""
    manifests, size = retention.max_manifests, retention.max_bytes
    return RetentionDocument(
        enabled=retention.enabled,
        every=_spelled(retention.every) or "",
        max_manifests=UNSET if manifests is None else manifests,
        max_bytes=UNSET if size is None else size,
        rules=tuple(map(rule_document, retention.rules)),
    )


# --- deciding -------------------------------------------------------------------------------------

Matches = Callable[[str], bool]


class Fact(NamedTuple):
    """What counts about a tag, or a manifest that nothing leads to."""

    # When it was pushed, or lost its last tag.
    updated_at: datetime
    # By a class of pullers that counts.
    pulled_at: datetime | None = None
    locked: bool = False
    # By which rule for tags that are written once, in words.
    immutable: str | None = None


class Why(Enum):
    """What decides."""

    NO_RULE = "no rule is about it"
    KEPT = "the rule always keeps it"
    LOCKED = "it is locked"
    IMMUTABLE = "{fact.immutable}"
    NEWEST = "it is number {rank} of the newest {rule.keep_newest}"
    BEFORE = "it was untagged before the policy was enabled at {since}"
    YOUNG = "it was updated at {updated}, less than {age} ago"
    PULLED = "it was pulled at {pulled}, less than {idle} ago"
    # A newborn is not idle because it was not pulled yet (harbor#18479).
    NEWBORN = "it was pushed at {updated}, less than {idle} ago"
    IN_USE = "it was pulled at {pulled}, so somebody may be running it"
    GOES = "updated at {updated}, pulled: {pulled}"


class Verdict(NamedTuple):
    """Whether it goes, by which rule, and why. `rank`: what number it is for that rule."""

    why: Why
    rule: Rule | None = None
    fact: Fact | None = None
    rank: int = 0

    @property
    def goes(self) -> bool:
        return self.why is Why.GOES

    @property
    def because(self) -> str:
        """For people."""
        if self.rule is None or self.fact is None:
            return self.why.value
        return self.why.value.format(
            rule=self.rule,
            fact=self.fact,
            rank=self.rank,
            since=_at(self.rule.since),
            age=_spelled(self.rule.older_than),
            idle=_spelled(self.rule.not_pulled_for),
            updated=_at(self.fact.updated_at),
            pulled=_at(self.fact.pulled_at),
        )


def _at(when: datetime | None) -> str:
    return "never" if when is None else when.isoformat(timespec="seconds")


class Decider:
    """Decides about one repository, by the rules that are for it.

    Wants all of its tags, the newest first, and all that nothing leads to, the newest first.
    """

    def __init__(self, rules: Sequence[tuple[Rule, Matches]], now: datetime) -> None:
        """`rules` with what tells whether a tag is meant."""
        self._rules = rules
        self._now = now
        self._seen = [0] * len(rules)

    def tag(self, name: str, fact: Fact) -> Verdict:
        for number, (rule, matches) in enumerate(self._rules):
            if rule.tags is not None and matches(name):
                return self._judge(number, rule, fact)
        return _NO_RULE

    def orphan(self, fact: Fact) -> Verdict:
        for number, (rule, _) in enumerate(self._rules):
            if rule.tags is None:
                return self._judge(number, rule, fact)
        return _NO_RULE

    def _judge(self, number: int, rule: Rule, fact: Fact) -> Verdict:
        self._seen[number] += 1
        rank = self._seen[number]
        return Verdict(self._why(rule, fact, rank), rule, fact, rank)

    def _why(self, rule: Rule, fact: Fact, rank: int) -> Why:
        if rule.keep:
            return Why.KEPT
        if fact.locked:
            return Why.LOCKED
        if fact.immutable is not None:
            return Why.IMMUTABLE
        if rank <= rule.keep_newest:
            return Why.NEWEST
        if rule.since is not None and fact.updated_at < rule.since:
            return Why.BEFORE
        if self._within(rule.older_than, fact.updated_at):
            return Why.YOUNG
        if self._within(rule.not_pulled_for, fact.pulled_at):
            return Why.PULLED
        if self._within(rule.not_pulled_for, fact.updated_at):
            return Why.NEWBORN
        if Guardrail.PULLED not in rule.allow and self._within(RECENTLY, fact.pulled_at):
            return Why.IN_USE
        return Why.GOES

    def _within(self, time: timedelta | None, when: datetime | None) -> bool:
        return time is not None and when is not None and when >= self._now - time


_NO_RULE = Verdict(Why.NO_RULE)
