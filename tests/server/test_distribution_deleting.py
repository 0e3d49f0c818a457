"""distribution-spec, "Content Management": deleting tags, manifests (end-9) and blobs (end-10)."""

import os
import time
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import (
    encoded,
    image,
    index_of,
    push_blob,
    push_image,
    put_manifest,
    refused,
)
from tests.support.registry import MANIFEST
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of


def delete(client: httpx.Client, name: str, reference: str) -> httpx.Response:
    return client.delete(f"/v2/{name}/manifests/{reference}")


def exists(client: httpx.Client, name: str, reference: str) -> bool:
    status = client.head(f"/v2/{name}/manifests/{reference}").status_code
    assert status in (200, 404)
    return status == 200


def test_deleting_a_tag_takes_the_tag_only(client: httpx.Client, name: str) -> None:
    """ "Deleting tags": 202; the manifest and its other tags stay."""
    digest = push_image(client, name, "v1")
    push_image(client, name, "v2")
    answer = delete(client, name, "v1")
    assert (answer.status_code, answer.content) == (202, b"")
    assert refused(client.get(f"/v2/{name}/manifests/v1")) == (404, "MANIFEST_UNKNOWN")
    assert exists(client, name, "v2")
    assert delete(client, name, "v2").status_code == 202
    assert exists(client, name, digest)
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == []
    for _ in range(2):
        assert refused(delete(client, name, "v1")) == (404, "MANIFEST_UNKNOWN")


def test_deleting_a_manifest_takes_its_tags_along(client: httpx.Client, name: str) -> None:
    """ "Deleting Manifests": GET by digest and by any tag pointing to it -> 404."""
    other = push_image(client, name, "other", [b"another layer"])
    digest = push_image(client, name, "v1")
    push_image(client, name, "latest")
    answer = delete(client, name, digest)
    assert (answer.status_code, answer.content) == (202, b"")
    for reference in (digest, "v1", "latest"):
        answer = client.get(f"/v2/{name}/manifests/{reference}")
        assert refused(answer) == (404, "MANIFEST_UNKNOWN")
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["other"]
    assert exists(client, name, other)
    assert refused(delete(client, name, digest)) == (404, "MANIFEST_UNKNOWN")


def test_deleting_the_last_manifest_takes_the_repository_along(
    client: httpx.Client, name: str
) -> None:
    digest = push_image(client, name, "v1")
    assert name in client.get("/v2/_catalog").json()["repositories"]
    assert delete(client, name, digest).status_code == 202
    assert name not in client.get("/v2/_catalog").json()["repositories"]
    assert refused(client.get(f"/v2/{name}/tags/list")) == (404, "NAME_UNKNOWN")
    assert refused(delete(client, name, digest)) == (404, "NAME_UNKNOWN")
    push_image(client, name, "v1")
    assert exists(client, name, digest)


def test_a_manifest_deleted_here_stays_elsewhere(client: httpx.Client, name: str) -> None:
    """CVE-2026-35172: reading it there does not bring it back here."""
    elsewhere = f"{name}/other"
    digest = push_image(client, name, "v1")
    assert push_image(client, elsewhere, "v1") == digest
    assert delete(client, name, digest).status_code == 202
    for _ in range(2):
        assert exists(client, elsewhere, digest)
        assert not exists(client, name, digest)
    layer = digest_of(b"layer")
    assert client.get(f"/v2/{elsewhere}/blobs/{layer}").status_code == 200
    assert client.get(f"/v2/{name}/blobs/{layer}").status_code == 404


def test_a_child_of_a_live_index_is_not_deleted(client: httpx.Client, name: str) -> None:
    """405, with the index to delete instead; then both go."""
    child = push_image(client, name, "child")
    index = index_of(client, name, [child])
    parent = digest_of(encoded(index))
    assert put_manifest(client, name, "all", index).status_code == 201
    answer = delete(client, name, child)
    assert refused(answer) == (405, "REGISTRY_DISALLOWED_OPERATION")
    assert answer.json()["errors"][0]["detail"]["parents"] == [parent]
    assert delete(client, name, "child").status_code == 202
    assert delete(client, name, parent).status_code == 202
    assert not exists(client, name, child)


def test_referrers_go_with_their_subject(client: httpx.Client, name: str) -> None:
    subject = push_image(client, name, "v1")
    push_image(client, name, "other", [b"another layer"])
    about = {"mediaType": MANIFEST, "digest": subject, "size": 1}
    sbom = push_image(client, name, "sbom", [b"sbom"], subject=about)
    assert delete(client, name, subject).status_code == 202
    assert not exists(client, name, sbom)
    assert client.get(f"/v2/{name}/referrers/{subject}").json()["manifests"] == []
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["other"]


def test_deleting_what_is_not_there_is_404(client: httpx.Client, name: str) -> None:
    """F35: an unknown digest is 404, not 202."""
    digest = digest_of(b"nothing")
    for reference in (digest, "v1"):
        assert refused(delete(client, name, reference)) == (404, "NAME_UNKNOWN")
    push_image(client, name, "v1")
    for reference in (digest, "v2"):
        assert refused(delete(client, name, reference)) == (404, "MANIFEST_UNKNOWN")
    assert refused(client.delete(f"/v2/{name}/blobs/{digest}")) == (404, "BLOB_UNKNOWN")


# --- blobs ----------------------------------------------------------------------------------------


def test_a_blob_is_deleted(client: httpx.Client, name: str) -> None:
    """ "Deleting Blobs": 202 once, then 404."""
    digest = push_blob(client, name, b"a blob")
    answer = client.delete(f"/v2/{name}/blobs/{digest}")
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["Docker-Content-Digest"] == digest
    assert refused(client.delete(f"/v2/{name}/blobs/{digest}")) == (404, "BLOB_UNKNOWN")
    assert client.head(f"/v2/{name}/blobs/{digest}").status_code == 404
    push_blob(client, name, b"a blob")
    assert client.get(f"/v2/{name}/blobs/{digest}").content == b"a blob"


def test_a_blob_in_use_is_not_deleted(client: httpx.Client, name: str) -> None:
    """405: what a live image needs stays."""
    image_digest = push_image(client, name, "v1", [b"in use"])
    layer = digest_of(b"in use")
    answer = client.delete(f"/v2/{name}/blobs/{layer}")
    assert refused(answer) == (405, "REGISTRY_DISALLOWED_OPERATION")
    assert client.get(f"/v2/{name}/blobs/{layer}").status_code == 200
    assert delete(client, name, image_digest).status_code == 202
    assert client.get(f"/v2/{name}/blobs/{layer}").status_code == 404


def test_a_blob_deleted_before_its_manifest_comes_is_missing(
    client: httpx.Client, name: str
) -> None:
    manifest = image(client, name, [b"a layer that goes"])
    assert client.delete(f"/v2/{name}/blobs/{digest_of(b'a layer that goes')}").status_code == 202
    assert refused(put_manifest(client, name, "v1", manifest)) == (400, "MANIFEST_BLOB_UNKNOWN")


# --- the point of it all --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("pg", marks=pytest.mark.postgresql)])
@pytest.mark.thorough
def test_deleting_gives_exactly_the_unshared_bytes_back(
    tmp_path: Path, request: pytest.FixtureRequest, backend: str
) -> None:
    """Shared layers stay, others leave the disk, without waiting for a collector."""
    arguments = ["--read-grace", "0s"]
    if backend == "pg":
        arguments += ["--database", request.getfixturevalue("postgres_url")]
    base, first, second = (os.urandom(size) for size in (300_000, 200_000, 100_000))
    with (
        UllageServer(tmp_path / "data", *arguments) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        one = push_image(client, "app", "v1", [base, first])
        two = push_image(client, "team/app", "v1", [base, second])
        config = len(client.get(_config_of(client, "app", one)).content)
        # The base was uploaded twice; the copy goes at the next round of the reclaimer.
        _wait_for_disk(server, 600_000 + config)
        assert delete(client, "app", one).status_code == 202
        _wait_for_disk(server, 400_000 + config)
        assert client.get(f"/v2/team/app/blobs/{digest_of(base)}").content == base
        assert delete(client, "team/app", two).status_code == 202
        _wait_for_disk(server, 0)
        server.assert_no_500()


def _config_of(client: httpx.Client, name: str, image_digest: Digest) -> str:
    config = client.get(f"/v2/{name}/manifests/{image_digest}").json()["config"]
    return f"/v2/{name}/blobs/{config['digest']}"


def _wait_for_disk(server: UllageServer, expected: int) -> None:
    deadline = time.monotonic() + 20
    while server.disk_bytes() != expected:
        assert time.monotonic() < deadline, f"{server.disk_bytes()} bytes, not {expected}"
        time.sleep(0.02)
