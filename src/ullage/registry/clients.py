"""Callers, and what is known of the habits of docker's, containers/image's and other clients."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

from ullage.registry.leases.lease import Pusher

# Docker's daemon and docker's own client: distribution/registry/client ends an upload and a mount
# with one more look at the blob (blob_writer.go, Commit; repository.go, Create).
_CONFIRMING = ("docker/", "Docker-Client/")
# Clients of containers/image look whether the source has a blob before they mount it from there
# (docker_image_dest.go, TryReusingBlob). Others mount without asking.
_ASKING_SOURCE = ("containers/", "skopeo/", "Buildah/", "buildah/", "libpod/", "podman/")
# az sends its deletions with Python's requests, acr with Go's autorest, others with Azure's SDKs.
# They know manifests with and without tags, and nothing of referrers.
_AZURE = re.compile(r"(?i)(?:azurecli|azsdk-|python-requests/|go/go\S* .*autorest)")


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that asks. `subject` is its account, "" for anonymous."""

    subject: str
    address: str
    agent: str
    # This request's name in both sides' logs and in the audit log.
    request_id: str = ""

    @property
    def is_azure(self) -> bool:
        """Whether it is az or acr."""
        return _AZURE.match(self.agent) is not None

    @property
    def pusher(self) -> Pusher:
        """What a lease is granted to: this account, at this address, with this client."""
        return _pusher(self.subject, self.address, self.agent)


# The same few clients ask for one blob after the other.
@lru_cache(256)
def _pusher(subject: str, address: str, agent: str) -> Pusher:
    identity = "\n".join((subject, address, agent)).encode()
    key = hashlib.blake2b(identity, digest_size=16).hexdigest()
    return Pusher(
        key,
        confirms=agent.startswith(_CONFIRMING),
        asks_source=agent.startswith(_ASKING_SOURCE),
    )
