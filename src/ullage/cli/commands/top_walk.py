"""Where one is while a registry's space is walked through, as in ncdu, and what is marked there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ullage.cli.client.registry import RemoteRegistry
from ullage.cli.shell.errors import Failure
from ullage.cli.shell.tables import ago, short_digests

USAGE = "/api/v1/usage"
_BAR = 12


@dataclass(frozen=True, slots=True)
class Row:
    """A line: a namespace, a repository or an image. `frees`: what deleting it alone gives back.

    What a namespace frees is at least the sum of its repositories.
    """

    label: str
    bytes: int
    frees: int
    # What is below it: a namespace's or a repository's name; None for an image.
    below: str | None
    repositories: tuple[str, ...] = ()
    digest: str = ""
    note: str = ""


@dataclass(slots=True)
class Level:
    """Where one is: a namespace (`repository` is None) or a repository, and what is in it."""

    title: str
    repository: str | None
    rows: list[Row]
    place: int = 0


@dataclass(slots=True)
class Walk:
    """Where one is in a registry, and what is marked there."""

    registry: RemoteRegistry
    entries: Sequence[Mapping[str, Any]]
    levels: list[Level] = field(default_factory=list)
    # Whole repositories; and images, each with its repository and what deleting it frees.
    repositories: dict[str, int] = field(default_factory=dict)
    images: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.levels.append(Level("registry", None, namespace_rows(self.entries, "")))

    @property
    def here(self) -> Level:
        return self.levels[-1]

    def enter(self, place: int) -> bool:
        """Go into a line; False if there is nothing below it."""
        self.here.place = place
        row = self.here.rows[place] if place < len(self.here.rows) else None
        if row is None or row.below is None:
            return False
        if row.below.endswith("/"):
            rows = namespace_rows(self.entries, row.below)
            self.levels.append(Level(row.below, None, rows))
        else:
            query = {"repository": row.below, "by": "image"}
            data = self.registry.get(USAGE, query).data
            self.levels.append(Level(row.below, row.below, image_rows(data["entries"])))
        return True

    def leave(self) -> bool:
        """Go back up; False at the top."""
        if len(self.levels) == 1:
            return False
        self.levels.pop()
        return True

    def is_marked(self, row: Row) -> bool:
        if row.digest:
            return (self.here.repository or "", row.digest) in self.images
        return bool(row.repositories) and all(
            name in self.repositories for name in row.repositories
        )

    def mark(self, place: int) -> None:
        """Mark a line for the plan, or take its mark away. A namespace stands for all in it."""
        row = self.here.rows[place]
        if row.digest:
            key = (self.here.repository or "", row.digest)
            if self.images.pop(key, None) is None:
                self.images[key] = row.frees
        elif self.is_marked(row):
            for name in row.repositories:
                del self.repositories[name]
        else:
            frees = {str(each["name"]): int(each["exclusive_bytes"]) for each in self.entries}
            self.repositories |= {name: frees[name] for name in row.repositories}

    @property
    def frees(self) -> int:
        """What deleting all that is marked gives back at least; a plan knows exactly."""
        return sum(self.repositories.values()) + sum(self.images.values())

    def request(self) -> dict[str, Any]:
        """A plan of what is marked. Raises Failure where that is not of one kind."""
        of = sorted({repository for repository, _ in self.images})
        if bool(of) == bool(self.repositories) or len(of) > 1:
            raise Failure("A plan is of repositories, or of images of one repository: mark such.")
        if of:
            digests = [digest for _, digest in self.images]
            return {"repository": of[0], "digests": digests}
        return {"repositories": sorted(self.repositories)}


def namespace_rows(entries: Sequence[Mapping[str, Any]], prefix: str) -> list[Row]:
    """What is directly below a namespace such as `team/`, the largest first."""
    members: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        name = entry["name"]
        if name is None or entry.get("operation") or not str(name).startswith(prefix):
            continue
        first, slash, _ = str(name)[len(prefix) :].partition("/")
        members.setdefault(f"{first}{slash}", []).append(entry)
    rows = [
        Row(
            label=label,
            bytes=sum(int(each["fair_share_bytes"]) for each in some),
            frees=sum(int(each["exclusive_bytes"]) for each in some),
            below=f"{prefix}{label}",
            repositories=tuple(str(each["name"]) for each in some),
            note=f"{sum(int(each['manifest_count']) for each in some):,} manifests",
        )
        for label, some in members.items()
    ]
    return sorted(rows, key=lambda row: (-row.bytes, row.label))


def image_rows(entries: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The images of a repository, the largest first."""
    short = short_digests(str(entry["digest"]) for entry in entries)
    rows = [
        Row(
            label=", ".join(entry["tags"]) or f"{short[str(entry['digest'])]} (untagged)",
            bytes=int(entry["fair_share_bytes"]),
            frees=int(entry["exclusive_bytes"]),
            below=None,
            digest=str(entry["digest"]),
            note=f"pulled {ago(entry['last_pull'])}" if entry.get("last_pull") else "",
        )
        for entry in entries
    ]
    return sorted(rows, key=lambda row: (-row.bytes, row.label))


def bar(count: int, most: int) -> str:
    """How much that is of the most there is, as in ncdu."""
    filled = round(_BAR * count / most) if most else 0
    return f"[{'#' * filled}{' ' * (_BAR - filled)}]"
