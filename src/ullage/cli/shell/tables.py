"""Tables for people: columns that line up, sizes, ages and digests as one reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

_GAP = "  "
_NARROWEST = 6


def table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """A header, a line of dashes, a line for each row; "" when there is nothing in any column.

    What is wider than `width` loses the ends of its longest texts: no line wraps.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return ""
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [
        max(len(name), *(len(line[place]) for line in cells)) for place, name in enumerate(columns)
    ]
    right = [_numeric(row.get(name) for row in rows) for name in columns]
    if width is not None:
        widths = _fitted(widths, [*map(len, columns)], right, width)
    lines = [columns, ["-" * width for width in widths], *cells]
    return "".join(f"{_line(line, widths, right)}\n" for line in lines)


def _fitted(
    widths: Sequence[int], least: Sequence[int], right: Sequence[bool], width: int
) -> list[int]:
    """Narrower columns, the widest text first, until a line fits. Numbers stay whole."""
    fitted = list(widths)
    texts = [place for place, to_the_right in enumerate(right) if not to_the_right]
    excess = sum(fitted) + len(_GAP) * (len(fitted) - 1) - width
    while excess > 0:
        widest = max(texts, key=lambda place: fitted[place] - least[place], default=None)
        if widest is None or fitted[widest] <= max(least[widest], _NARROWEST):
            break
        fitted[widest] -= 1
        excess -= 1
    return fitted


def cut(text: str, width: int) -> str:
    """A text that is no longer than `width`."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = (
        cell.rjust(width) if to_the_right else cut(cell, width).ljust(width)
        for cell, width, to_the_right in zip(cells, widths, right, strict=True)
    )
    return _GAP.join(placed).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # No text from a registry may move the cursor.
    return "".join(char if char.isprintable() else "?" for char in str(value))


def _numeric(values: Iterable[Any]) -> bool:
    given = [value for value in values if value not in (None, "")]
    return bool(given) and all(
        isinstance(value, Figure) or (isinstance(value, int) and not isinstance(value, bool))
        for value in given
    )


class Figure(str):
    """A number for people, such as `12.3 MiB`, `1,234` or `3d`. Lines up to the right."""

    __slots__ = ()


class Size(Figure):
    """A number of bytes for people, `12.3 MiB`."""

    __slots__ = ()


_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def grouped(n: int) -> Figure:
    """A large number that can be read: `1,234,567`."""
    return Figure(f"{n:,}")


def counted(n: int, thing: str) -> str:
    """Like 1 tag, 2,000 tags."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def exact(count: int) -> str:
    """A size, and what it is to the byte: `1.5 KiB (1,536 bytes)`."""
    return f"{size(count)} ({count:,} bytes)"


def images_in(found: Mapping[str, Any]) -> str:
    """The counts in a document of the API: "2 manifests and 1 tag"."""
    return manifests_and_tags(found["manifest_count"], found["tag_count"])


def manifests_and_tags(manifests: int, tags: int) -> str:
    return f"{counted(manifests, 'manifest')} and {counted(tags, 'tag')}"


def size(count: int) -> Size:
    """Three figures are enough to see what is large: 512 B, 1.5 KiB, 12.3 MiB, 512 GiB."""
    if count < 1024:
        return Size(f"{count} B")
    amount, step = count / 1024, 0
    # 1000 KiB is 1.0 MiB for people: four figures would not line up.
    while amount >= 999.5 and step < len(_UNITS) - 1:
        amount, step = amount / 1024, step + 1
    return Size(
        f"{amount:.1f} {_UNITS[step]}" if amount < 99.95 else f"{amount:.0f} {_UNITS[step]}"
    )


_SPANS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def age(timestamp: Any, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was, `3d`; as it stands if it is none."""
    try:
        then = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return str(timestamp or "")
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = int(((now or datetime.now(UTC)) - then).total_seconds())
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return "now"


def ago(timestamp: Any, now: datetime | None = None) -> str:
    """As `age`, in a sentence: `3d ago`, `just now`."""
    found = age(timestamp, now)
    return "just now" if found == "now" else f"{found} ago"


def minute(timestamp: Any) -> str:
    """An RFC 3339 time to the minute, in UTC: `2026-11-30 12:05Z`; as it stands if it is none."""
    try:
        then = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return str(timestamp or "")
    if then.tzinfo is not None:
        then = then.astimezone(UTC)
    return f"{then:%Y-%m-%d %H:%MZ}"


_LEAST_DIGITS = 8


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """The shortest beginnings, of at least eight digits, that are unique among these."""
    known = sorted(set(ids))
    common = (_common(left, right) for left, right in pairwise(known))
    length = max([_LEAST_DIGITS, *(number + 1 for number in common)])
    return {id_: id_[:length] for id_ in known}


def _common(left: str, right: str) -> int:
    """How many characters both begin with."""
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return number
    return min(len(left), len(right))


def short_digests(digests: Iterable[str]) -> dict[str, str]:
    """The shortest beginnings, of at least twelve digits, that are unique among these."""
    known = sorted(set(digests))
    length = 12
    for left, right in pairwise(known):
        length = max(length, _common(left, right) + 1 - len(left.partition(":")[0]) - 1)
    return {digest: _shortened(digest, length) for digest in known}


def _shortened(digest: str, length: int) -> str:
    algorithm, colon, encoded = digest.partition(":")
    return f"{algorithm}{colon}{encoded[:length]}"


_LOCKS = (
    ("deleteEnabled", "delete"),
    ("writeEnabled", "write"),
    ("readEnabled", "read"),
    ("listEnabled", "list"),
)


def locks(item: Mapping[str, Any]) -> str:
    """What may not be done: `delete,write`; "" where nothing is locked."""
    attributes = item.get("changeableAttributes")
    if not isinstance(attributes, dict):
        return ""
    return ",".join(word for name, word in _LOCKS if attributes.get(name) is False)
