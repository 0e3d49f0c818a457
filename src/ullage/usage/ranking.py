"""The lines of a repository's images or tags in an order, those with a text in their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum

from ullage.usage.images import ImageEntry

_NUMBERS = re.compile(r"(\d+)")


class Sorting(StrEnum):
    """What images are in the order of; the largest, or the last, first."""

    PUSHED = "pushed"
    SHARE = "share"
    SIZE = "size"
    FREES = "frees"
    TAG = "tag"
    PULLED = "pull"


# What a line says itself: when an image was pushed, it does not.
LINE_SORTINGS = tuple(sorting for sorting in Sorting if sorting is not Sorting.PUSHED)


def ranked(entries: Iterable[ImageEntry], sorting: Sorting, text: str = "") -> list[ImageEntry]:
    """Those with the text in a tag or the digest, in this order; by tag, v9 before v10."""
    return sorted((entry for entry in entries if _has(entry, text)), key=_KEYS[sorting])


def name_of(entry: ImageEntry) -> str:
    """By what a page of lines says where the next one begins."""
    return entry.tag or entry.digest


def place_behind(entries: Sequence[ImageEntry], last: str | None) -> int:
    """Where the line behind that of this name is; at the start, if there is none of it."""
    places = {name_of(entry): place for place, entry in enumerate(entries)}
    return places[last] + 1 if last in places else 0


def _has(entry: ImageEntry, text: str) -> bool:
    return not text or text in entry.digest or any(text in tag for tag in _tags(entry))


def _tags(entry: ImageEntry) -> Sequence[str]:
    return (entry.tag,) if entry.tag else entry.tags or ()


def _natural(text: str) -> list[tuple[int, str]]:
    """v9 before v10."""
    return [(int(part) if part.isdigit() else -1, part) for part in _NUMBERS.split(text)]


_KEYS: Mapping[Sorting, Callable[[ImageEntry], tuple[object, ...]]] = {
    Sorting.SHARE: lambda entry: (-entry.fair_share_bytes, entry.digest, entry.tag or ""),
    Sorting.SIZE: lambda entry: (-entry.bytes, entry.digest, entry.tag or ""),
    Sorting.FREES: lambda entry: (-entry.exclusive_bytes, entry.digest, entry.tag or ""),
    Sorting.TAG: lambda entry: (
        not _tags(entry),
        _natural((*_tags(entry), "")[0]),
        entry.digest,
    ),
    Sorting.PULLED: lambda entry: (
        [-ord(letter) for letter in entry.last_pull or ""] or [0],
        entry.digest,
        entry.tag or "",
    ),
    Sorting.PUSHED: lambda entry: (entry.digest,),
}
