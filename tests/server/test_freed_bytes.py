"""The 202 of a DELETE says what it gives back, and the disk agrees."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import encoded, image, push_blob, put_manifest
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of

pytestmark = pytest.mark.thorough


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UllageServer]:
    with UllageServer(tmp_path / "data", "--read-grace", "0s") as server:
        yield server
        server.assert_no_500()


@pytest.fixture
def client(server: UllageServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def pushed(client: httpx.Client, name: str, tag: str, *layers: bytes) -> Digest:
    manifest = image(client, name, list(layers))
    assert put_manifest(client, name, tag, manifest).status_code == 201
    return digest_of(encoded(manifest))


def settled_bytes(server: UllageServer, client: httpx.Client) -> int:
    """The bytes on the disk, once second copies of what was pushed twice have left it."""
    deadline = time.monotonic() + 20
    while True:
        usage = client.get("/api/v1/usage").json()["registry"]
        disk = server.disk_bytes()
        if disk == usage["disk_bytes"] and not usage["pending_bytes"]:
            return disk
        assert time.monotonic() < deadline, (disk, usage)
        time.sleep(0.02)


def frees(server: UllageServer, client: httpx.Client, path: str) -> tuple[int, int]:
    """What a DELETE says that it frees at once, which the disk then confirms, and later."""
    before = settled_bytes(server, client)
    answer = client.delete(path)
    assert answer.status_code == 202, answer.text
    freed = int(answer.headers["Ullage-Freed-Bytes"])
    deadline = time.monotonic() + 20
    while server.disk_bytes() != before - freed:
        assert time.monotonic() < deadline, (before - server.disk_bytes(), freed)
        time.sleep(0.02)
    return freed, int(answer.headers["Ullage-Later-Bytes"])


def test_every_delete_says_what_it_frees(server: UllageServer, client: httpx.Client) -> None:
    """Shared bytes are not freed until the last image that has them goes."""
    shared, first, second, third = (os.urandom(size) for size in (5000, 7000, 11000, 13000))
    one = pushed(client, "app", "v1", shared, first)
    pushed(client, "app", "v2", shared, second)
    pushed(client, "other", "v1", shared, third)
    assert frees(server, client, "/v2/app/manifests/v1") == (0, 0)
    assert frees(server, client, f"/v2/app/manifests/{one}") == (7000, 0)
    assert frees(server, client, "/acr/v1/app/_tags/v2") == (0, 0)
    assert frees(server, client, "/acr/v1/app") == (11000, 0)
    lone = push_blob(client, "other", os.urandom(17000))
    assert frees(server, client, f"/v2/other/blobs/{lone}") == (17000, 0)
    config = client.get("/v2/other/manifests/v1").json()["config"]["size"]
    assert frees(server, client, "/acr/v1/other") == (5000 + 13000 + config, 0)


def test_what_a_push_was_promised_goes_later(server: UllageServer, client: httpx.Client) -> None:
    """A HEAD by a client that may push promises it the blob for an hour."""
    promised, own = os.urandom(5000), os.urandom(7000)
    manifest = pushed(client, "app", "v1", promised, own)
    pushed(client, "app", "v2", os.urandom(10))
    assert client.head(f"/v2/app/blobs/{digest_of(promised)}").status_code == 200
    assert frees(server, client, f"/v2/app/manifests/{manifest}") == (7000, 5000)


def test_what_soft_delete_keeps_goes_later(server: UllageServer, client: httpx.Client) -> None:
    path = "/api/v1/policies/soft-delete"
    assert client.patch(path, json={"status": "enabled"}).status_code == 200
    manifest = pushed(client, "app", "v1", os.urandom(5000))
    pushed(client, "app", "v2", os.urandom(7000))
    assert frees(server, client, f"/v2/app/manifests/{manifest}") == (0, 5000)
    # The config is the first image's, too, which is kept as well.
    assert frees(server, client, "/acr/v1/app") == (0, 7000)
