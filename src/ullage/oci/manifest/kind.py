"""Which type a manifest is, and what one of each known type is made of."""

from __future__ import annotations

from dataclasses import dataclass

from ullage.oci.errors import ManifestInvalid, shown
from ullage.oci.manifest.media_type import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    DOCKER_SCHEMA_1,
    GENERIC,
    OCI_ARTIFACT,
    OCI_IMAGE,
    OCI_INDEX,
    read_type_name,
)
from ullage.oci.manifest.members import Object, expected


@dataclass(frozen=True, slots=True)
class Kind:
    """What a known type of manifest is made of."""

    # Fields that must be there, and those that may be.
    required: frozenset[str]
    optional: frozenset[str]
    # Fields that would make it another kind for another reader.
    foreign: frozenset[str]
    schema_version: int | None = 2


_IMAGE_FIELDS = frozenset({"config", "layers"})
_INDEX_FIELDS = frozenset({"manifests"})
_SCHEMA_1_FIELDS = frozenset({"fsLayers"})
_SUBJECT = frozenset({"subject"})
# They may be empty, and an empty array that Go writes is often null (`regctl image create`).
_ARRAYS = frozenset({"layers", "manifests"})

# The Docker types have no subject; where one is written, no client reads it, and neither do we.
KINDS = {
    OCI_IMAGE: Kind(_IMAGE_FIELDS, _SUBJECT, _INDEX_FIELDS | _SCHEMA_1_FIELDS),
    OCI_INDEX: Kind(_INDEX_FIELDS, _SUBJECT, _IMAGE_FIELDS | _SCHEMA_1_FIELDS),
    OCI_ARTIFACT: Kind(
        required=frozenset(),
        optional=frozenset({"blobs"}) | _SUBJECT,
        foreign=_IMAGE_FIELDS | _INDEX_FIELDS | _SCHEMA_1_FIELDS,
        schema_version=None,
    ),
    DOCKER_IMAGE: Kind(_IMAGE_FIELDS, frozenset(), _INDEX_FIELDS | _SCHEMA_1_FIELDS),
    DOCKER_LIST: Kind(_INDEX_FIELDS, frozenset(), _IMAGE_FIELDS | _SCHEMA_1_FIELDS),
}


def refuse_ambiguous(body: Object) -> None:
    """CVE-2021-41190: one document that one client reads as an image and another as an index."""
    folded = {key.casefold() for key in body}
    if "manifests" in folded and not folded.isdisjoint(_IMAGE_FIELDS):
        raise ManifestInvalid(
            message="manifest: has `manifests` as well as `config` or `layers` - "
            "expected either an index or an image"
        )


# --- which type it is -----------------------------------------------------------------------------


def agreed_type(body: Object, sent_as: str | None) -> str:
    """The type to store the document as: the one that its sender and its body agree on."""
    stated = _stated_type(body)
    if stated is None:
        return _unstated_type(body, sent_as)
    if stated in DOCKER_SCHEMA_1:
        raise _schema_1_refused()
    if sent_as is None or sent_as == stated.lower():
        return stated
    if sent_as in GENERIC and stated not in KINDS:
        return stated
    raise ManifestInvalid(
        message=f"mediaType: {shown(stated)} - expected the Content-Type, {shown(sent_as)}"
    )


def _stated_type(body: Object) -> str | None:
    """The type that the body names: in its own spelling, unless the type is a known one."""
    value = body.get("mediaType")
    if value is None:
        return None
    stated = read_type_name(value, "mediaType")
    known = stated.lower()
    return known if known in KINDS or known in DOCKER_SCHEMA_1 else stated


def _unstated_type(body: Object, sent_as: str | None) -> str:
    if sent_as in DOCKER_SCHEMA_1 or _is_version_1(body):
        raise _schema_1_refused()
    if sent_as is None:
        return _type_by_shape(body)
    if sent_as in KINDS:
        return sent_as
    raise ManifestInvalid(
        message="mediaType: missing - expected the body to name its type, since the Content-Type "
        f"{shown(sent_as)} is not a known type of manifest"
    )


def _type_by_shape(body: Object) -> str:
    if "manifests" in body:
        return OCI_INDEX
    if "config" in body and "layers" in body:
        return OCI_IMAGE
    raise ManifestInvalid(
        message="mediaType: missing - expected a Content-Type, a `mediaType`, the `manifests` of "
        "an index, or the `config` and `layers` of an image"
    )


def _is_version_1(body: Object) -> bool:
    version = body.get("schemaVersion")
    return type(version) is int and version == 1


def _schema_1_refused() -> ManifestInvalid:
    return ManifestInvalid(
        message="Docker image manifest version 2, schema 1 is not supported - "
        "expected schema 2 or an OCI image; push it again with a current client"
    )


def refuse_displayable(media_type: str) -> None:
    """Only `application/` types: a manifest served as `text/html` would be a page of this site."""
    if not media_type.lower().startswith("application/"):
        raise ManifestInvalid(
            message=f"mediaType: {shown(media_type)} - expected a type below application/"
        )


# --- what it is made of ---------------------------------------------------------------------------


def check_shape(body: Object, media_type: str, kind: Kind) -> None:
    foreign = sorted(kind.foreign & body.keys())
    if foreign:
        raise ManifestInvalid(
            message=f"{foreign[0]}: expected no such field in a manifest of type {media_type}"
        )
    if _is_version_1(body):
        raise _schema_1_refused()
    version = body.get("schemaVersion")
    if kind.schema_version is not None and (
        type(version) is not int or version != kind.schema_version
    ):
        raise expected("schemaVersion", version, str(kind.schema_version))
    for name in sorted(kind.required):
        if body.get(name) is None and not (name in body and name in _ARRAYS):
            raise expected(name, None, f"to be there, in a manifest of type {media_type}")
