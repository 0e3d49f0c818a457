"""How pages write quantities: sizes, exact bytes, digests, moments, and texts from outside."""

from __future__ import annotations

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


FILTERS = {
    "size": size,
    "exact": exact,
    "short": short,
    "short_tag": short_tag,
    "cut": cut,
    "address": address,
    "moment": moment,
}
