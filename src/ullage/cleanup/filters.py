"""What a purge may take: filters of repositories and tags, as `acr purge` reads them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from ullage.oci.errors import ValueInvalid, shown

# azure.md section 4.1: what is longer is cut to this, which is longer than there are registries.
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

    azure.md section 4.1. Raises ValueInvalid; more than 150 years are cut to 150 years, where real
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
    """`REPOSITORY:TAG`, two regular expressions (azure.md section 4.1). Raises ValueInvalid.

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
    """What to clean out of which repositories (azure.md sections 4.1, 4.2)."""

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
