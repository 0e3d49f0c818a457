"""Trees that real registries of CNCF distribution made, and their own collectors."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.connection import Connection
from bench.images import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    Blob,
    Image,
    digest_of,
    make_image,
    push_blob,
    push_image,
)
from bench.servers import Distribution, DockerRegistry
from tests.support.object_servers import cached
from tests.support.require import find_command, require_command, unavailable
from ullage.survey.report import Collected, Survey
from ullage.survey.survey import survey

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def program(version: int) -> str:
    """Debian's docker-registry is version 2; version 3 is built by .ci/run."""
    if version == 2:
        return require_command("docker-registry")
    found = cached("bin", "registry") or find_command("registry")
    return found or unavailable("distribution 3 is not installed")


def registry(version: int, folder: Path) -> DockerRegistry:
    return DockerRegistry(
        folder, distribution=Distribution(f"distribution {version}", program(version))
    )


@contextmanager
def serving(version: int, folder: Path) -> Iterator[Connection]:
    server = registry(version, folder)
    server.start()
    try:
        with Connection(server.url) as connection:
            yield connection
    finally:
        server.stop()


def looked(place: Path, *, deep: bool = False) -> Survey:
    return survey(place, lambda what, count: None, top=20, deep=deep)


def put(connection: Connection, repository: str, manifest: bytes, reference: str = "") -> str:
    """Push any manifest; by digest if there is no reference. Returns its digest."""
    digest = digest_of(manifest)
    media_type = json.loads(manifest)["mediaType"]
    path = f"/v2/{repository}/manifests/{reference or digest}"
    connection.expect(201, "PUT", path, manifest, media_type)
    return digest


def image(connection: Connection, repository: str, tag: str = "") -> Image:
    """Push an image of two layers; by digest if there is no tag."""
    made = make_image(2, 3000)
    push_image(connection, repository, made, tag or made.digest)
    return made


def index_of(platforms: list[Image]) -> bytes:
    manifests = [
        {"mediaType": MANIFEST_TYPE, "digest": each.digest, "size": len(each.manifest)}
        for each in platforms
    ]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
    ).encode()


def referrer_of(subject: str, connection: Connection, repository: str) -> bytes:
    """The manifest of a signature, whose blobs are pushed."""
    config, layer = Blob.random(40), Blob.random(900)
    for blob in (config, layer):
        push_blob(connection, repository, blob.data, blob.digest)
    described = [
        {"mediaType": media_type, "digest": blob.digest, "size": len(blob.data)}
        for blob, media_type in ((config, CONFIG_TYPE), (layer, LAYER_TYPE))
    ]
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": described[0],
            "layers": described[1:],
            "subject": {"mediaType": MANIFEST_TYPE, "digest": subject, "size": 500},
        }
    ).encode()


def upload(connection: Connection, repository: str, data: bytes) -> None:
    """Begin an upload, and leave it there."""
    location = connection.expect(202, "POST", f"/v2/{repository}/blobs/uploads/").headers[
        "location"
    ]
    connection.expect(202, "PATCH", location, data)


def v2(folder: Path) -> Path:
    return folder / "docker" / "registry" / "v2"


def untag(folder: Path, repository: str, tag: str) -> None:
    """As version 3's API does it, and what people do to version 2's folders."""
    shutil.rmtree(v2(folder) / "repositories" / repository / "_manifests" / "tags" / tag)


def fill(version: int, folder: Path) -> None:
    """Everything that a registry comes to hold in its life."""
    with serving(version, folder) as connection:
        base = make_image(2, 5000)
        push_image(connection, "app", base, "v1")
        # A tag that moved: what it pointed to is in its history.
        push_image(connection, "app", make_image(1, 4000, base.blobs[1:2]), "v2")
        push_image(connection, "app", make_image(1, 4000, base.blobs[1:2]), "v2")
        image(connection, "app", "gone")
        put(connection, "app", referrer_of(base.digest, connection, "app"))
        platforms = [image(connection, "team/multi") for _ in range(2)]
        put(connection, "team/multi", index_of(platforms), "latest")
        # The same, with a platform whose link was deleted, in a repository inside another.
        platforms = [image(connection, "team") for _ in range(2)]
        put(connection, "team", index_of(platforms), "latest")
        connection.expect(202, "DELETE", f"/v2/team/manifests/{platforms[0].digest}")
        # An index whose tag is gone, and images that never had one beside one that has.
        platforms = [image(connection, "old") for _ in range(2)]
        put(connection, "old", index_of(platforms), "gone")
        image(connection, "old", "kept")
        # Blobs without a manifest, and an upload that never ended.
        orphan = Blob.random(7000)
        push_blob(connection, "app", orphan.data, orphan.digest)
        push_blob(connection, "blobs-only", orphan.data, orphan.digest)
        upload(connection, "team/uploads", os.urandom(8000))
    untag(folder, "app", "gone")
    untag(folder, "old", "gone")


def file_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def disk_usage(folder: Path) -> int:
    """`du -sb`: newer ones count no folders (coreutils 9.2), so these are asked for apart."""
    printed = subprocess.run(["du", "-sb", folder], capture_output=True, text=True, check=True)
    return int(printed.stdout.split()[0])


def directory_bytes(folder: Path) -> int:
    return folder.stat().st_size + sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_dir()
    )


def traces(folder: Path) -> list[tuple[str, int, int, int]]:
    """What must not change: names, inodes, times of change and of access."""
    found = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found.append((str(path), status.st_ino, status.st_ctime_ns, status.st_atime_ns))
    return found


def run_of(found: Survey, version: int, *, untagged: bool) -> Collected:
    return next(
        each for each in found.collections if each.version == version and each.untagged is untagged
    )
