"""Decisions about deletions: how much at once is too much; what an age or a size means.

Pure: facts in, decisions out. Durations and sizes are read strictly, because a misread one deletes
(Azure/acr-cli#83: `--ago 999999d` overflowed and matched everything).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from ullage.oci.errors import ValueInvalid, shown

MAX_AGE = timedelta(days=36_500)
MAX_BYTES = 2**63 - 1
# More than this share of a repository is named, and refused to a list that nobody read.
DEFAULT_MAX_PERCENT = 50


_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?"
)
_SIZE = re.compile(r"([0-9]{1,19})(\.[0-9]{1,6})? ?([kKMGTP]i?)?B?")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def parse_duration(text: str) -> timedelta:
    """`7d`, `36h`, `2d3h6m`: whole numbers, larger units first, each at most once, up to 100 years.

    Raises ValueInvalid; a duration that is too long is refused, never wrapped round or cut.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueInvalid(
            {"duration": text[:40]}, f"{shown(text)}: expected a duration such as 7d, 36h or 2d3h6m"
        )
    milliseconds = sum(
        int(number) * unit
        for number, unit in zip(match.groups(), _UNITS.values(), strict=True)
        if number is not None
    )
    if milliseconds > MAX_AGE // timedelta(milliseconds=1):
        raise ValueInvalid({"duration": text[:40]}, f"{text}: longer than 100 years (36500d)")
    return timedelta(milliseconds=milliseconds)


def parse_until(text: str, now: datetime) -> datetime:
    """When something ends: `30d` from now on, `2027-01-31`, or `2027-01-31T18:00:00Z`.

    Without a time of day a date begins at midnight, without a zone it is UTC. Raises ValueInvalid.
    """
    if _DURATION.fullmatch(text) and text:
        return now + parse_duration(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueInvalid(
            {"until": text[:40]},
            f"{shown(text)}: expected a date such as 2027-01-31, or a duration such as 30d",
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def parse_size(text: str) -> int:
    """Bytes: `1048576`, `10GB` (1000), `1.5GiB` (1024). Raises ValueInvalid."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueInvalid(
            {"size": text[:40]}, f"{shown(text)}: expected a size such as 1048576, 10GB or 1.5GiB"
        )
    whole, fraction, unit = match.groups()
    base = 1024 if unit is not None and unit.endswith("i") else 1000
    power = _POWERS["" if unit is None else unit[0].replace("K", "k")]
    exact = Decimal(whole + (fraction or "")) * base**power
    if exact != int(exact) or exact > MAX_BYTES:
        raise ValueInvalid({"size": text[:40]}, f"{text}: not a whole number of bytes below 2^63")
    return int(exact)


# --- rails ----------------------------------------------------------------------------------------


class Rail(StrEnum):
    """What a deletion may run into; the word that allows it all the same."""

    EMPTIES = "empty-repository"
    MOST = "most-of-repository"
    ONLY_TAG = "only-tag"
    NEWEST = "newest-image"
    PULLED = "pulled-recently"
    MANIFESTS = "max-manifests"
    BYTES = "max-bytes"


RAILS = tuple(Rail)


@dataclass(frozen=True, slots=True)
class Caps:
    """How much one run may delete at most; None for any amount."""

    max_manifests: int | None = None
    max_bytes: int | None = None
    # Of one repository's manifests.
    max_percent: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What a deletion takes of one repository."""

    repository: str
    manifests: int
    manifests_going: int
    tags: int
    tags_going: int
    # The tag that was set last, if its image goes.
    newest_going: str | None
    # Manifests that go and were pulled lately, and what is said about the last of them.
    pulled_going: int = 0
    pulled: str = ""


@dataclass(frozen=True, slots=True)
class Warning:
    """One rail that a deletion runs into. It `refuses`, or it is only to be read."""

    rail: Rail
    repository: str | None
    message: str
    refuses: bool


def rails(
    parts: Sequence[Part], freed_bytes: int, caps: Caps, *, computed: bool
) -> tuple[Warning, ...]:
    """What somebody should know before they delete this much.

    Where a filter or a program made the list (`computed`), nobody read it: then every rail refuses
    until it is allowed by name. What a person named one by one is only pointed out. Caps that were
    given always refuse.
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
        found.append(Warning(Rail.MANIFESTS, None, message, refuses=True))
    if caps.max_bytes is not None and freed_bytes > caps.max_bytes:
        message = f"frees {freed_bytes} bytes, more than {caps.max_bytes}"
        found.append(Warning(Rail.BYTES, None, message, refuses=True))
    return found


def _of_repository(part: Part, caps: Caps, computed: bool) -> list[Warning]:
    if not part.manifests_going:
        return []
    name = part.repository
    found: list[Warning] = []
    percent = DEFAULT_MAX_PERCENT if caps.max_percent is None else caps.max_percent
    if part.manifests_going == part.manifests:
        message = f"deletes everything in {name}, and so the repository"
        found.append(Warning(Rail.EMPTIES, name, message, computed))
    if part.manifests_going * 100 > part.manifests * percent:
        message = f"deletes {part.manifests_going} of {part.manifests} manifests in {name}"
        refuses = computed or caps.max_percent is not None
        found.append(Warning(Rail.MOST, name, message, refuses))
    if part.tags and part.tags_going == part.tags:
        which = "the only tag" if part.tags == 1 else f"all {part.tags} tags"
        message = f"deletes {which} in {name}"
        found.append(Warning(Rail.ONLY_TAG, name, message, computed))
    if part.newest_going is not None:
        message = f"deletes {name}:{part.newest_going}, the newest image in {name}"
        found.append(Warning(Rail.NEWEST, name, message, computed))
    return found + _pulled(name, part.pulled_going, part.pulled, refuses=computed)


def _pulled(name: str, number: int, last: str, *, refuses: bool) -> list[Warning]:
    """Somebody may be running it, and will pull it again."""
    if not number:
        return []
    what = "a manifest" if number == 1 else f"{number} manifests"
    message = f"deletes {what} in {name} that somebody pulled lately: {last}"
    return [Warning(Rail.PULLED, name, message, refuses)]


# --- purging --------------------------------------------------------------------------------------

# acr-contract 4.1: what is longer is cut to this, which is longer than there are registries.
MAX_AGO = timedelta(days=150 * 365)
_AGO = re.compile(r"(?:([0-9]{1,20})d)?((?:[0-9]{1,20}(?:\.[0-9]{0,9})?(?:h|ms|m|s|us|µs|ns))*|0)")
_AGO_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(h|ms|m|s|us|µs|ns)")
_AGO_SECONDS = {
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ns": Decimal("1e-9"),
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tags of which repositories, as two regular expressions."""

    # Has to match a repository's whole name.
    repository: str
    # Has to match some part of a tag.
    tag: str


def parse_ago(text: str) -> tuple[timedelta, bool]:
    """`7d`, `2d3h6m`, `1.5h`: days, then a duration as Go writes them; and whether it was cut.

    acr-contract 4.1. Raises ValueInvalid; more than 150 years are cut to 150 years, where real
    acr once wrapped round and deleted everything (Azure/acr-cli#83).
    """
    match = _AGO.fullmatch(text)
    if match is None or not text:
        raise ValueInvalid(
            {"ago": text[:40]}, f"{shown(text)}: expected a duration such as 7d, 36h or 2d3h6m"
        )
    days, rest = match.groups()
    seconds = Decimal(days or 0) * 86_400
    for number, unit in _AGO_PART.findall(rest):
        seconds += Decimal(number) * _AGO_SECONDS[unit]
    if seconds > Decimal(MAX_AGO.total_seconds()):
        return MAX_AGO, True
    return timedelta(microseconds=int(seconds * 1_000_000)), False


def parse_filter(text: str) -> Filter:
    """`REPOSITORY:TAG`, two regular expressions (acr-contract 4.1). Raises ValueInvalid.

    A colon in brackets or parentheses is part of an expression.
    """
    colons = _separators(text)
    if len(colons) != 1:
        problem = "unable to correctly parse filter flag"
    elif colons[0] == 0:
        problem = "missing repository name/expression"
    elif colons[0] == len(text) - 1:
        problem = "missing tag name/expression"
    else:
        return Filter(text[: colons[0]], text[colons[0] + 1 :])
    raise ValueInvalid({"filter": text[:200]}, f"{shown(text)}: {problem}")


def _separators(text: str) -> list[int]:
    """Where the colons are that stand in no brackets."""
    found: list[int] = []
    depth, position, in_class = 0, 0, False
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
        elif in_class:
            if text.startswith("[:", position) and ":]" in text[position + 2 :]:
                position = text.index(":]", position + 2) + 1
            elif char == "]":
                in_class = False
        elif char == "[":
            in_class = True
            # A bracket that comes first is one of the characters.
            position += len(text[position + 1 :]) - len(_after_first(text[position + 1 :]))
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == ":" and depth <= 0:
            found.append(position)
        position += 1
    return found


def _after_first(text: str) -> str:
    return text.removeprefix("^").removeprefix("]")


@dataclass(frozen=True, slots=True)
class Purge:
    """What to clean out of which repositories (acr-contract 4.1, 4.2)."""

    filters: tuple[Filter, ...] = ()
    # Only what was updated longer ago than this.
    ago: timedelta = timedelta(0)
    # So many of the newest that would go stay: of the tags, and again of the untagged manifests.
    keep: int = 0
    untagged: bool = False
    untagged_only: bool = False
    include_locked: bool = False

    @property
    def tags(self) -> bool:
        """Whether tags go."""
        return not self.untagged_only

    @property
    def manifests(self) -> bool:
        """Whether manifests go that nothing leads to."""
        return self.untagged or self.untagged_only


def check_purge(purge: Purge, *, ago_given: bool) -> None:
    """Raises ValueInvalid for what does not go together, in acr's words."""
    if purge.untagged and purge.untagged_only:
        raise ValueInvalid(message="--untagged and --untagged-only exclude each other")
    if not purge.untagged_only and not purge.filters:
        raise ValueInvalid(message="--filter is required when not using --untagged-only")
    if not purge.untagged_only and not ago_given:
        raise ValueInvalid(message="--ago is required when not using --untagged-only")


# A tag by which cosign and its like attach something to an image: the digest is in its name.
_ATTACHED = re.compile(r"(sha256|sha512)-([0-9a-f]{64}|[0-9a-f]{128})(?:\.[A-Za-z0-9]+)?")


def attached_to(tag: str) -> str | None:
    """The digest of the image that a tag such as `sha256-….sig` belongs to."""
    match = _ATTACHED.fullmatch(tag)
    return f"{match[1]}:{match[2]}" if match else None


def tag_goes(
    tag: str,
    updated_at: datetime,
    *,
    locked: bool,
    cutoff: datetime,
    matches: Callable[[str], bool],
) -> bool:
    """Whether a purge may take the tag; how many of the newest stay is decided later."""
    return not locked and updated_at < cutoff and matches(tag)


@dataclass(frozen=True, slots=True)
class Swath:
    """What a purge takes of one repository."""

    repository: str
    # Its name was written out, not found by an expression.
    named: bool
    tags: int
    tags_going: int
    manifests: int
    manifests_going: int
    # As of Part.
    pulled_going: int = 0
    pulled: str = ""


def purge_rails(
    swaths: Sequence[Swath], freed_bytes: int, caps: Caps, *, keep: int
) -> tuple[Warning, ...]:
    """What a purge runs into. A repository that was named, or of which some are kept, may shrink.

    Orphans are what a purge is for and count as no loss, unless a repository has nothing else.
    """
    found: list[Warning] = []
    for swath in swaths:
        found += _of_swath(swath, caps, keep)
    return (*found, *_over(caps, sum(swath.manifests_going for swath in swaths), freed_bytes))


def _of_swath(swath: Swath, caps: Caps, keep: int) -> list[Warning]:
    name, refuses = swath.repository, not swath.named
    found: list[Warning] = []
    if swath.manifests and swath.manifests_going == swath.manifests:
        message = f"deletes everything in {name}, and so the repository"
        found.append(Warning(Rail.EMPTIES, name, message, refuses))
    if swath.tags and swath.tags_going == swath.tags:
        which = "the only tag" if swath.tags == 1 else f"all {swath.tags} tags"
        found.append(Warning(Rail.ONLY_TAG, name, f"deletes {which} in {name}", refuses))
    percent = DEFAULT_MAX_PERCENT if caps.max_percent is None else caps.max_percent
    if swath.tags_going * 100 > swath.tags * percent:
        message = f"deletes {swath.tags_going} of {swath.tags} tags in {name}"
        most = (refuses and not keep) or caps.max_percent is not None
        found.append(Warning(Rail.MOST, name, message, most))
    return found + _pulled(name, swath.pulled_going, swath.pulled, refuses=refuses)
