"""Manifests: what a pushed document says it needs.

What is read here decides what a deletion holds on to, and every client will read the same bytes
with a parser of its own. So a document that could be taken for two things is refused
(CVE-2021-41190), and what is accepted is stored and served as exactly the type judged here.

Sources: OCI image-spec 1.1 (descriptor.md, manifest.md, image-index.md, annotations.md), the
artifact manifest of its release candidate 1.1.0-rc2, Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from ullage.oci import strict_json
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import DigestInvalid, ManifestInvalid, shown
from ullage.oci.strict_json import JSONInvalid, JSONValue

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

_DOCKER_SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

# Content types that say nothing about a manifest: what programs send when they were told nothing.
_GENERIC = frozenset(
    {
        "application/json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "binary/octet-stream",
        "text/plain",
    }
)

# Layers that are fetched from elsewhere: clients do not push them (image-spec, layer.md,
# "Non-Distributable Layers"; Docker's schema 2, "foreign layers").
_NON_DISTRIBUTABLE = frozenset(
    {
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)

# BuildKit stores its cache as an index that lists layers and a configuration where manifests belong
# (`--cache-to type=registry` before `image-manifest=true` became its default). They are blobs.
_BLOB_TYPES = (
    "application/vnd.buildkit.cacheconfig.",
    "application/vnd.docker.container.image.",
    "application/vnd.docker.image.rootfs.",
    "application/vnd.oci.image.config.",
    "application/vnd.oci.image.layer.",
)

_MAX_MEDIA_TYPE_CHARACTERS = 255
_MAX_SIZE = 2**53
# What databases have room for.
_MAX_IMAGE_SIZE = 2**63 - 1

# RFC 6838, section 4.2: restricted-name-chars, and the slash between type and subtype.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+/-]+")
# Inside a descriptor a type may have parameters (RFC 2045, section 5.1), as in
# `application/vnd.dev.sigstore.bundle+json;version=0.2`.
_WITH_PARAMETERS = re.compile(
    r"[A-Za-z0-9!#$&^_.+/-]+(?:; ?[A-Za-z0-9!#$&^_.+-]+=[A-Za-z0-9!#$&^_.+-]+)*"
)


@dataclass(frozen=True, slots=True)
class ManifestLimits:
    """How much one manifest may hold. Its bytes are limited where they are received."""

    max_descriptors: int = 1000
    max_depth: int = 32
    # Of the manifest and its descriptors together; the bytes are those of keys and values in UTF-8.
    max_annotations: int = 4000
    # As much as a manifest may weigh: the specification's conformance suite pushes one like that.
    max_annotation_bytes: int = 4 * 1024 * 1024


DEFAULT = ManifestLimits()


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


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was understood.

    `required_*` must be in the repository for the manifest to be stored; `optional_*` is held too
    if it is there. Each digest is in at most one of the two, and there once, config first.
    `artifact_type` is what the referrers API shows: of an image that has none, its config's type.
    """

    media_type: str
    artifact_type: str | None = None
    annotations: dict[str, str] = field(default_factory=dict, hash=False)
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    required_blobs: tuple[Descriptor, ...] = ()
    optional_blobs: tuple[Descriptor, ...] = ()
    required_children: tuple[Descriptor, ...] = ()
    optional_children: tuple[Descriptor, ...] = ()

    @property
    def image_size(self) -> int:
        """Bytes of config and layers; of an index, of the manifests that it lists themselves.

        acr-contract 2.6, `imageSize`. What is named twice is fetched once, and counts once.
        """
        listed = (*_present(self.config), *self.layers, *self.blobs, *self.manifests)
        return min(sum(each.size for each in _distinct(listed)), _MAX_IMAGE_SIZE)


@dataclass(frozen=True, slots=True)
class _Kind:
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

# The Docker types have no subject; where one is written, no client reads it, and neither do we.
_KINDS = {
    OCI_IMAGE: _Kind(_IMAGE_FIELDS, _SUBJECT, _INDEX_FIELDS | _SCHEMA_1_FIELDS),
    OCI_INDEX: _Kind(_INDEX_FIELDS, _SUBJECT, _IMAGE_FIELDS | _SCHEMA_1_FIELDS),
    OCI_ARTIFACT: _Kind(
        required=frozenset(),
        optional=frozenset({"blobs"}) | _SUBJECT,
        foreign=_IMAGE_FIELDS | _INDEX_FIELDS | _SCHEMA_1_FIELDS,
        schema_version=None,
    ),
    DOCKER_IMAGE: _Kind(_IMAGE_FIELDS, frozenset(), _INDEX_FIELDS | _SCHEMA_1_FIELDS),
    DOCKER_LIST: _Kind(_INDEX_FIELDS, frozenset(), _IMAGE_FIELDS | _SCHEMA_1_FIELDS),
}


def parse_manifest(
    raw: bytes, media_type: str | None, limits: ManifestLimits = DEFAULT
) -> Manifest:
    """Judge a manifest by its bytes and by the Content-Type it came with, if any.

    A type that is not known is accepted when the body names it; whatever in it looks like a
    descriptor is then optional. A field that is null counts as missing.
    Raises ManifestInvalid, and nothing else, saying where in the document what was expected.
    """
    body = _document(raw, limits)
    _refuse_two_faces(body)
    _check_limits(body, limits)
    judged = _judge_type(body, _content_type(media_type))
    kind = _KINDS.get(judged)
    if kind is not None:
        return _read_known(body, judged, kind)
    _refuse_displayable(judged)
    return _read_unknown(body, judged)


# --- the document as a whole ----------------------------------------------------------------------

_Object = dict[str, JSONValue]


def _folded(*names: str) -> dict[str, str]:
    return {name.casefold(): name for name in names}


_FIELDS = _folded(
    "annotations",
    "artifactType",
    "blobs",
    "config",
    "fsLayers",
    "layers",
    "manifests",
    "mediaType",
    "schemaVersion",
    "subject",
)
_DESCRIPTOR_FIELDS = _folded(
    "annotations", "artifactType", "data", "digest", "mediaType", "size", "urls"
)


def _document(raw: bytes, limits: ManifestLimits) -> _Object:
    try:
        body = strict_json.loads(raw, limits.max_depth)
    except JSONInvalid as error:
        raise ManifestInvalid(message=f"manifest: {error}") from None
    return _object(body, "manifest")


def _refuse_two_faces(body: _Object) -> None:
    """CVE-2021-41190: one document that one client reads as an image and another as an index."""
    folded = {key.casefold() for key in body}
    if "manifests" in folded and not folded.isdisjoint(_IMAGE_FIELDS):
        raise ManifestInvalid(
            message="manifest: has `manifests` as well as `config` or `layers` - "
            "expected either an index or an image"
        )


def _check_limits(body: _Object, limits: ManifestLimits) -> None:
    """Count what is there before it is read, well formed or not."""
    descriptors = list(_descriptor_values(body))
    _check_limit("descriptors", len(descriptors), limits.max_descriptors)
    annotations = list(_annotation_values((body, *descriptors)))
    _check_limit("annotations", sum(map(len, annotations)), limits.max_annotations)
    size = sum(
        _utf8_length(text) for pairs in annotations for pair in pairs.items() for text in pair
    )
    _check_limit("bytes of annotations", size, limits.max_annotation_bytes)


def _check_limit(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise ManifestInvalid(message=f"manifest: {found} {what} - expected at most {limit}")


def _descriptor_values(body: _Object) -> Iterator[JSONValue]:
    for name in ("config", "subject"):
        if body.get(name) is not None:
            yield body[name]
    for name in ("layers", "blobs", "manifests"):
        values = body.get(name)
        if isinstance(values, list):
            yield from values


def _annotation_values(holders: Iterable[JSONValue]) -> Iterator[_Object]:
    for holder in holders:
        annotations = holder.get("annotations") if isinstance(holder, dict) else None
        if isinstance(annotations, dict):
            yield annotations


def _utf8_length(text: JSONValue) -> int:
    return len(text.encode()) if isinstance(text, str) else 0


# --- which type it is -----------------------------------------------------------------------------


def _content_type(header: str | None) -> str | None:
    """The Content-Type without its parameters, in lower case; None if there is none."""
    if header is None or not header.strip():
        return None
    return _type_name(header.partition(";")[0].strip(), "Content-Type").lower()


def _judge_type(body: _Object, sent_as: str | None) -> str:
    """The type to store the document as: the one that its sender and its body agree on."""
    stated = _stated_type(body)
    if stated is None:
        return _unstated_type(body, sent_as)
    if stated in _DOCKER_SCHEMA_1:
        raise _schema_1_refused()
    if sent_as is None or sent_as == stated.lower():
        return stated
    if sent_as in _GENERIC and stated not in _KINDS:
        return stated
    raise ManifestInvalid(
        message=f"mediaType: {shown(stated)} - expected the Content-Type, {shown(sent_as)}"
    )


def _stated_type(body: _Object) -> str | None:
    """The body's own word for its type, as it spells it unless the type is one we know."""
    value = body.get("mediaType")
    if value is None:
        return None
    stated = _type_name(value, "mediaType")
    known = stated.lower()
    return known if known in _KINDS or known in _DOCKER_SCHEMA_1 else stated


def _unstated_type(body: _Object, sent_as: str | None) -> str:
    if sent_as in _DOCKER_SCHEMA_1 or _is_version_1(body):
        raise _schema_1_refused()
    if sent_as is None:
        return _type_by_shape(body)
    if sent_as in _KINDS:
        return sent_as
    raise ManifestInvalid(
        message="mediaType: missing - expected the body to name its type, since the Content-Type "
        f"{shown(sent_as)} is not a known type of manifest"
    )


def _type_by_shape(body: _Object) -> str:
    if "manifests" in body:
        return OCI_INDEX
    if "config" in body and "layers" in body:
        return OCI_IMAGE
    raise ManifestInvalid(
        message="mediaType: missing - expected a Content-Type, a `mediaType`, the `manifests` of "
        "an index, or the `config` and `layers` of an image"
    )


def _is_version_1(body: _Object) -> bool:
    version = body.get("schemaVersion")
    return type(version) is int and version == 1


def _schema_1_refused() -> ManifestInvalid:
    return ManifestInvalid(
        message="Docker image manifest version 2, schema 1 is not supported - "
        "expected schema 2 or an OCI image; push it again with a current client"
    )


def _refuse_displayable(media_type: str) -> None:
    """Only `application/` types: a manifest served as `text/html` would be a page of this site."""
    if not media_type.lower().startswith("application/"):
        raise ManifestInvalid(
            message=f"mediaType: {shown(media_type)} - expected a type below application/"
        )


# --- reading --------------------------------------------------------------------------------------


def _read_known(body: _Object, media_type: str, kind: _Kind) -> Manifest:
    _refuse_other_spellings(body, _FIELDS, "")
    _check_shape(body, media_type, kind)
    part = {name: body.get(name) for name in kind.required | kind.optional}
    config = _descriptor(part["config"], "config") if "config" in part else None
    layers = _descriptors(part.get("layers"), "layers")
    blobs = _descriptors(part.get("blobs"), "blobs")
    manifests = _descriptors(part.get("manifests"), "manifests")
    subject = _subject(part.get("subject"))
    _refuse_conflicting_sizes([*_present(config), *layers, *blobs, *manifests, *_present(subject)])
    children = [listed for listed in manifests if not _is_blob(listed)]
    cached = [listed for listed in manifests if _is_blob(listed)]
    required, optional = _by_need([*_present(config), *blobs, *cached], layers)
    artifact_type = _artifact_type(body.get("artifactType"), "artifactType")
    return Manifest(
        media_type=media_type,
        artifact_type=artifact_type or (config.media_type if config else None),
        annotations=_annotations(body.get("annotations"), "annotations"),
        config=config,
        layers=layers,
        blobs=blobs,
        manifests=manifests,
        subject=subject,
        required_blobs=required,
        optional_blobs=optional,
        required_children=_distinct(children),
    )


def _is_blob(listed: Descriptor) -> bool:
    return listed.media_type.lower().startswith(_BLOB_TYPES)


def _subject(value: JSONValue) -> Descriptor | None:
    return None if value is None else _descriptor(value, "subject")


def _check_shape(body: _Object, media_type: str, kind: _Kind) -> None:
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
        raise _expected("schemaVersion", version, str(kind.schema_version))
    for name in sorted(kind.required):
        if body.get(name) is None:
            raise _expected(name, None, f"to be there, in a manifest of type {media_type}")


def _by_need(
    needed: Iterable[Descriptor], layers: Iterable[Descriptor]
) -> tuple[tuple[Descriptor, ...], tuple[Descriptor, ...]]:
    """The blobs that must be there, and the layers that may be kept elsewhere."""
    required = list(needed)
    elsewhere: list[Descriptor] = []
    for layer in layers:
        foreign = layer.media_type.lower() in _NON_DISTRIBUTABLE
        (elsewhere if foreign else required).append(layer)
    held = {blob.digest for blob in required}
    return _distinct(required), _distinct(blob for blob in elsewhere if blob.digest not in held)


def _distinct(descriptors: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    """The first descriptor of each digest."""
    found: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        found.setdefault(descriptor.digest, descriptor)
    return tuple(found.values())


def _refuse_conflicting_sizes(descriptors: Iterable[Descriptor]) -> None:
    sizes: dict[Digest, int] = {}
    for descriptor in descriptors:
        known = sizes.setdefault(descriptor.digest, descriptor.size)
        if known != descriptor.size:
            raise ManifestInvalid(
                message=f"manifest: gives {descriptor.digest} a size of {known} bytes and one of "
                f"{descriptor.size} - expected one size for one digest"
            )


def _read_unknown(body: _Object, media_type: str) -> Manifest:
    config = _or_none(_descriptor, body.get("config"))
    layers, blobs = _well_formed(body.get("layers")), _well_formed(body.get("blobs"))
    manifests = _well_formed(body.get("manifests"))
    return Manifest(
        media_type=media_type,
        artifact_type=_or_none(_artifact_type, body.get("artifactType")),
        annotations=_or_none(_annotations, body.get("annotations")) or {},
        config=config,
        layers=layers,
        blobs=blobs,
        manifests=manifests,
        subject=_or_none(_descriptor, body.get("subject")),
        optional_blobs=_distinct(
            [*_present(config), *layers, *blobs, *filter(_is_blob, manifests)]
        ),
        optional_children=_distinct(one for one in manifests if not _is_blob(one)),
    )


def _present(descriptor: Descriptor | None) -> tuple[Descriptor, ...]:
    return (descriptor,) if descriptor else ()


_Read = TypeVar("_Read")


def _or_none(read: Callable[[JSONValue, str], _Read], value: JSONValue) -> _Read | None:
    """Read what may or may not be well formed. Of a type we do not know, nothing else is known."""
    try:
        return read(value, "")
    except ManifestInvalid:
        return None


def _well_formed(values: JSONValue) -> tuple[Descriptor, ...]:
    if not isinstance(values, list):
        return ()
    read = (_or_none(_descriptor, value) for value in values)
    return tuple(descriptor for descriptor in read if descriptor)


# --- descriptors, and what they are made of -------------------------------------------------------


def _descriptors(value: JSONValue, where: str) -> tuple[Descriptor, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _expected(where, value, "an array of descriptors")
    return tuple(_descriptor(one, f"{where}[{index}]") for index, one in enumerate(value))


def _descriptor(value: JSONValue, where: str) -> Descriptor:
    """Read a content descriptor (OCI image-spec, descriptor.md)."""
    members = _object(value, where)
    _refuse_other_spellings(members, _DESCRIPTOR_FIELDS, f"{where}.")
    artifact_type = members.get("artifactType")
    return Descriptor(
        media_type=_media_type(members.get("mediaType"), f"{where}.mediaType"),
        digest=_digest(members.get("digest"), f"{where}.digest"),
        size=_size(members.get("size"), f"{where}.size"),
        urls=_urls(members.get("urls"), f"{where}.urls"),
        annotations=_annotations(members.get("annotations"), f"{where}.annotations"),
        artifact_type=_artifact_type(artifact_type, f"{where}.artifactType"),
    )


def _digest(value: JSONValue, where: str) -> Digest:
    if not isinstance(value, str):
        raise _expected(where, value, "a digest")
    try:
        return parse_digest(value)
    except DigestInvalid as error:
        raise ManifestInvalid(message=f"{where}: {error.message}") from None


def _size(value: JSONValue, where: str) -> int:
    # `True` is an int for Python, but not for anybody else.
    if type(value) is not int or not 0 <= value <= _MAX_SIZE:
        raise _expected(where, value, "an integer from 0 to 2^53")
    return value


def _urls(value: JSONValue, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _expected(where, value, "an array of strings")
    return tuple(_string(one, f"{where}[{index}]") for index, one in enumerate(value))


def _annotations(value: JSONValue, where: str) -> dict[str, str]:
    if value is None:
        return {}
    members = _object(value, where)
    return {key: _string(text, f"{where}.{shown(key)}") for key, text in members.items()}


def _artifact_type(value: JSONValue, where: str) -> str | None:
    # Writers in Go cannot tell an empty string from none.
    if value is None or value == "":
        return None
    return _media_type(value, where)


def _media_type(value: JSONValue, where: str) -> str:
    """A media type as descriptors have it; parameters are allowed."""
    return _matching(_WITH_PARAMETERS, value, where)


def _type_name(value: JSONValue, where: str) -> str:
    """The media type of a manifest, which clients compare as a whole; it has no parameters."""
    return _matching(_MEDIA_TYPE, value, where)


def _matching(pattern: re.Pattern[str], value: JSONValue, where: str) -> str:
    text = _string(value, where)
    if len(text) > _MAX_MEDIA_TYPE_CHARACTERS or not pattern.fullmatch(text):
        raise _expected(
            where, text, f"a media type of at most {_MAX_MEDIA_TYPE_CHARACTERS} characters"
        )
    return text


def _string(value: JSONValue, where: str) -> str:
    if not isinstance(value, str):
        raise _expected(where, value, "a string")
    return value


def _object(value: JSONValue, where: str) -> _Object:
    if not isinstance(value, dict):
        raise _expected(where, value, "an object")
    return value


def _refuse_other_spellings(members: _Object, fields: dict[str, str], prefix: str) -> None:
    """Refuse `Layers` for `layers`: readers written in Go take either, and the last one wins.

    `fields`: from the case-folded name to the right one.
    """
    for key in members:
        meant = fields.get(key.casefold(), key)
        if meant != key:
            raise ManifestInvalid(message=f"{prefix}{shown(key)} - expected it spelled `{meant}`")


def _expected(where: str, value: JSONValue, what: str) -> ManifestInvalid:
    return ManifestInvalid(message=f"{where}: {_brief(value)} - expected {what}")


def _brief(value: JSONValue) -> str:
    match value:
        case None:
            return "missing or null"
        case str():
            return shown(value)
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return json.dumps(value)
