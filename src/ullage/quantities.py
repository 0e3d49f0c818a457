"""Durations, dates and sizes as people write them, read strictly: misread, they delete too much."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from ullage.oci.errors import ValueInvalid, shown

MAX_AGE = timedelta(days=36_500)
MAX_BYTES = 2**63 - 1
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
