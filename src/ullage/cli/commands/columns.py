"""The rows of tables, by kind of thing. Input is what the registry answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ullage.cli.shell.tables import age, locks, minute, short_digests, size

Row = Mapping[str, Any]
Rows = Callable[[], Sequence[Row]]


def names(items: Sequence[str], header: str) -> Rows:
    return lambda: [{header: item} for item in items]


def manifests(items: Sequence[Row]) -> Rows:
    """One line a manifest: what it is, what points to it, what may not be done with it."""

    def rows() -> list[Row]:
        short = short_digests(str(item.get("digest", "")) for item in items)
        return [
            {
                "Digest": short[str(item.get("digest", ""))],
                "Tags": tag_list(item.get("tags")),
                "Platform": platform(item),
                "Size": _size(item.get("contentSize", item.get("imageSize"))),
                "Age": age(item.get("lastUpdateTime")),
                "Locked": locks(item),
            }
            for item in items
        ]

    return rows


def tags(items: Sequence[Row]) -> Rows:
    def rows() -> list[Row]:
        short = short_digests(str(item.get("digest", "")) for item in items)
        return [
            {
                "Tag": item.get("name"),
                "Digest": short[str(item.get("digest", ""))],
                "Age": age(item.get("lastUpdateTime")),
                "Locked": locks(item),
            }
            for item in items
        ]

    return rows


def repository(item: Row) -> Rows:
    return lambda: [
        {
            "Repository": item.get("imageName"),
            "Manifests": item.get("manifestCount"),
            "Tags": item.get("tagCount"),
            "Age": age(item.get("lastUpdateTime")),
            "Locked": locks(item),
        }
    ]


def attributes(item: Row) -> Rows:
    """A repository, a tag or a manifest, whichever it is."""
    if "imageName" in item:
        return repository(item)
    return tags([item]) if "name" in item else manifests([item])


def contents(items: Sequence[Row]) -> Rows:
    """Manifests as they were pushed."""
    return lambda: [
        {
            "MediaType": item.get("mediaType"),
            "ArtifactType": item.get("artifactType"),
            "SubjectDigest": (item.get("subject") or {}).get("digest"),
            "Entries": len(item.get("layers") or item.get("manifests") or []),
        }
        for item in items
    ]


def descriptors(items: Sequence[Row]) -> Rows:
    return lambda: [
        {
            "Digest": item.get("digest"),
            "ArtifactType": item.get("artifactType"),
            "MediaType": item.get("mediaType"),
            "Size": _size(item.get("size")),
        }
        for item in items
    ]


def deleted(items: Sequence[Row]) -> Rows:
    """Repositories, manifests or tags that were deleted softly."""

    def rows() -> list[Row]:
        short = short_digests(str(item["digest"]) for item in items if "digest" in item)
        return [
            {
                **({"Repository": item["repository"]} if "repository" in item else {}),
                **({"Tag": item["tag"]} if "tag" in item else {}),
                **({"Digest": short[str(item["digest"])]} if "digest" in item else {}),
                "Deleted": age(item.get("deletedAt")),
                "Until": minute(item.get("expiresAfter")),
            }
            for item in items
        ]

    return rows


def tag_list(tags: Any) -> str:
    """`null` is an orphan, `[]` what an index or a subject holds: both have no tag to show."""
    if tags is None:
        return "(untagged)"
    return ", ".join(map(str, tags)) if tags else "(held)"


def platform(item: Row) -> str:
    parts = [str(item[key]) for key in ("os", "architecture") if item.get(key)]
    if parts == ["unknown", "unknown"]:
        # What BuildKit puts beside platforms: it runs nowhere.
        return "attestation"
    if parts:
        return "/".join(parts)
    kind = str(item.get("mediaType", ""))
    return "index" if "index" in kind or "manifest.list" in kind else ""


def _size(count: Any) -> Any:
    return size(count) if isinstance(count, int) else None
