"""What people asked other registries for, and could not have: undoing a deletion (peers.md B22)."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.server.pushing import encoded, image, index_of, push_image, put_manifest
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with soft delete on."""
    with UllageServer(tmp_path_factory.mktemp("peers") / "data") as server:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            enabled = client.patch("/api/v1/policies/soft-delete", json={"status": "enabled"})
            assert enabled.status_code == 200
            yield client
        server.assert_no_500()


def push_signed_index(client: httpx.Client, name: str) -> Digest:
    """An index under two tags, over two platforms, with a signature; returns its digest."""
    platforms = []
    for data in ("amd64", "arm64"):
        body = image(client, name, (f"{name} {data}".encode(),))
        platforms.append(digest_of(encoded(body)))
        put_manifest(client, name, platforms[-1], body)
    index = index_of(client, name, platforms)
    for tag in ("v1", "latest"):
        put_manifest(client, name, tag, index)
    digest = digest_of(encoded(index))
    subject = {"mediaType": index["mediaType"], "digest": digest, "size": len(encoded(index))}
    signature = image(client, name, (b"signature",), subject=subject)
    put_manifest(client, name, digest_of(encoded(signature)), signature)
    return digest


def listing(client: httpx.Client, name: str) -> list[tuple[str, object]]:
    found = client.get(f"/acr/v1/{name}/_manifests").json()["manifests"]
    return [(each["digest"], each["tags"]) for each in found]


def bill(client: httpx.Client) -> dict[str, int]:
    found: dict[str, int] = client.get("/api/v1/usage").json()["registry"]
    return found


def test_harbor_22039_the_trash_gives_back_what_was_thrown_away(client: httpx.Client) -> None:
    """Harbor has a table of trash and no way back: here it is one call, by one id."""
    name = "harbor/22039"
    push_signed_index(client, name)
    before, tagged = listing(client, name), bill(client)["tagged_bytes"]
    operation = client.delete(f"/acr/v1/{name}").headers["Ullage-Operation"]
    assert client.get(f"/acr/v1/{name}").status_code == 404
    assert bill(client)["soft_deleted_bytes"] == tagged
    assert client.post(f"/api/v1/deleted/{operation}/restore").status_code == 200
    assert listing(client, name) == before
    assert (bill(client)["soft_deleted_bytes"], bill(client)["tagged_bytes"]) == (0, tagged)


def test_acr_813_soft_delete_is_recursive_frees_on_demand_and_blocks_no_push(
    client: httpx.Client,
) -> None:
    """Azure/acr#813, #814, #492: in preview since 2022, one tag at a time, no manual purge, and a
    digest that is soft-deleted cannot be pushed."""
    name = "acr/813"
    push_image(client, name, "other", (b"other",))
    digest = push_signed_index(client, name)
    before = listing(client, name)
    gone = client.delete(f"/v2/{name}/manifests/{digest}")
    operation = gone.headers["Ullage-Operation"]
    # The same image is pushed again, before anybody restores anything.
    body = image(client, name, (f"{name} amd64".encode(),))
    platform = digest_of(encoded(body))
    assert put_manifest(client, name, platform, body).status_code == 201
    # Index, platforms, signature and both tags come back by one id.
    assert client.post(f"/api/v1/deleted/{operation}/restore").status_code == 200
    assert listing(client, name) == before
    referrers = client.get(f"/v2/{name}/referrers/{digest}").json()["manifests"]
    assert len(referrers) == 1
    # And by the same id its bytes come back, now.
    again = client.delete(f"/v2/{name}/manifests/{digest}").headers["Ullage-Operation"]
    held = client.get(f"/api/v1/deleted/{again}").json()["exclusive_bytes"]
    assert held > 0
    freed = client.delete(f"/api/v1/deleted/{again}").json()
    assert freed["freed_bytes"] == held
    assert client.post(f"/api/v1/deleted/{again}/restore").status_code == 404
