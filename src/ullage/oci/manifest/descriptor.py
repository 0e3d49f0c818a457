"""Content descriptors, by which a manifest names what it needs, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import DigestInvalid, ManifestInvalid, shown
from ullage.oci.manifest.media_type import read_media_type
from ullage.oci.manifest.members import (
    expected,
    folded,
    read_object,
    read_string,
    refuse_other_names,
)
from ullage.oci.strict_json import JSONValue

_MAX_SIZE = 2**53

_DESCRIPTOR_FIELDS = folded(
    "annotations", "artifactType", "data", "digest", "mediaType", "size", "urls"
)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Another piece of content: what it is, its digest, its size in bytes.

    An embedded copy (`data`) is not kept: content is always looked up by its digest.
    """

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None


def read_descriptors(value: JSONValue, where: str) -> tuple[Descriptor, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise expected(where, value, "an array of descriptors")
    return tuple(read_descriptor(one, f"{where}[{index}]") for index, one in enumerate(value))


def read_descriptor(value: JSONValue, where: str) -> Descriptor:
    """Read a content descriptor (OCI image-spec, descriptor.md)."""
    members = read_object(value, where)
    refuse_other_names(members, _DESCRIPTOR_FIELDS, f"{where}.")
    artifact_type = members.get("artifactType")
    return Descriptor(
        media_type=read_media_type(members.get("mediaType"), f"{where}.mediaType"),
        digest=_digest(members.get("digest"), f"{where}.digest"),
        size=_size(members.get("size"), f"{where}.size"),
        urls=_urls(members.get("urls"), f"{where}.urls"),
        annotations=read_annotations(members.get("annotations"), f"{where}.annotations"),
        artifact_type=read_artifact_type(artifact_type, f"{where}.artifactType"),
    )


def _digest(value: JSONValue, where: str) -> Digest:
    if not isinstance(value, str):
        raise expected(where, value, "a digest")
    try:
        return parse_digest(value)
    except DigestInvalid as error:
        raise ManifestInvalid(message=f"{where}: {error.message}") from None


def _size(value: JSONValue, where: str) -> int:
    # `True` is an int for Python, but in no other language.
    if type(value) is not int or not 0 <= value <= _MAX_SIZE:
        raise expected(where, value, "an integer from 0 to 2^53")
    return value


def _urls(value: JSONValue, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise expected(where, value, "an array of strings")
    return tuple(read_string(one, f"{where}[{index}]") for index, one in enumerate(value))


def read_annotations(value: JSONValue, where: str) -> dict[str, str]:
    if value is None:
        return {}
    members = read_object(value, where)
    return {key: read_string(text, f"{where}.{shown(key)}") for key, text in members.items()}


def read_artifact_type(value: JSONValue, where: str) -> str | None:
    # Writers in Go cannot tell an empty string from none.
    if value is None or value == "":
        return None
    return read_media_type(value, where)
