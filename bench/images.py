"""Images to push: random bytes in the shape of an OCI image, and how a client pushes them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

from bench.connection import Connection

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def digest_of(data: bytes | memoryview) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Blob:
    data: bytes
    digest: str

    @classmethod
    def random(cls, size: int) -> Blob:
        data = os.urandom(size)
        return cls(data, digest_of(data))


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with the blobs it needs; `base` layers are pushed before, not with it."""

    blobs: tuple[Blob, ...]
    manifest: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def make_image(layers: int, layer_bytes: int, base: tuple[Blob, ...] = ()) -> Image:
    """An image with a small config and `layers` layers of its own on those of `base`."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "salt": os.urandom(16).hex()})
    first = Blob(config.encode(), digest_of(config.encode()))
    own = tuple(Blob.random(layer_bytes) for _ in range(layers))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(first, CONFIG_TYPE),
        "layers": [_descriptor(blob, LAYER_TYPE) for blob in (*base, *own)],
    }
    return Image((first, *own), json.dumps(manifest).encode())


def _descriptor(blob: Blob, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": blob.digest, "size": len(blob.data)}


def push_blob(connection: Connection, repository: str, data: bytes, digest: str) -> None:
    """POST then PUT, as docker, podman and skopeo do it for a blob that was not there."""
    opened = connection.expect(202, "POST", f"/v2/{repository}/blobs/uploads/")
    location = opened.headers["location"]
    join = "&" if "?" in location else "?"
    connection.expect(201, "PUT", f"{location}{join}digest={digest}", data)


def push_image(connection: Connection, repository: str, image: Image, reference: str) -> None:
    """Ask for each blob, upload it, then the manifest: one image as a standard client pushes it."""
    for blob in image.blobs:
        if connection.ask("HEAD", f"/v2/{repository}/blobs/{blob.digest}").status != 200:
            push_blob(connection, repository, blob.data, blob.digest)
    put_manifest(connection, repository, image, reference)


def put_manifest(connection: Connection, repository: str, image: Image, reference: str) -> None:
    path = f"/v2/{repository}/manifests/{reference}"
    connection.expect(201, "PUT", path, image.manifest, MANIFEST_TYPE)
