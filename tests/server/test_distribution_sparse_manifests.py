"""distribution-spec, main branch: what its conformance suite calls "Sparse Manifests", restated.

An image without one of its layers and an index without one of its platforms are pushed, listed,
asked for, pulled and deleted, each by tag and by digest, and so is what there is of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.pushing import (
    encoded,
    image,
    push_blob,
    put_manifest,
    refused,
)
from tests.support.registry import CONFIG, INDEX, LAYER, MANIFEST, descriptor
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of

pytestmark = pytest.mark.thorough

NAME = "sparse/app"
ABSENT_LAYER, ABSENT_PLATFORM = b"a layer that is nowhere", b"?" * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    data: Path = tmp_path_factory.mktemp("sparse") / "data"
    with UllageServer(data, "--sparse-indexes", "sparse/*=allow") as server:
        yield server
        server.assert_no_500()


@pytest.fixture
def client(server: UllageServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def sparse_image(client: httpx.Client) -> dict[str, Any]:
    """Of a config and two layers, one of which is not pushed."""
    config = b'{"architecture":"amd64","os":"linux"}'
    push_blob(client, NAME, config)
    push_blob(client, NAME, b"a layer that is here")
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, each) for each in (ABSENT_LAYER, b"a layer that is here")],
    }


def sparse_index(client: httpx.Client) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of an image that is pushed and a digest that is not; both."""
    platform = image(client, NAME, [b"of amd64"])
    listed = [descriptor(MANIFEST, encoded(platform)), descriptor(MANIFEST, ABSENT_PLATFORM)]
    for each, architecture in zip(listed, ("amd64", "arm64"), strict=True):
        each["platform"] = {"architecture": architecture, "os": "linux"}
    return platform, {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}


def pushed(client: httpx.Client, reference: str, manifest: dict[str, Any]) -> Digest:
    answer = put_manifest(client, NAME, reference, manifest)
    assert answer.status_code == 201, answer.text
    digest = digest_of(encoded(manifest))
    assert answer.headers["Docker-Content-Digest"] == digest
    return digest


def assert_pulled(client: httpx.Client, reference: str, manifest: dict[str, Any]) -> None:
    path = f"/v2/{NAME}/manifests/{reference}"
    head, get = client.head(path), client.get(path)
    assert (head.status_code, get.status_code) == (200, 200)
    assert get.content == encoded(manifest)
    for answer in (head, get):
        assert answer.headers["Content-Type"] == manifest["mediaType"]
        assert answer.headers["Docker-Content-Digest"] == digest_of(encoded(manifest))


def test_sparse_manifests(client: httpx.Client) -> None:
    """The suite's order: push, list, head, pull, referrers, then tags, manifests, blobs deleted."""
    alone = sparse_image(client)
    platform, index = sparse_index(client)
    pushed(client, "sparse-image", alone)
    pushed(client, digest_of(encoded(platform)), platform)
    pushed(client, "sparse-index", index)
    tags = client.get(f"/v2/{NAME}/tags/list").json()["tags"]
    assert tags == ["sparse-image", "sparse-index"]
    for tag, manifest in (("sparse-image", alone), ("sparse-index", index)):
        assert_pulled(client, tag, manifest)
    for manifest in (alone, platform, index):
        digest = digest_of(encoded(manifest))
        assert_pulled(client, digest, manifest)
        assert client.get(f"/v2/{NAME}/referrers/{digest}").json()["manifests"] == []
    absent = digest_of(ABSENT_PLATFORM)
    answer = client.get(f"/v2/{NAME}/manifests/{absent}")
    assert refused(answer) == (404, "MANIFEST_UNKNOWN")
    answer = client.get(f"/v2/{NAME}/blobs/{digest_of(ABSENT_LAYER)}")
    assert refused(answer) == (404, "BLOB_UNKNOWN")
    assert client.get(f"/v2/{NAME}/blobs/{digest_of(b'of amd64')}").content == b"of amd64"
    for tag in tags:
        assert client.delete(f"/v2/{NAME}/manifests/{tag}").status_code == 202
        assert client.head(f"/v2/{NAME}/manifests/{tag}").status_code == 404
    for manifest in (index, platform, alone):
        path = f"/v2/{NAME}/manifests/{digest_of(encoded(manifest))}"
        # The platform goes with its index.
        assert client.delete(path).status_code in (202, 404)
        assert client.head(path).status_code == 404
    for data in (b"a layer that is here", b"of amd64"):
        path = f"/v2/{NAME}/blobs/{digest_of(data)}"
        assert client.delete(path).status_code in (202, 404)
        assert client.head(path).status_code == 404


def test_what_comes_later_is_there(client: httpx.Client) -> None:
    """Platform and layer, by their digests; the index keeps its platform."""
    platform, _ = sparse_index(client)
    index = {"schemaVersion": 2, "mediaType": INDEX}
    index["manifests"] = [descriptor(MANIFEST, encoded(platform))]
    pushed(client, "index", index)
    path = f"/v2/{NAME}/manifests/{digest_of(encoded(platform))}"
    assert client.head(path).status_code == 404
    pushed(client, digest_of(encoded(platform)), platform)
    assert client.head(path).status_code == 200
    assert client.delete(path).status_code == 405


def test_elsewhere_the_refusal_names_the_setting(client: httpx.Client) -> None:
    _, index = sparse_index(client)
    answer = put_manifest(client, "other", "v1", index)
    assert refused(answer) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert "--sparse-indexes" in answer.text
