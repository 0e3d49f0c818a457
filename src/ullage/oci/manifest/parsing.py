"""A manifest read from its bytes: what it says, and what must be there for it to be stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from ullage.oci import strict_json
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestInvalid
from ullage.oci.manifest.descriptor import (
    Descriptor,
    read_annotations,
    read_artifact_type,
    read_descriptor,
    read_descriptors,
)
from ullage.oci.manifest.kind import (
    KINDS,
    Kind,
    agreed_type,
    check_shape,
    refuse_ambiguous,
    refuse_displayable,
)
from ullage.oci.manifest.limits import DEFAULT, ManifestLimits, check_limits
from ullage.oci.manifest.media_type import BLOB_TYPES, NON_DISTRIBUTABLE, read_content_type
from ullage.oci.manifest.members import Object, folded, read_object, refuse_other_names
from ullage.oci.strict_json import JSONInvalid, JSONValue

# What databases have room for.
_MAX_IMAGE_SIZE = 2**63 - 1

_FIELDS = folded(
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


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was understood.

    `required_*` must be in the repository for the manifest to be stored; `optional_*` is
    kept too if it is there. Each digest is in at most one of the two, and there once, config first.
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

        azure.md section 2.6, `imageSize`. What is named twice is fetched once, and counts once.
        """
        listed = (*_present(self.config), *self.layers, *self.blobs, *self.manifests)
        return min(sum(each.size for each in _distinct(listed)), _MAX_IMAGE_SIZE)


def parse_manifest(
    raw: bytes, media_type: str | None, limits: ManifestLimits = DEFAULT
) -> Manifest:
    """Read a manifest from its bytes and the Content-Type it came with, if any.

    A type that is not known is accepted when the body names it; whatever in it looks like a
    descriptor is then optional. A field that is null counts as missing, an array as empty.
    Raises ManifestInvalid, and nothing else, saying where in the document what was expected.
    """
    body = _document(raw, limits)
    refuse_ambiguous(body)
    check_limits(body, limits)
    agreed = agreed_type(body, read_content_type(media_type))
    kind = KINDS.get(agreed)
    if kind is not None:
        return _read_known(body, agreed, kind)
    refuse_displayable(agreed)
    return _read_unknown(body, agreed)


def _document(raw: bytes, limits: ManifestLimits) -> Object:
    try:
        body = strict_json.loads(raw, limits.max_depth)
    except JSONInvalid as error:
        raise ManifestInvalid(message=f"manifest: {error}") from None
    return read_object(body, "manifest")


def _read_known(body: Object, media_type: str, kind: Kind) -> Manifest:
    refuse_other_names(body, _FIELDS, "")
    check_shape(body, media_type, kind)
    part = {name: body.get(name) for name in kind.required | kind.optional}
    config = read_descriptor(part["config"], "config") if "config" in part else None
    layers = read_descriptors(part.get("layers"), "layers")
    blobs = read_descriptors(part.get("blobs"), "blobs")
    manifests = read_descriptors(part.get("manifests"), "manifests")
    subject = _subject(part.get("subject"))
    _refuse_conflicting_sizes([*_present(config), *layers, *blobs, *manifests, *_present(subject)])
    children = [listed for listed in manifests if not _is_blob(listed)]
    cached = [listed for listed in manifests if _is_blob(listed)]
    required, optional = _by_need([*_present(config), *blobs, *cached], layers)
    artifact_type = read_artifact_type(body.get("artifactType"), "artifactType")
    return Manifest(
        media_type=media_type,
        artifact_type=artifact_type or (config.media_type if config else None),
        annotations=read_annotations(body.get("annotations"), "annotations"),
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
    return listed.media_type.lower().startswith(BLOB_TYPES)


def _subject(value: JSONValue) -> Descriptor | None:
    return None if value is None else read_descriptor(value, "subject")


def _by_need(
    needed: Iterable[Descriptor], layers: Iterable[Descriptor]
) -> tuple[tuple[Descriptor, ...], tuple[Descriptor, ...]]:
    """The blobs that must be there, and the layers that may be kept elsewhere."""
    required = list(needed)
    elsewhere: list[Descriptor] = []
    for layer in layers:
        foreign = layer.media_type.lower() in NON_DISTRIBUTABLE
        (elsewhere if foreign else required).append(layer)
    named = {blob.digest for blob in required}
    return _distinct(required), _distinct(blob for blob in elsewhere if blob.digest not in named)


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


def _read_unknown(body: Object, media_type: str) -> Manifest:
    config = _or_none(read_descriptor, body.get("config"))
    layers, blobs = _well_formed(body.get("layers")), _well_formed(body.get("blobs"))
    manifests = _well_formed(body.get("manifests"))
    return Manifest(
        media_type=media_type,
        artifact_type=_or_none(read_artifact_type, body.get("artifactType")),
        annotations=_or_none(read_annotations, body.get("annotations")) or {},
        config=config,
        layers=layers,
        blobs=blobs,
        manifests=manifests,
        subject=_or_none(read_descriptor, body.get("subject")),
        optional_blobs=_distinct(
            [*_present(config), *layers, *blobs, *filter(_is_blob, manifests)]
        ),
        optional_children=_distinct(one for one in manifests if not _is_blob(one)),
    )


def _present(descriptor: Descriptor | None) -> tuple[Descriptor, ...]:
    return (descriptor,) if descriptor else ()


_Read = TypeVar("_Read")


def _or_none(read: Callable[[JSONValue, str], _Read], value: JSONValue) -> _Read | None:
    """Read what may or may not be well formed: all that is known of an unknown type."""
    try:
        return read(value, "")
    except ManifestInvalid:
        return None


def _well_formed(values: JSONValue) -> tuple[Descriptor, ...]:
    if not isinstance(values, list):
        return ()
    read = (_or_none(read_descriptor, value) for value in values)
    return tuple(descriptor for descriptor in read if descriptor)
