"""Tables for people: columns that line up, sizes, ages and digests as one reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

_GAP = "  "


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A header, a line of dashes, a line for each row; "" when there is nothing in any column."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return ""
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [
        max(len(name), *(len(line[place]) for line in cells)) for place, name in enumerate(columns)
    ]
    right = [_numeric(row.get(name) for row in rows) for name in columns]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "".join(f"{_line(line, widths, right)}\n" for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = (
        cell.rjust(width) if to_the_right else cell.ljust(width)
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
        isinstance(value, Size) or (isinstance(value, int) and not isinstance(value, bool))
        for value in given
    )


class Size(str):
    """A number of bytes for people, `12.3 MiB`. Lines up to the right."""

    __slots__ = ()


_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def counted(n: int, thing: str) -> str:
    """Like 1 tag, 2 tags."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


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


def short_digests(digests: Iterable[str]) -> dict[str, str]:
    """The shortest beginnings, of at least twelve digits, that are unique among these."""
    known = sorted(set(digests))
    length = 12
    for left, right in pairwise(known):
        common = 0
        for one, other in zip(left, right, strict=False):
            if one != other:
                break
            common += 1
        length = max(length, common + 1 - len(left.partition(":")[0]) - 1)
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
