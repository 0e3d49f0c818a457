"""The bill as pages show it: every repository's line, and what the disk is made of.

The one place of the UI that asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ullage.authorization import Principal
from ullage.documents import UNSET
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry
from ullage.usage import usage
from ullage.usage.bill import bill
from ullage.usage.usage import Entry, Totals


@dataclass(frozen=True, slots=True)
class Line:
    """One repository. No tag leads to `untagged_bytes` of it."""

    name: str
    bytes: int
    exclusive_bytes: int
    shared_bytes: int
    fair_share_bytes: int
    untagged_bytes: int
    manifest_count: int
    tag_count: int

    @property
    def namespace(self) -> str:
        return self.name.partition("/")[0]

    @property
    def untagged_share(self) -> float:
        """The part of it that no tag leads to, from 0 to 1."""
        return self.untagged_bytes / self.bytes if self.bytes else 0.0


@dataclass(frozen=True, slots=True)
class Bill:
    """Lines with the largest fair share first; sums only for visitors who may read everything."""

    lines: Sequence[Line]
    # The fair share of what was deleted softly or is being erased.
    deleted_bytes: int
    totals: Totals | None
    as_of: datetime


def bill_of(registry: Registry, principal: Principal) -> Bill:
    """The lines of the repositories that the caller may read.

    Counted now where that is quick; of a large registry, as it was taken last.
    """
    found = bill(registry, principal, "repository", None)
    # Of repositories, no line is of an image.
    entries = [entry for entry in found.entries or () if isinstance(entry, Entry)]
    live = [entry for entry in entries if entry.name is not None and entry.operation is None]
    gone = [entry for entry in entries if entry.name is None or entry.operation is not None]
    return Bill(
        [_line(entry) for entry in live],
        sum(entry.fair_share_bytes for entry in gone),
        found.registry or None,
        registry.now() if found.as_of is UNSET else datetime.fromisoformat(found.as_of),
    )


def _line(entry: Entry) -> Line:
    assert entry.name is not None
    return Line(
        entry.name,
        entry.bytes,
        entry.exclusive_bytes,
        entry.shared_bytes,
        entry.fair_share_bytes,
        entry.untagged_bytes,
        entry.manifest_count,
        entry.tag_count,
    )


def repository_line(registry: Registry, name: RepositoryName) -> Entry:
    """One repository's line, as it is now. Raises NameUnknown."""
    return usage.of_repository(registry, name)
