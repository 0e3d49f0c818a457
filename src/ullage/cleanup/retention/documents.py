"""The retention policy, its verdicts and trials as JSON: docs/reference/api.md describes them."""

from __future__ import annotations

from typing import Annotated

from ullage.documents import (
    UNSET,
    Count,
    Document,
    Duration,
    Meta,
    RequestBody,
    Size,
    Text,
    Time,
    UnsetType,
)

MAX_RULES = 100


class RuleDocument(RequestBody, frozen=True, omit_defaults=True):
    """A rule: what it is about (`tags`, or `untagged`), and `keep` or conditions that all hold."""

    name: Text | None = None
    # RE2: has to match a repository's whole name; some part of a tag.
    repositories: Text | None = None
    tags: Text | None = None
    untagged: bool = False
    keep: bool = False
    older_than: Duration | None = None
    not_pulled_for: Duration | None = None
    keep_newest: Count | None = None
    allow: tuple[str, ...] = ()


class UntaggedRule(Document, frozen=True):
    """Azure's policy as a rule: what was untagged since then goes after so many days."""

    days: int
    since: Time


class RetentionRequest(RequestBody, frozen=True, omit_defaults=True):
    """The retention policy, in place of what it was."""

    enabled: bool = True
    # A duration of at least 10m.
    every: Duration | None = None
    max_manifests: Count | None = None
    max_bytes: Size | None = None
    rules: Annotated[tuple[RuleDocument, ...], Meta(max_length=MAX_RULES)] = ()


class RetentionDocument(Document, frozen=True, kw_only=True):
    """The retention policy, and when it runs."""

    enabled: bool
    every: str
    max_manifests: int | UnsetType = UNSET
    max_bytes: int | UnsetType = UNSET
    rules: tuple[RuleDocument, ...]
    # For a reader; null while nothing runs.
    last_run: Time | UnsetType | None = UNSET
    next_run: Time | UnsetType | None = UNSET


class StoredUntagged(Document, frozen=True):
    """Azure's policy as the database keeps it."""

    enabled: bool = False
    days: int | None = None
    since: Time | None = None
    updated: Time | None = None


class UntaggedPolicy(Document, frozen=True, rename="camel"):
    """Azure's policy about untagged manifests, in its words."""

    days: int
    last_updated_time: Time | None
    status: str


class VerdictDocument(Document, frozen=True):
    """Whether something goes, by which rule, and because of what."""

    goes: bool
    rule: str | None
    because: str


class Explanation(Document, frozen=True, kw_only=True):
    """What the rules say about a tag or a manifest; of one with tags, about each of them."""

    repository: str
    reference: str
    goes: bool
    rule: str | None
    because: str
    tags: dict[str, VerdictDocument] | UnsetType = UNSET


class RegretDocument(Document, frozen=True):
    """Pulls of what would have been gone: the first, by which class, and how many."""

    first: Time
    by: str
    pulls: int


class GoneDocument(Document, frozen=True):
    """A tag, or a manifest without a tag, that the rules would have deleted."""

    repository: str
    tag: str | None
    digest: str
    rule: str
    deleted: Time
    pulled_later: RegretDocument | None


class BacktestReport(Document, frozen=True):
    """What rules would have deleted, and what of it was pulled afterwards."""

    since: Time
    until: Time
    # Before that nothing is known of pulls.
    pulls_since: Time | None
    repositories: int
    tags_deleted: int
    manifests_deleted: int
    pulled_later: int
    regret_percent: float
    # Repositories that a rail would have kept as they were.
    notes: list[str]
    deleted: list[GoneDocument]
    # How many there are more.
    omitted: int
    # Manifests that these repositories have now; and of them, those that the history knows nothing
    # of, because they never had a tag or came before it: about these it says nothing.
    manifest_count: int = 0
    unseen_count: int = 0
