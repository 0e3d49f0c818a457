"""distribution-spec, "Push": manifests by tag or digest (end-7), with tags (end-7b), subjects."""

import json

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
from tests.support.registry import CONFIG, LAYER, MANIFEST, descriptor
from ullage.oci.digest import digest_of

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_is_pushed_by_digest(client: httpx.Client, name: str, algorithm: str) -> None:
    """end-7; it needs no tag, and keeps its content without one."""
    manifest = image(client, name)
    digest = digest_of(encoded(manifest), algorithm)
    answer = put_manifest(client, name, digest, manifest)
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["Location"] == f"/v2/{name}/manifests/{digest}"
    assert answer.headers["Docker-Content-Digest"] == digest
    assert "OCI-Tag" not in answer.headers
    assert "OCI-Subject" not in answer.headers
    assert client.get(answer.headers["Location"]).content == encoded(manifest)
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == []


def test_a_manifest_is_pushed_by_tag(client: httpx.Client, name: str) -> None:
    """end-7: Location and digest name the content; a tag moves to what was pushed last."""
    first, second = image(client, name, [b"1"]), image(client, name, [b"2"])
    for manifest in (first, first, second):
        answer = put_manifest(client, name, "latest", manifest)
        digest = digest_of(encoded(manifest))
        assert answer.status_code == 201
        assert answer.headers["Location"] == f"/v2/{name}/manifests/{digest}"
        assert answer.headers["Docker-Content-Digest"] == digest
        assert client.get(f"/v2/{name}/manifests/latest").content == encoded(manifest)
    assert client.get(f"/v2/{name}/manifests/{digest_of(encoded(first))}").status_code == 200
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["latest"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_tags_are_given_with_a_digest(client: httpx.Client, name: str, algorithm: str) -> None:
    """end-7b: `tag` parameters, and an OCI-Tag header for each that was set."""
    manifest = image(client, name)
    digest = digest_of(encoded(manifest), algorithm)
    tags = ["v1", "v1.2", "latest", "v1"]
    query = "&".join(f"tag={tag}" for tag in tags)
    answer = put_manifest(client, name, f"{digest}?{query}", manifest)
    assert answer.status_code == 201, answer.text
    assert answer.headers.get_list("OCI-Tag") == ["v1", "v1.2", "latest"]
    assert answer.headers["Docker-Content-Digest"] == digest
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["latest", "v1", "v1.2"]
    for tag in tags:
        head = client.head(f"/v2/{name}/manifests/{tag}")
        assert head.headers["Docker-Content-Digest"] == digest


def test_as_many_tags_as_fit_into_a_query_string(client: httpx.Client, name: str) -> None:
    """end-7b; more than 8 KiB of them are 414."""
    manifest = image(client, name)
    digest = digest_of(encoded(manifest))
    tags = [f"a-rather-long-tag-{n}" for n in range(200)]
    query = "&".join(f"tag={tag}" for tag in tags)
    answer = put_manifest(client, name, f"{digest}?{query}", manifest)
    assert answer.headers.get_list("OCI-Tag") == tags
    answer = put_manifest(client, name, f"{digest}?{query}&{query}", manifest)
    assert refused(answer) == (414, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("{digest}?tag=-bad", "TAG_INVALID"),
        ("{digest}?tag=", "TAG_INVALID"),
        ("{digest}?tag=good&tag=a%0a", "TAG_INVALID"),
        ("{digest}?tag=" + "a" * 129, "TAG_INVALID"),
        ("v1?tag=v2", "TAG_INVALID"),
        ("{other}?tag=v1", "DIGEST_INVALID"),
        ("{other}", "DIGEST_INVALID"),
    ],
)
def test_all_of_a_push_or_nothing(
    client: httpx.Client, name: str, reference: str, code: str
) -> None:
    """end-7b: with one bad tag, no tag is set and no manifest stored."""
    manifest = image(client, name)
    digest = digest_of(encoded(manifest))
    reference = reference.format(digest=digest, other=digest_of(b"other"))
    assert refused(put_manifest(client, name, reference, manifest)) == (400, code)
    assert refused(client.get(f"/v2/{name}/tags/list")) == (404, "NAME_UNKNOWN")
    assert refused(client.get(f"/v2/{name}/manifests/{digest}")) == (404, "NAME_UNKNOWN")


# --- what a manifest needs ------------------------------------------------------------------------


def test_what_a_manifest_names_must_be_in_its_repository(client: httpx.Client, name: str) -> None:
    """ "Pushing Manifests": also if another repository has it (S14)."""
    manifest = image(client, f"{name}/other", [b"a layer", b"another layer"])
    for blob in (None, b'{"architecture":"amd64","os":"linux"}', b"a layer", b"another layer"):
        answer = put_manifest(client, name, "v1", manifest)
        assert refused(answer) == (400, "MANIFEST_BLOB_UNKNOWN")
        if blob is not None:
            push_blob(client, name, blob)
    assert put_manifest(client, name, "v1", manifest).status_code == 201


def test_the_children_of_an_index_must_be_in_its_repository(
    client: httpx.Client, name: str
) -> None:
    digest = push_image(client, f"{name}/other", "v1")
    index = index_of(client, f"{name}/other", [digest])
    assert refused(put_manifest(client, name, "all", index)) == (400, "MANIFEST_BLOB_UNKNOWN")
    push_image(client, name, "v1")
    assert put_manifest(client, name, "all", index).status_code == 201


def test_sizes_must_be_those_of_the_content(client: httpx.Client, name: str) -> None:
    """S32, F35: a descriptor that lies about its size is refused."""
    for wrong in (0, 4, 6, 2**53):
        manifest = image(client, name, [b"layer"])
        manifest["layers"][0]["size"] = wrong
        assert refused(put_manifest(client, name, "v1", manifest)) == (400, "MANIFEST_INVALID")
    digest = push_image(client, name, "v1")
    index = index_of(client, name, [digest])
    index["manifests"][0]["size"] += 1
    assert refused(put_manifest(client, name, "all", index)) == (400, "MANIFEST_INVALID")


def test_foreign_layers_need_not_be_pushed(client: httpx.Client, name: str) -> None:
    """image-spec, layer.md, "Non-Distributable Layers"."""
    manifest = image(client, name)
    foreign = {**descriptor(FOREIGN, b"elsewhere"), "urls": ["https://example.com/layer"]}
    manifest["layers"].append(foreign)
    assert put_manifest(client, name, "v1", manifest).status_code == 201


def test_schema_1_is_refused_with_a_reason(client: httpx.Client, name: str) -> None:
    answer = client.put(
        f"/v2/{name}/manifests/old",
        content=json.dumps({"schemaVersion": 1, "name": name, "fsLayers": [], "history": []}),
        headers={"Content-Type": SCHEMA_1},
    )
    assert refused(answer) == (400, "MANIFEST_INVALID")
    assert "schema 1 is not supported" in answer.json()["errors"][0]["message"]


# --- subjects -------------------------------------------------------------------------------------


def test_a_subject_is_acknowledged_and_need_not_exist(client: httpx.Client, name: str) -> None:
    """ "Pushing Manifests with Subject": OCI-Subject tells clients not to use the tag fallback."""
    missing = digest_of(b"not yet pushed", "sha512")
    subject = {"mediaType": MANIFEST, "digest": missing, "size": 14}
    manifest = image(client, name, subject=subject, artifactType="application/vnd.example.sbom")
    for reference in ("sbom", digest_of(encoded(manifest))):
        answer = put_manifest(client, name, reference, manifest)
        assert answer.status_code == 201
        assert answer.headers["OCI-Subject"] == missing
    listed = client.get(f"/v2/{name}/referrers/{missing}").json()["manifests"]
    assert [one["digest"] for one in listed] == [digest_of(encoded(manifest))]


def test_an_artifact_without_layers_is_an_image_with_an_empty_one(
    client: httpx.Client, name: str
) -> None:
    """image-spec, "Guidelines for Artifact Usage": the empty blob is content like any other."""
    empty = "application/vnd.oci.empty.v1+json"
    push_blob(client, name, b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.note",
        "config": descriptor(empty, b"{}"),
        "layers": [descriptor(empty, b"{}")],
    }
    assert put_manifest(client, name, "note", manifest).status_code == 201


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (MANIFEST, 201),
        (MANIFEST.upper(), 201),
        (f"{MANIFEST}; charset=utf-8", 201),
        (None, 201),
        ("application/vnd.oci.image.index.v1+json", 400),
        ("application/vnd.docker.distribution.manifest.v2+json", 400),
        ("application/json", 400),
        ("text/html", 400),
        ("nonsense", 400),
        (";", 400),
        ("a" * 300 + "/b", 400),
    ],
)
def test_content_type_and_media_type_must_agree(
    client: httpx.Client, name: str, content_type: str | None, status: int
) -> None:
    """CVE-2021-41190: one digest must not mean two things."""
    raw = encoded(image(client, name))
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = client.put(f"/v2/{name}/manifests/v1", content=raw, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 201:
        assert client.get(f"/v2/{name}/manifests/v1").headers["Content-Type"] == MANIFEST
    else:
        assert refused(answer) == (400, "MANIFEST_INVALID")
        assert refused(client.get(f"/v2/{name}/manifests/v1")) == (404, "NAME_UNKNOWN")


def test_a_manifest_keeps_the_type_it_was_first_pushed_as(client: httpx.Client, name: str) -> None:
    """The same bytes without a mediaType, once as OCI and once as Docker."""
    manifest = image(client, name)
    del manifest["mediaType"]
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    path, raw = f"/v2/{name}/manifests/v1", encoded(manifest)
    assert client.put(path, content=raw, headers={"Content-Type": MANIFEST}).status_code == 201
    other = client.put(path, content=raw, headers={"Content-Type": docker})
    assert refused(other) == (400, "MANIFEST_INVALID")
    assert client.get(path).headers["Content-Type"] == MANIFEST


def test_a_layer_may_be_named_twice(client: httpx.Client, name: str) -> None:
    """Docker does so with the empty layer; it is one blob."""
    layer = b"the same twice"
    manifest = image(client, name, [layer, layer])
    assert put_manifest(client, name, "v1", manifest).status_code == 201
    assert manifest["layers"][0] == manifest["layers"][1] == descriptor(LAYER, layer)
    assert manifest["config"]["mediaType"] == CONFIG
