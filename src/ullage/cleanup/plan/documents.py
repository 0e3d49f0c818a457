"""Plans as JSON, for clients and for the database: docs/reference/api.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from ullage.cleanup.guardrails import RepositoryShare, Warning
from ullage.cleanup.queries.jobs import ItemKind
from ullage.deletion.closure import KeptBy, Why
from ullage.documents import UNSET, Document, Time, UnsetType


class ShareDocument(Document, frozen=True, kw_only=True):
    """How much of a repository goes; `locked` says why nothing of it does."""

    locked: str | UnsetType = UNSET
    repository: str
    manifests: int
    of_manifests: int
    tags: int
    of_tags: int
    # Of a plan: what comes back with it, of what several give up in equal parts, so that these sum
    # to the plan's bytes; and when the first and the last of what goes were pushed.
    bytes: int | UnsetType = UNSET
    oldest: Time | UnsetType = UNSET
    newest: Time | UnsetType = UNSET


class Extent(NamedTuple):
    """The bytes that come back with a repository's share, and when it was pushed; None: nothing."""

    bytes: int
    pushed: tuple[datetime, datetime] | None


def share_document(
    share: RepositoryShare, extent: Extent | None = None, locked: str | UnsetType = UNSET
) -> ShareDocument:
    """How much of a repository goes; `extent` is known of a plan."""
    pushed = extent.pushed if extent is not None else None
    return ShareDocument(
        locked=locked,
        repository=share.repository,
        manifests=share.manifests_going,
        of_manifests=share.manifests,
        tags=share.tags_going,
        of_tags=share.tags,
        bytes=UNSET if extent is None else extent.bytes,
        oldest=UNSET if pushed is None else pushed[0].isoformat(),
        newest=UNSET if pushed is None else pushed[1].isoformat(),
    )


class Asked(Document, frozen=True, kw_only=True):
    """What a plan is of: images by name, repositories, what a filter chooses, or so many bytes."""

    repositories: Sequence[str] | UnsetType = UNSET
    repository: str | UnsetType = UNSET
    digests: Sequence[str] | UnsetType = UNSET
    tags: Sequence[str] | UnsetType = UNSET
    filters: Sequence[str] | UnsetType = UNSET
    ago_seconds: float | UnsetType = UNSET
    keep: int | UnsetType = UNSET
    untagged: bool | UnsetType = UNSET
    untagged_only: bool | UnsetType = UNSET
    include_locked: bool | UnsetType = UNSET
    before: Time | UnsetType = UNSET
    free_bytes: int | UnsetType = UNSET


class PlanItem(Document, frozen=True, kw_only=True):
    """A manifest that goes, or only loses tags, with the tags that vanish."""

    repository: str
    digest: str
    tags: Sequence[str]
    why: Why
    # The manifest that it goes along with.
    of: str | UnsetType = UNSET
    # Of what was not named but chosen: what it was chosen for.
    because: str | UnsetType = UNSET
    # If that was in the last seven days.
    pulled: Time | UnsetType = UNSET


class KeptItem(Document, frozen=True, kw_only=True):
    """A manifest that would have gone, and what keeps it."""

    repository: str
    digest: str
    tags: Sequence[str]
    why: Why
    held_by: Sequence[KeptBy]
    of: str | UnsetType = UNSET


class LaterBlob(Document, frozen=True):
    """A blob whose bytes come back later, and why and when."""

    digest: str
    bytes: int
    because: str | None
    until: Time | None


class KeptBlob(Document, frozen=True):
    """A blob that stays, and some of the repositories that need it."""

    digest: str
    bytes: int
    held_by: list[str]


class Bytes(Document, frozen=True):
    """What a deletion frees, and whether it can be taken back."""

    freed_bytes: int
    freed_later_bytes: int
    restorable: bool


class DifferenceCounts(Document, frozen=True):
    added: int
    gone: int
    tags_added: int
    tags_gone: int


class Difference(Document, frozen=True):
    """What has changed since a plan was made. `smaller`: nothing goes that was not to go."""

    smaller: bool
    # Up to a hundred each; the counts say how many there are.
    added: list[str]
    gone: list[str]
    tags_added: list[str]
    tags_gone: list[str]
    counts: DifferenceCounts
    planned: Bytes
    now: Bytes


class Receipt(Document, frozen=True, kw_only=True):
    """What came of a plan; of a `job`, what has come of it so far."""

    plan: str
    job: str | UnsetType = UNSET
    applied: Time | None = None
    by: str
    freed_bytes: int = 0
    freed_later_bytes: int = 0
    manifest_count: int = 0
    tag_count: int = 0
    # With soft delete: by which id, and until when, it can be taken back.
    operation: str | None = None
    restorable_until: Time | UnsetType | None = UNSET
    difference: Difference | None = None


class PlanHead(Document, frozen=True, kw_only=True):
    """What a plan says beside its items."""

    asked: Asked
    freed_bytes: int
    freed_later_bytes: int
    kept_bytes: int
    # With soft delete: until when an apply at this moment could be taken back.
    restorable_until: Time | None
    manifest_count: int
    tag_count: int
    upload_count: int
    # How many items there are; a page has some of them.
    item_count: int = 0
    repositories: Sequence[ShareDocument]
    absent: Sequence[str]
    stays: Sequence[KeptItem]
    later: Sequence[LaterBlob]
    kept: Sequence[KeptBlob]
    warnings: Sequence[Warning]
    notes: Sequence[str] | UnsetType = UNSET


class PlanDocument(PlanHead, frozen=True, kw_only=True):
    """A plan: what a deletion would take and free, to the byte, and what stays and why."""

    id: str
    created: Time
    expires: Time
    receipt: Receipt | UnsetType = UNSET
    items: Sequence[PlanItem]

    def names(self) -> list[str]:
        """Every repository the plan is about."""
        return [part.repository for part in self.repositories]


class ChosenManifest(Document, frozen=True, array_like=True):
    """A manifest that a filter chose, as a list: there may be hundreds of thousands.

    One of the kind "tag" stays and only loses tags.
    """

    # Which of the plan's repositories.
    place: int
    kind: ItemKind
    digest: str
    manifest_id: int
    # Microseconds since 1970.
    seen_at: int
    # The tags that vanish with it, and those that were chosen themselves, with when they were set.
    tags: Sequence[str] = ()
    own: Sequence[tuple[str, int]] = ()
    why: Why = Why.ASKED
    of: str | None = None
    because: str | None = None


class StoredPlanDocument(PlanHead, frozen=True, kw_only=True):
    """A plan as the database keeps it, with what carrying it out has to know."""

    # Empty until it is kept.
    id: str = ""
    created: str = ""
    expires: str = ""
    # Each manifest that goes, of what was named one by one. In pages of their own, as what is next.
    items: Sequence[PlanItem] = ()
    # What a filter or a search has chosen instead.
    chosen: Sequence[ChosenManifest] | UnsetType = UNSET
    names: Sequence[str] = ()
    # A repository that was deleted and pushed again is another one.
    generations: Sequence[int]
