"""Media types: the names of those that mean something here, and how any of them is written."""

from __future__ import annotations

import re

from ullage.oci.manifest.members import expected, read_string
from ullage.oci.strict_json import JSONValue

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

DOCKER_SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

# Content types that say nothing about a manifest: what programs send when they were given none.
GENERIC = frozenset(
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
NON_DISTRIBUTABLE = frozenset(
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
BLOB_TYPES = (
    "application/vnd.buildkit.cacheconfig.",
    "application/vnd.docker.container.image.",
    "application/vnd.docker.image.rootfs.",
    "application/vnd.oci.image.config.",
    "application/vnd.oci.image.layer.",
)

_MAX_MEDIA_TYPE_CHARACTERS = 255

# RFC 6838, section 4.2: restricted-name-chars, and the slash between type and subtype.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+/-]+")
# Inside a descriptor a type may have parameters (RFC 2045, section 5.1), as in
# `application/vnd.dev.sigstore.bundle+json;version=0.2`.
_WITH_PARAMETERS = re.compile(
    r"[A-Za-z0-9!#$&^_.+/-]+(?:; ?[A-Za-z0-9!#$&^_.+-]+=[A-Za-z0-9!#$&^_.+-]+)*"
)


def read_content_type(header: str | None) -> str | None:
    """The Content-Type without its parameters, in lower case; None if there is none."""
    if header is None or not header.strip():
        return None
    return read_type_name(header.partition(";")[0].strip(), "Content-Type").lower()


def read_media_type(value: JSONValue, where: str) -> str:
    """A media type as descriptors have it; parameters are allowed."""
    return _matching(_WITH_PARAMETERS, value, where)


def read_type_name(value: JSONValue, where: str) -> str:
    """The media type of a manifest, which clients compare as a whole; it has no parameters."""
    return _matching(_MEDIA_TYPE, value, where)


def _matching(pattern: re.Pattern[str], value: JSONValue, where: str) -> str:
    text = read_string(value, where)
    if len(text) > _MAX_MEDIA_TYPE_CHARACTERS or not pattern.fullmatch(text):
        raise expected(
            where, text, f"a media type of at most {_MAX_MEDIA_TYPE_CHARACTERS} characters"
        )
    return text
