"""Tags by which clients attach something to an image: the image's digest is in the tag's name.

cosign names signatures, attestations and SBOMs `sha256-<hex>.sig`, `.att` and `.sbom`; clients of
registries without a referrers API keep a list in `sha256-<hex>` (distribution-spec, "Referrers Tag
Schema"). The manifest of such a tag is a referrer of that image (deletion.md section 2).
"""

from __future__ import annotations

import re

from ullage.oci.digest import Digest
from ullage.oci.reference import Tag

SUFFIXES = ("", ".sig", ".att", ".sbom")

_IMAGE = r"(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})"
_ATTACHED = re.compile(_IMAGE + r"(?:\.(?:sig|att|sbom))?")
_NAMING = re.compile(_IMAGE + r"(?:\.[A-Za-z0-9]+)?")


def attached_to(tag: str) -> Digest | None:
    """The digest of the image whose referrer the tag's manifest is, if it is there."""
    return _named(_ATTACHED, tag)


def image_named_in(tag: str) -> Digest | None:
    """As attached_to, whatever the suffix: not to be cleaned up by age while the image is there."""
    return _named(_NAMING, tag)


def attached_tags(digest: Digest) -> list[Tag]:
    """The tags by which something may be attached to this image."""
    name = digest.replace(":", "-", 1)
    return [Tag(name + suffix) for suffix in SUFFIXES]


def _named(pattern: re.Pattern[str], tag: str) -> Digest | None:
    match = pattern.fullmatch(tag)
    return Digest(match[1].replace("-", ":", 1)) if match else None
