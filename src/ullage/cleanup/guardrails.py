"""Decisions about deletions: how much at once is too much. Pure: facts in, decisions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ullage.documents import Document

# More than this share of a repository is pointed out, and refused to a list that no person read.
DEFAULT_MAX_PERCENT = 50


# --- rails ----------------------------------------------------------------------------------------


class Guardrail(StrEnum):
    """What a deletion may run into; the word that allows it all the same."""

    EMPTIES = "empty-repository"
    MOST = "most-of-repository"
    ONLY_TAG = "only-tag"
    NEWEST = "newest-image"
    PULLED = "pulled-recently"
    MANIFESTS = "max-manifests"
    BYTES = "max-bytes"


GUARDRAILS = tuple(Guardrail)


class RunCaps(Document, frozen=True):
    """How much one run may delete at most; None for any amount."""

    max_manifests: int | None = None
    max_bytes: int | None = None


class Caps(RunCaps, frozen=True):
    """As RunCaps, and how much of one repository's manifests."""

    max_percent: int | None = None


@dataclass(frozen=True, slots=True)
class RepositoryShare:
    """What a deletion takes of one repository."""

    repository: str
    manifests: int
    manifests_going: int
    tags: int
    tags_going: int
    # Of a list that a person made: the tag that was set last, if its image goes.
    newest_going: str | None = None
    # Of a purge: its name was written out, not found by an expression.
    named: bool = False
    # Manifests that go and were pulled lately, and the last of them in words.
    pulled_going: int = 0
    pulled: str = ""


class Warning(Document, frozen=True):
    """One rail that a deletion runs into. It `refuses`, or it is only to be read."""

    rail: Guardrail
    repository: str | None
    message: str
    refuses: bool


def guardrails(
    parts: Sequence[RepositoryShare], freed_bytes: int, caps: Caps, *, computed: bool
) -> tuple[Warning, ...]:
    """What a person should know before deleting this much.

    Where a filter or a program made the list (`computed`), no person read it: then every rail
    refuses until it is allowed by name. What a person named one by one is only pointed out. Caps
    that were given always refuse.
    """
    found: list[Warning] = []
    for part in parts:
        found += _of_repository(part, caps, computed)
    return (*found, *_over(caps, sum(part.manifests_going for part in parts), freed_bytes))


def _over(caps: Caps, manifests: int, freed_bytes: int) -> list[Warning]:
    """Caps on a whole run always refuse."""
    found: list[Warning] = []
    if caps.max_manifests is not None and manifests > caps.max_manifests:
        message = f"deletes {manifests} manifests, more than {caps.max_manifests}"
        found.append(Warning(Guardrail.MANIFESTS, None, message, refuses=True))
    if caps.max_bytes is not None and freed_bytes > caps.max_bytes:
        message = f"frees {freed_bytes} bytes, more than {caps.max_bytes}"
        found.append(Warning(Guardrail.BYTES, None, message, refuses=True))
    return found


def _of_repository(part: RepositoryShare, caps: Caps, computed: bool) -> list[Warning]:
    if not part.manifests_going:
        return []
    name = part.repository
    found: list[Warning] = []
    percent = DEFAULT_MAX_PERCENT if caps.max_percent is None else caps.max_percent
    if part.manifests_going == part.manifests:
        message = f"deletes everything in {name}, and so the repository"
        found.append(Warning(Guardrail.EMPTIES, name, message, computed))
    if part.manifests_going * 100 > part.manifests * percent:
        message = f"deletes {part.manifests_going} of {part.manifests} manifests in {name}"
        refuses = computed or caps.max_percent is not None
        found.append(Warning(Guardrail.MOST, name, message, refuses))
    if part.tags and part.tags_going == part.tags:
        which = "the only tag" if part.tags == 1 else f"all {part.tags} tags"
        message = f"deletes {which} in {name}"
        found.append(Warning(Guardrail.ONLY_TAG, name, message, computed))
    if part.newest_going is not None:
        message = f"deletes {name}:{part.newest_going}, the newest image in {name}"
        found.append(Warning(Guardrail.NEWEST, name, message, computed))
    return found + _pulled(name, part.pulled_going, part.pulled, refuses=computed)


def _pulled(name: str, number: int, last: str, *, refuses: bool) -> list[Warning]:
    """It may be in use, and will be pulled again."""
    if not number:
        return []
    what = "a manifest" if number == 1 else f"{number} manifests"
    message = f"deletes {what} in {name} that somebody pulled lately: {last}"
    return [Warning(Guardrail.PULLED, name, message, refuses)]


# --- purging --------------------------------------------------------------------------------------


def purge_guardrails(
    shares: Sequence[RepositoryShare], freed_bytes: int, caps: Caps, *, keep: int
) -> tuple[Warning, ...]:
    """What a purge runs into. A repository that was named, or of which some are kept, may shrink.

    Orphans are what a purge is for and count as no loss, unless a repository has nothing else.
    """
    found: list[Warning] = []
    for share in shares:
        found += _of_purge_share(share, caps, keep)
    return (*found, *_over(caps, sum(share.manifests_going for share in shares), freed_bytes))


def _of_purge_share(share: RepositoryShare, caps: Caps, keep: int) -> list[Warning]:
    name, refuses = share.repository, not share.named
    found: list[Warning] = []
    if share.manifests and share.manifests_going == share.manifests:
        message = f"deletes everything in {name}, and so the repository"
        found.append(Warning(Guardrail.EMPTIES, name, message, refuses))
    if share.tags and share.tags_going == share.tags:
        which = "the only tag" if share.tags == 1 else f"all {share.tags} tags"
        found.append(Warning(Guardrail.ONLY_TAG, name, f"deletes {which} in {name}", refuses))
    percent = DEFAULT_MAX_PERCENT if caps.max_percent is None else caps.max_percent
    if share.tags_going * 100 > share.tags * percent:
        message = f"deletes {share.tags_going} of {share.tags} tags in {name}"
        most = (refuses and not keep) or caps.max_percent is not None
        found.append(Warning(Guardrail.MOST, name, message, most))
    return found + _pulled(name, share.pulled_going, share.pulled, refuses=refuses)
