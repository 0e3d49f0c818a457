"""How much one manifest may contain, counted before any of it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ullage.oci.errors import ManifestInvalid
from ullage.oci.manifest.members import Object
from ullage.oci.strict_json import JSONValue


@dataclass(frozen=True, slots=True)
class ManifestLimits:
    """How much one manifest may contain. Its bytes are limited where they are received."""

    # Layers, blobs and children. Config and subject are one each, and are not counted.
    max_descriptors: int = 16_384
    max_depth: int = 32
    # Of the manifest and its descriptors together; the bytes are those of keys and values in UTF-8.
    max_annotations: int = 4000
    # As much as a manifest may weigh: the specification's conformance suite pushes one like that.
    max_annotation_bytes: int = 4 * 1024 * 1024


DEFAULT = ManifestLimits()


def check_limits(body: Object, limits: ManifestLimits) -> None:
    """Count what is there before it is read, well formed or not."""
    listed = list(_listed_values(body))
    _check_limit("layers or children", len(listed), limits.max_descriptors, "--max-descriptors")
    annotations = list(_annotation_values((body, body.get("config"), body.get("subject"), *listed)))
    _check_limit("annotations", sum(map(len, annotations)), limits.max_annotations)
    size = sum(
        _utf8_length(text) for pairs in annotations for pair in pairs.items() for text in pair
    )
    _check_limit("bytes of annotations", size, limits.max_annotation_bytes)


def _check_limit(what: str, found: int, limit: int, setting: str | None = None) -> None:
    if found > limit:
        hint = f"; the registry's setting {setting} allows more" if setting else ""
        raise ManifestInvalid(message=f"manifest: {found} {what} - expected at most {limit}{hint}")


def _listed_values(body: Object) -> Iterator[JSONValue]:
    for name in ("layers", "blobs", "manifests"):
        values = body.get(name)
        if isinstance(values, list):
            yield from values


def _annotation_values(members: Iterable[JSONValue]) -> Iterator[Object]:
    for member in members:
        annotations = member.get("annotations") if isinstance(member, dict) else None
        if isinstance(annotations, dict):
            yield annotations


def _utf8_length(text: JSONValue) -> int:
    return len(text.encode()) if isinstance(text, str) else 0
