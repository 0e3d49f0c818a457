"""How pages write quantities: sizes, exact bytes, digests, moments, and texts from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

# U+2009, between groups of digits.
_THIN_SPACE = "\u2009"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
MAX_TEXT = 200
SHORT_DIGEST = 12
MAX_TAG = 40


def size(number: int) -> str:
    """Bytes in decimal units with two or three digits, as docker and `df -H` have them."""
    amount, unit = float(number), 0
    while abs(amount) >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    digits = 0 if unit == 0 or abs(amount) >= 99.95 else 1
    return f"{amount:.{digits}f}\u00a0{_UNITS[unit]}"


def exact(number: int) -> str:
    """A whole number, its digits in groups of three."""
    return f"{number:,}".replace(",", _THIN_SPACE)


def percent(part: float, whole: float) -> str:
    """A share of something, rounded to whole percents; of nothing it is 0."""
    return f"{100 * part / whole if whole else 0:.0f}\u00a0%"


def short(digest: str) -> str:
    """The first digits of a digest, enough to tell it from others on a page."""
    return digest.partition(":")[2][:SHORT_DIGEST]


def short_tag(tag: str) -> str:
    """A tag whose middle is left out where it is long."""
    return tag if len(tag) <= MAX_TAG else f"{tag[:18]}…{tag[-12:]}"


def cut(text: object) -> str:
    """A text from outside, at most 200 characters of it."""
    told = str(text)
    return told if len(told) <= MAX_TEXT else told[: MAX_TEXT - 1] + "…"


def address(text: str) -> str:
    """A name as a part of a page's path; slashes stay slashes."""
    return quote(text, safe="/:")


def moment(when: str | datetime) -> datetime:
    """A time of a document, in UTC."""
    parsed = datetime.fromisoformat(when) if isinstance(when, str) else when
    return parsed.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Said:
    """What a rail says: which of its sentences, and what is filled into it."""

    sentence: str
    values: Mapping[str, str]


# The sentences of cleanup/guardrails.py.
_RAILS = {
    "everything": r"deletes everything in (?P<name>\S+), and so the repository",
    "manifests": r"deletes (?P<part>\d+) of (?P<all>\d+) manifests in (?P<name>\S+)",
    "tags": r"deletes (?P<part>\d+) of (?P<all>\d+) tags in (?P<name>\S+)",
    "only tag": r"deletes the only tag in (?P<name>\S+)",
    "all tags": r"deletes all (?P<all>\d+) tags in (?P<name>\S+)",
    "newest": r"deletes (?P<image>\S+), the newest image in (?P<name>\S+)",
    "pulled": r"deletes a manifest in (?P<name>\S+) that somebody pulled lately: "
    r"(?P<digest>\S+) at (?P<time>\S+)",
    "pulled ones": r"deletes (?P<part>\d+) manifests in (?P<name>\S+) that somebody pulled lately: "
    r"(?P<digest>\S+) at (?P<time>\S+)",
    "too many": r"deletes (?P<part>\d+) manifests, more than (?P<all>\d+)",
    "too much": r"frees (?P<part>\d+) bytes, more than (?P<all>\d+)",
}


def said(message: str) -> Said:
    """The parts of a rail's message; of one that is not known, none of the sentences."""
    for sentence, pattern in _RAILS.items():
        found = re.fullmatch(pattern, message)
        if found is not None:
            return Said(sentence, found.groupdict())
    return Said("", {})


FILTERS = {
    "said": said,
    "size": size,
    "exact": exact,
    "short": short,
    "short_tag": short_tag,
    "cut": cut,
    "address": address,
    "moment": moment,
}
