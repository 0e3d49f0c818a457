"""Sizes, durations and dates as people write them: one grammar for settings, API and command line.

Read strictly: what is misread deletes too much.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ullage.oci.errors import ValueInvalid, shown

MAX_AGE = timedelta(days=36_500)
MAX_BYTES = 2**63 - 1
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in _UNITS))
_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,6}))? ?([kKMGTP]i?)?B?")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def parse_duration(text: str, longest: timedelta = MAX_AGE) -> timedelta:
    """`7d`, `36h`, `2d3h6m`, `500ms`: whole numbers, larger units first, each at most once.

    Raises ValueInvalid; a duration that is too long is refused, never wrapped round or cut.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueInvalid(
            {"duration": text[:40]}, f"{shown(text)}: expected a duration such as 7d, 36h or 2d3h6m"
        )
    milliseconds = sum(
        int(number or 0) * unit
        for number, unit in zip(match.groups(), _UNITS.values(), strict=True)
    )
    if milliseconds > longest // timedelta(milliseconds=1):
        years = f"{longest.days // 365} years ({longest.days}d)"
        raise ValueInvalid({"duration": text[:40]}, f"{text}: longer than {years}")
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


def bytes_of(size: int | str | None) -> int | None:
    """A number of bytes, given as one or as `parse_size` reads it. Raises ValueInvalid."""
    return parse_size(size) if isinstance(size, str) else size


def parse_size(text: str, largest: int = MAX_BYTES) -> int:
    """Bytes: `1048576`, `10GB` (1000), `1.5GiB` (1024), `10G`. Raises ValueInvalid."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueInvalid(
            {"size": text[:40]}, f"{shown(text)}: expected a size such as 1048576, 10GB or 1.5GiB"
        )
    whole, fraction, unit = (part or "" for part in match.groups())
    base = 1024 if unit.endswith("i") else 1000
    factor: int = base ** _POWERS[unit[:1].upper()]
    size, rest = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
    if rest or size > largest:
        expected = f"a whole number of bytes up to {largest}"
        raise ValueInvalid({"size": text[:40]}, f"{text}: not {expected}")
    return int(size)
