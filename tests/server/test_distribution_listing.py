"""distribution-spec, "Content Discovery": tags (end-8), referrers (end-12), Docker's catalog."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    start_upload,
)
from tests.support.registry import CONFIG, INDEX, MANIFEST
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of

SBOM = "application/vnd.example.sbom+json"
SIGNATURE = "application/vnd.example.signature.v1"
# In the order of their bytes, which is that of neither a dictionary nor numbers.
TAGS = ["1.0", "10.0", "2.0", "A", "B", "_x", "a", "a-b", "a.b", "b"]


def pages(client: httpx.Client, path: str) -> Iterator[httpx.Response]:
    """Follow Link headers from page to page, as clients do (RFC 8288)."""
    following: str | None = path
    while following is not None:
        answer = client.get(following)
        assert answer.status_code == 200, answer.text
        yield answer
        link = answer.links.get("next")
        following = None if link is None else link["url"]
        assert following is None or following.startswith(path.partition("?")[0])


# --- tags -----------------------------------------------------------------------------------------


def push_tags(client: httpx.Client, name: str) -> Digest:
    """An image under all of TAGS, given in another order."""
    manifest = image(client, name)
    digest = digest_of(encoded(manifest))
    query = "&".join(f"tag={tag}" for tag in sorted(TAGS, key=hash))
    assert put_manifest(client, name, f"{digest}?{query}", manifest).status_code == 201
    return digest


def test_tags_are_listed_in_the_order_of_their_bytes(client: httpx.Client, name: str) -> None:
    """ "Listing Tags": lexical order, and no Link when that is all."""
    push_tags(client, name)
    answer = client.get(f"/v2/{name}/tags/list")
    assert answer.json() == {"name": name, "tags": TAGS}
    assert answer.headers["Content-Type"] == "application/json"
    assert "Link" not in answer.headers


@pytest.mark.parametrize("n", [1, 3, 5, 9])
def test_tags_are_listed_page_by_page(client: httpx.Client, name: str, n: int) -> None:
    """ "Listing Tags": each exactly once; the last page has no Link."""
    push_tags(client, name)
    found = [page.json()["tags"] for page in pages(client, f"/v2/{name}/tags/list?n={n}")]
    assert [tag for page in found for tag in page] == TAGS
    assert all(len(page) == n for page in found[:-1])
    assert len(found) == -(-len(TAGS) // n)


@pytest.mark.parametrize(
    ("query", "expected", "more"),
    [
        ("n=0", [], False),
        ("n=10", TAGS, False),
        ("n=9", TAGS[:9], True),
        ("n=11", TAGS, False),
        ("n=0001", TAGS[:1], True),
        (f"n={10**18}", TAGS, False),
        ("last=", TAGS, False),
        ("last=A", TAGS[4:], False),
        ("last=A&n=2", TAGS[4:6], True),
        ("last=AA", TAGS[4:], False),
        ("last=b", [], False),
        ("last=zzz&n=5", [], False),
        ("last=%C3%A9", [], False),
        ("last=%25&n=3", TAGS[:3], True),
        ("last=a%27%20OR%201=1--", TAGS[7:], False),
        ("last=+", TAGS, False),
        ("other=1&n=2", TAGS[:2], True),
    ],
)
def test_a_page_starts_after_last_and_has_n_at_most(
    client: httpx.Client, name: str, query: str, expected: list[str], more: bool
) -> None:
    """ "Listing Tags": `last` need not be a tag; with n=0 there is nothing, and no Link."""
    push_tags(client, name)
    answer = client.get(f"/v2/{name}/tags/list?{query}")
    assert answer.json()["tags"] == expected
    assert ("Link" in answer.headers) is more


def test_a_repository_without_a_manifest_does_not_exist(client: httpx.Client, name: str) -> None:
    """Uploads alone do not make one; neither does what was deleted."""
    start_upload(client, name)
    push_blob(client, name, b"blob")
    for gone in (False, True):
        assert refused(client.get(f"/v2/{name}/tags/list")) == (404, "NAME_UNKNOWN")
        assert refused(client.get(f"/v2/{name}/manifests/v1")) == (404, "NAME_UNKNOWN")
        if not gone:
            digest = push_image(client, name, "v1")
            assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["v1"]
            client.delete(f"/v2/{name}/manifests/{digest}")


# --- the catalog ----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_catalog_lists_repositories_page_by_page(tmp_path: Path) -> None:
    """Docker's `_catalog`, with limits of the server's own; nothing of what holds no manifest."""
    names = ["a", "a-b", "a.b", "a/b", "a0", "b/c/d", "b_c", "z"]
    with (
        UllageServer(tmp_path / "data", "--max-page", "3") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/v2/_catalog").json() == {"repositories": []}
        for name in reversed(names):
            push_image(client, name, "v1")
        start_upload(client, "uploading/only")
        push_blob(client, "blob/only", b"blob")
        for query, expected in {
            "": [names[0:3], names[3:6], names[6:]],
            "?n=1000": [names[0:3], names[3:6], names[6:]],
            "?n=2": [names[0:2], names[2:4], names[4:6], names[6:]],
            "?n=1&last=b_c": [["z"]],
            "?n=0": [[]],
            "?last=a.z": [names[3:6], names[6:]],
        }.items():
            found = [page.json()["repositories"] for page in pages(client, f"/v2/_catalog{query}")]
            assert found == expected, query
        digest = client.get("/v2/z/manifests/v1").headers["Docker-Content-Digest"]
        assert client.delete(f"/v2/z/manifests/{digest}").status_code == 202
        assert client.get("/v2/_catalog?last=b_c").json() == {"repositories": []}
        server.assert_no_500()


# --- referrers ------------------------------------------------------------------------------------


def push_referrer(
    client: httpx.Client, name: str, subject: Digest, artifact_type: str | None, number: int
) -> dict[str, Any]:
    """A manifest about `subject`; returns the descriptor that the listing should show."""
    annotations = {"number": str(number)}
    more: dict[str, Any] = {"annotations": annotations}
    if artifact_type is not None:
        more["artifactType"] = artifact_type
    about = {"mediaType": MANIFEST, "digest": subject, "size": 1}
    manifest = image(client, name, subject=about, **more)
    raw = encoded(manifest)
    digest = digest_of(raw)
    assert put_manifest(client, name, digest, manifest).status_code == 201
    return {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": len(raw),
        "artifactType": artifact_type or CONFIG,
        "annotations": annotations,
    }


def test_referrers_are_listed_as_an_index(client: httpx.Client, name: str) -> None:
    """ "Listing Referrers": with artifactType, for images their config's type, and annotations."""
    subject = push_image(client, name, "v1")
    expected = [
        push_referrer(client, name, subject, SBOM, 1),
        push_referrer(client, name, subject, None, 2),
    ]
    answer = client.get(f"/v2/{name}/referrers/{subject}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == INDEX
    assert "OCI-Filters-Applied" not in answer.headers
    body = answer.json()
    assert (body["schemaVersion"], body["mediaType"]) == (2, INDEX)
    assert body["manifests"] == sorted(expected, key=lambda one: one["digest"])


def test_an_index_may_be_a_referrer(client: httpx.Client, name: str) -> None:
    subject = push_image(client, name, "v1")
    index = index_of(client, name, [subject])
    index |= {"subject": index["manifests"][0], "artifactType": SBOM}
    answer = put_manifest(client, name, "sboms", index)
    assert answer.headers["OCI-Subject"] == subject
    (listed,) = client.get(f"/v2/{name}/referrers/{subject}").json()["manifests"]
    assert (listed["mediaType"], listed["artifactType"]) == (INDEX, SBOM)


def test_referrers_of_nothing_are_none(client: httpx.Client, name: str) -> None:
    """ "Listing Referrers": never 404, or clients would fall back to tags."""
    for digest in (digest_of(b"nothing"), digest_of(b"nothing", "sha512")):
        answer = client.get(f"/v2/{name}/referrers/{digest}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, INDEX)
        assert answer.json() == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}


def test_referrers_are_filtered_by_type(client: httpx.Client, name: str) -> None:
    """ "Listing Referrers": by a text, not a pattern; the answer says that it was applied."""
    subject = push_image(client, name, "v1")
    sbom = push_referrer(client, name, subject, SBOM, 1)
    push_referrer(client, name, subject, SIGNATURE, 2)
    for wanted, expected in {
        SBOM: [sbom],
        SBOM.replace(".", "_"): [],
        "application/%": [],
        "": [],
        "\u00e9": [],
    }.items():
        answer = client.get(f"/v2/{name}/referrers/{subject}", params={"artifactType": wanted})
        assert answer.json()["manifests"] == expected, wanted
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"


@pytest.mark.parametrize("query", ["?n=2", f"?n=2&artifactType={SBOM.replace('+', '%2B')}"])
def test_referrers_are_listed_page_by_page(client: httpx.Client, name: str, query: str) -> None:
    """ "Listing Referrers": the filter goes along in the Link; each exactly once."""
    subject = push_image(client, name, "v1")
    expected = sorted(
        push_referrer(client, name, subject, SBOM, number)["digest"] for number in range(5)
    )
    if "artifactType" in query:
        push_referrer(client, name, subject, SIGNATURE, 9)
    found = list(pages(client, f"/v2/{name}/referrers/{subject}{query}"))
    assert [one["digest"] for page in found for one in page.json()["manifests"]] == expected
    assert [len(page.json()["manifests"]) for page in found] == [2, 2, 1]
    filtered = ["OCI-Filters-Applied" in page.headers for page in found]
    assert filtered == ["artifactType" in query] * 3


@pytest.mark.parametrize(
    ("query", "count"),
    [("n=0", 1), ("n=1", 1), ("n=999999999999", 2), ("last=zzz", 0), ("last=", 2)],
)
def test_a_page_of_referrers_makes_headway(
    client: httpx.Client, name: str, query: str, count: int
) -> None:
    """An empty page with a Link would be asked for again and again."""
    subject = push_image(client, name, "v1")
    for number in range(2):
        push_referrer(client, name, subject, SBOM, number)
    listed = client.get(f"/v2/{name}/referrers/{subject}?{query}").json()["manifests"]
    assert len(listed) == count


def test_a_referrer_leaves_the_list_when_it_is_deleted(client: httpx.Client, name: str) -> None:
    subject = push_image(client, name, "v1")
    sbom = push_referrer(client, name, subject, SBOM, 1)
    assert client.delete(f"/v2/{name}/manifests/{sbom['digest']}").status_code == 202
    assert client.get(f"/v2/{name}/referrers/{subject}").json()["manifests"] == []
    assert client.get(f"/v2/{name}/manifests/{subject}").status_code == 200
