"""A plan that was kept, read again: what was asked for, and what was shown as going."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ullage.cleanup.plan.preview import Wanted
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan's document, read."""

    document: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def chosen(self) -> bool:
        """Whether a filter or a search made the list, so that its items are what counts."""
        return "chosen" in self.document

    def large(self, registry: Registry) -> bool:
        """Whether carrying it out in one transaction would keep others waiting."""
        return len(self.document["items"]) > registry.limits.max_plan_at_once

    @property
    def wanted(self) -> Wanted:
        asked = self.document["asked"]
        repository = asked.get("repository")
        return Wanted(
            repositories=tuple(map(RepositoryName, asked.get("repositories", ()))),
            repository=RepositoryName(repository) if repository is not None else None,
            digests=tuple(map(Digest, asked.get("digests", ()))),
            tags=tuple(map(Tag, asked.get("tags", ()))),
        )

    def tagged(self) -> dict[Tag, Digest]:
        """What the tags that were asked for pointed to."""
        asked = set(self.document["asked"].get("tags", ()))
        return {
            Tag(tag): Digest(item["digest"])
            for item in (*self.document["items"], *self.document["stays"])
            for tag in item["tags"]
            if tag in asked
        }

    def going(self) -> dict[tuple[str, str], list[str]]:
        """Each manifest that goes, with its tags."""
        return {
            (item["repository"], item["digest"]): item["tags"] for item in self.document["items"]
        }
