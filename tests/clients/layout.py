"""OCI image layouts written by hand (image-spec, "Image Layout"), for skopeo to copy from."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.programs import payload
from tests.clients.view import OCI_INDEX, OCI_MANIFEST

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Image:
    """One platform's image: each layer is made from a name, the same name giving the same layer."""

    layers: tuple[str, ...]
    architecture: str = "amd64"


def write_image(folder: Path, image: Image, name: str | None = None) -> str:
    """A layout with one image; returns the digest of its manifest. `name` is for containerd."""
    top = _put_image(folder, image)
    if name is not None:
        top["annotations"] = {"io.containerd.image.name": name}
    return _write(folder, top)


def write_index(folder: Path, images: Sequence[Image]) -> str:
    """A layout with one image index over `images`; returns its digest."""
    listed = []
    for image in images:
        platform = {"architecture": image.architecture, "os": "linux"}
        listed.append(_put_image(folder, image) | {"platform": platform})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
    return _write(folder, _put_json(folder, OCI_INDEX, index))


def archive(folder: Path) -> Path:
    """The layout as one tar file beside it."""
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=".")
    return path


def read_contents(folder: Path) -> dict[str, bytes]:
    """Every blob of a layout by its digest."""
    return {
        f"sha256:{path.name}": path.read_bytes() for path in (folder / "blobs/sha256").iterdir()
    }


def _put_image(folder: Path, image: Image) -> dict[str, Any]:
    tars = [_tar(name) for name in image.layers]
    config = {
        "architecture": image.architecture,
        "os": "linux",
        "config": {"Labels": {"layers": " ".join(image.layers)}},
        "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put_json(folder, OCI_CONFIG, config),
        "layers": [_put(folder, OCI_LAYER, gzip.compress(tar, mtime=0)) for tar in tars],
    }
    return _put_json(folder, OCI_MANIFEST, manifest)


def _tar(name: str) -> bytes:
    data, archive = payload(name), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def _write(folder: Path, top: dict[str, Any]) -> str:
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return str(top["digest"])


def _put_json(folder: Path, media_type: str, value: dict[str, Any]) -> dict[str, Any]:
    return _put(folder, media_type, json.dumps(value).encode())


def _put(folder: Path, media_type: str, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    path = folder / "blobs" / digest.replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
