"""How clusters name the images that they run: every form of Kubernetes' `image` and `imageID`.

    repo@sha256:…                       containerd, CRI-O: what was pulled, mostly an index
    docker-pullable://repo@sha256:…     docker, of old
    sha256:…, docker://sha256:…         an image id: the digest of a config, or of a manifest
    nothing                             not pulled yet: the image's tag counts

The repository in an imageID may be another one than the pod's (kubernetes#95385), so a digest
counts in all repositories; a tag counts in the repository of its name, whatever the host.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import DigestInvalid, NameInvalid, TagInvalid
from ullage.oci.reference import parse_repository_name, parse_tag

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_BARE_ID = re.compile(r"[0-9a-f]{64}")


class Identity(NamedTuple):
    """An image by its digest, or else by a repository and a tag."""

    digest: Digest | None = None
    repository: str = ""
    tag: str = ""

    @property
    def key(self) -> str:
        return self.digest or f"{self.repository}:{self.tag}"


def identities(image: str, image_id: str) -> list[Identity]:
    """What the two name; none if neither can be read.

    A digest in `image` counts beside the one in `image_id`: a pod that names an index may report
    the platform that it pulled. What can be no repository here is no image of this registry.
    """
    digests = [found for text in (image, image_id) if (found := _digest(text)) is not None]
    if digests:
        return [Identity(digest) for digest in dict.fromkeys(digests)]
    # An imageID without a digest is a name, as some runtimes give for what they built.
    named = [_tagged(text) for text in (image, image_id) if text]
    return [each for each in dict.fromkeys(named) if each is not None]


def _digest(text: str) -> Digest | None:
    """The digest that a text ends in, or is."""
    rest = _SCHEME.sub("", text, count=1).rpartition("@")[2]
    if _BARE_ID.fullmatch(rest):
        rest = f"sha256:{rest}"
    try:
        return parse_digest(rest)
    except DigestInvalid:
        return None


def _tagged(text: str) -> Identity | None:
    """`host:5000/team/app:v1` without its host; without a tag it is `latest`, as for clients."""
    rest = _SCHEME.sub("", text, count=1)
    first, slash, path = rest.partition("/")
    if slash and (first == "localhost" or not first.isascii() or set(first) & set(".:")):
        rest = path
    name, colon, tag = rest.partition(":")
    try:
        found = Identity(None, parse_repository_name(name), parse_tag(tag if colon else "latest"))
    except (NameInvalid, TagInvalid):
        return None
    return found
