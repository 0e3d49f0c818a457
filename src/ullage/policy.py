"""Decisions about deletions: how much at once is too much; what an age or a size means.

Pure: facts in, decisions out. Durations and sizes are read strictly, because a misread one deletes
(Azure/acr-cli#83: `--ago 999999d` overflowed and matched everything).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
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
    MANIFESTS = "max-manifests"
    BYTES = "max-bytes"


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
    manifests = sum(part.manifests_going for part in parts)
    if caps.max_manifests is not None and manifests > caps.max_manifests:
        message = f"deletes {manifests} manifests, more than {caps.max_manifests}"
        found.append(Warning(Rail.MANIFESTS, None, message, refuses=True))
    if caps.max_bytes is not None and freed_bytes > caps.max_bytes:
        message = f"frees {freed_bytes} bytes, more than {caps.max_bytes}"
        found.append(Warning(Rail.BYTES, None, message, refuses=True))
    return tuple(found)


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
    return found
