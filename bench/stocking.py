"""Filling a server that does not run: twenty thousand images in a minute, as if they were pushed.

Ullage's by its own services, without HTTP; docker-registry's as the files that its file system
driver writes (docs/spec of distribution 2.8, registry/storage/paths.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.images import MANIFEST_TYPE, Blob, Image
from bench.servers import DockerRegistry, Ullage
from bench.together import together
from ullage.config.loading import load_settings
from ullage.oci.digest import parse_digest
from ullage.oci.reference import parse_reference, parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.push import uploads
from ullage.registry.push.manifests import prepare_manifest
from ullage.registry.push.prepared import commit
from ullage.wiring.opening import open_registry

# So many wait for the disk at once.
WRITERS = 8
_CALLER = Caller("", "127.0.0.1", "bench")


def fill(
    server: Ullage | DockerRegistry, repository: str, images: Sequence[tuple[Image, str]]
) -> None:
    """Put images and the references they are pushed to into a repository; `server` is stopped."""
    if isinstance(server, Ullage):
        _fill_ullage(server.folder, repository, images)
    else:
        for image, reference in images:
            _write_image(server.folder / "docker/registry/v2", repository, image, reference)


def _fill_ullage(folder: Path, repository: str, images: Sequence[tuple[Image, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open_registry(load_settings({"data": str(folder)}, {})) as (registry, _):
        together([partial(_push, registry, repository, images[n::WRITERS]) for n in range(WRITERS)])


def _push(registry: Registry, repository: str, images: Sequence[tuple[Image, str]]) -> None:
    name = parse_repository_name(repository)
    for image, reference in images:
        for blob in image.blobs:
            uploads.upload_whole(registry, name, _CALLER, parse_digest(blob.digest), [blob.data])
        target = parse_reference(reference)
        manifest = prepare_manifest(registry, name, target, image.manifest, MANIFEST_TYPE, _CALLER)
        commit(registry, manifest)


def _write_image(root: Path, repository: str, image: Image, reference: str) -> None:
    where = root / "repositories" / repository
    manifest = Blob(image.manifest, image.digest)
    for blob in (*image.blobs, manifest):
        _write(root / "blobs" / _sharded(blob.digest) / "data", blob.data)
    for blob in image.blobs:
        _write_link(where / "_layers", blob.digest)
    _write_link(where / "_manifests/revisions", manifest.digest)
    if reference != manifest.digest:
        tag = where / "_manifests/tags" / reference
        _write(tag / "current/link", manifest.digest.encode())
        _write_link(tag / "index", manifest.digest)


def _write_link(where: Path, digest: str) -> None:
    algorithm, _, encoded = digest.partition(":")
    _write(where / algorithm / encoded / "link", digest.encode())


def _sharded(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm}/{encoded[:2]}/{encoded}"


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
