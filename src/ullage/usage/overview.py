"""The bill as it was taken last (docs/design/observability.md section 2).

To take it is a pass over everything: seconds, where there are a million manifests. So it is taken
beside the requests and kept in the database with its moment, and to read it costs the same whatever
is in the registry. Plans and receipts are never made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic

from ullage.database.transaction import Transaction
from ullage.documents import Document, NotOfKind, packed, unpacked
from ullage.registry.context import Registry
from ullage.usage.queries import overview as kept
from ullage.usage.queries import usage as queries
from ullage.usage.queries.usage import sessions
from ullage.usage.usage import (
    Counted,
    Entry,
    Totals,
    count_registry,
    namespace_entries,
    read_parts,
    repository_entries,
    totals_of,
)

# So many lines are read together.
PAGE_LINES = 500
# A registry of no more manifests and blobs than this is counted when it is asked about: that takes
# hundredths of a second, and is exact.
SMALL = 10_000
# To take it may keep one thread at work for this share of the time; and not more often than this.
SHARE = 0.05
LEAST_SECONDS = 30.0
_REGISTRY = "registry"
_ALL_PAGES = 2**31 - 1
LINES = ("repository", "namespace")


class Head(Document, frozen=True, kw_only=True):
    """The registry's part of it, and what is to be known of the rest before it is read."""

    registry: Totals
    repository_count: int
    tag_count: int
    # How many lines there are, by what they are about.
    lines: dict[str, int]
    # What it is of (queries/overview.py, `state`), and how long it took.
    state: dict[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Overview:
    """The bill, `as_of` a moment at which it was exact; with the lines that were asked for."""

    head: Head
    taken_at: datetime
    as_of: datetime
    lines: Sequence[Entry] = ()


def is_small(registry: Registry) -> bool:
    """Whether it is sooner counted than looked up."""
    return registry.read(_size) <= SMALL


def _size(tx: Transaction) -> int:
    counted = kept.state(tx)
    return counted["manifest_count"] + counted["blob_count"]


def find_overview(
    registry: Registry, about: str | None = None, top: int | None = None
) -> Overview | None:
    """The one that was taken last; None if there is none yet.

    With the first `top` of its lines or all, the largest fair share first: `about` is one of LINES.
    Costs what is read.
    """
    wanted = 0 if about is None else _ALL_PAGES if top is None else -(-top // PAGE_LINES)

    def read(tx: Transaction) -> Overview | None:
        pages = kept.first_pages(tx, _REGISTRY, 1)
        head = _head(pages)
        if head is None:
            return None
        lines = [page for _, page in kept.first_pages(tx, about or "", wanted)]
        entries = [entry for page in lines for entry in unpacked(page, list[Entry])]
        # What has not changed since is still exact; only uploads come and go unseen.
        holds = head.state == kept.state(tx) and not sessions(tx)
        ((taken_at, _),) = pages
        return Overview(head, taken_at, registry.now() if holds else taken_at, entries[:top])

    found = registry.snapshot(read)
    uploading = registry.memory_sessions is not None and registry.memory_sessions.began()
    return replace(found, as_of=found.taken_at) if found is not None and uploading else found


def _head(pages: Sequence[tuple[datetime, str]]) -> Head | None:
    if not pages:
        return None
    try:
        return unpacked(pages[0][1], Head)
    except NotOfKind:
        # Of another version: the next one is taken soon.
        return None


def take_overview(registry: Registry, stopped: Callable[[], bool] | None = None) -> float:
    """Take it and keep it in the place of the one before; how many seconds that took.

    One pass over what tags lead to, and one look at each blob. Raises Stopped soon after `stopped`
    says so: then the one before is kept.
    """
    began, taken_at = monotonic(), registry.now()

    def read(tx: Transaction) -> tuple[dict[str, int], Counted, dict[str, list[Entry]]]:
        parts = read_parts(tx)
        about = {
            "repository": repository_entries(parts),
            "namespace": namespace_entries(parts, queries.spaces(tx)),
        }
        return kept.state(tx), count_registry(tx), about

    state, counted, about = registry.snapshot(read, stopped=stopped)
    live = [each for each in about["repository"] if each.name is not None and not each.operation]
    head = Head(
        registry=totals_of(registry, counted),
        repository_count=len(live),
        tag_count=sum(entry.tag_count for entry in live),
        lines={name: len(entries) for name, entries in about.items()},
        state=state,
        seconds=monotonic() - began,
    )
    parts = {name: _paged(entries) for name, entries in about.items()}
    parts[_REGISTRY] = [packed(head).decode()]
    registry.write(lambda tx: kept.keep(tx, taken_at, parts))
    return head.seconds


def _paged(entries: Sequence[Entry]) -> list[str]:
    return [
        packed(entries[start : start + PAGE_LINES]).decode()
        for start in range(0, len(entries), PAGE_LINES)
    ]


def keep_up(registry: Registry, stopped: Callable[[], bool] | None = None) -> float:
    """Take it if the registry has changed and it is time; seconds until the next look.

    Raises Stopped, as take_overview.
    """
    found = find_overview(registry)
    if found is not None:
        if registry.read(kept.state) == found.head.state:
            return LEAST_SECONDS
        left = found.head.seconds / SHARE - (registry.now() - found.taken_at).total_seconds()
        if 0 < left <= found.head.seconds / SHARE:
            return max(left, LEAST_SECONDS)
    return max(LEAST_SECONDS, take_overview(registry, stopped) / SHARE)
