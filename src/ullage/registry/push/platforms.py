"""What an image's config says it runs on: asked once, when its manifest is pushed."""

from __future__ import annotations

import logging

from ullage.blobs.protocol import KeyUnknown
from ullage.oci import strict_json
from ullage.oci.digest import Digest
from ullage.oci.manifest.media_type import DOCKER_IMAGE, OCI_IMAGE
from ullage.oci.manifest.parsing import Manifest
from ullage.oci.reference import RepositoryName
from ullage.oci.strict_json import JSONInvalid, JSONValue
from ullage.registry.context import Registry
from ullage.registry.queries.content.blobs import find_blob_of_new
from ullage.registry.queries.content.manifests import NO_PLATFORM, Platform

log = logging.getLogger(__name__)

# Configs of images weigh a few KiB, those with a long history some hundred.
MAX_CONFIG_BYTES = 1024 * 1024
MAX_WORD = 64


def platform_of(
    registry: Registry, name: RepositoryName, digest: Digest, manifest: Manifest
) -> Platform:
    """The platform in the config of a manifest that is about to be stored; empty if there is none.

    It is for listings only, so whatever is wrong with the config is no reason to refuse a push.
    Not to be called inside a transaction.
    """
    config = manifest.config
    if config is None or manifest.media_type not in (OCI_IMAGE, DOCKER_IMAGE):
        return NO_PLATFORM
    if config.size > MAX_CONFIG_BYTES or not config.media_type.endswith("+json"):
        return NO_PLATFORM

    # What was derived from the same bytes before stays.
    blob = registry.read(lambda tx: find_blob_of_new(tx, name, config.digest, digest))
    if blob is None or blob.size > MAX_CONFIG_BYTES:
        return NO_PLATFORM
    try:
        with registry.blobs.open(blob.key, blob.size) as reader:
            return platform_named(strict_json.loads(reader.read_at(0, blob.size)))
    except (KeyUnknown, OSError, JSONInvalid) as error:
        log.info("the config %s of %s says nothing about a platform: %s", blob.digest, name, error)
        return NO_PLATFORM


def platform_named(value: JSONValue) -> Platform:
    """`architecture` and `os` of a config or of a descriptor's `platform`; None for odd ones."""
    if not isinstance(value, dict):
        return NO_PLATFORM
    return Platform(_word(value.get("architecture")), _word(value.get("os")))


def _word(value: JSONValue) -> str | None:
    if isinstance(value, str) and 0 < len(value) <= MAX_WORD and value.isprintable():
        return value
    return None
