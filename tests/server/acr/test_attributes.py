"""azure.md sections 2.3 to 2.6 over HTTP: what is shown of repositories, tags and manifests."""

import json
import re
from collections.abc import Callable
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
)
from tests.support.registry import CONFIG, INDEX, MANIFEST, descriptor
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of

ALL_ON = {
    "deleteEnabled": True,
    "writeEnabled": True,
    "readEnabled": True,
    "listEnabled": True,
}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")


def shown(client: httpx.Client, path: str) -> Any:
    answer = client.get(f"/acr/v1/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def tags_by_digest(client: httpx.Client, name: str) -> dict[str, Any]:
    """The `tags` of each manifest, as `show-manifests` has them."""
    listed = shown(client, f"{name}/_manifests?n=1000")["manifests"] or []
    return {each["digest"]: each["tags"] for each in listed}


def push_index(
    client: httpx.Client, name: str, tag: str | None, children: list[Digest], **more: Any
) -> Digest:
    body = index_of(client, name, children) | more
    digest = digest_of(encoded(body))
    assert put_manifest(client, name, tag or digest, body).status_code == 201
    return digest


# --- 2.4, 2.5, 2.6: shapes ------------------------------------------------------------------------


def test_a_repository_shows_its_counts_times_and_attributes(
    client: httpx.Client, server: UllageServer, name: str
) -> None:
    """azure.md section 2.4."""
    push_image(client, name, "v1")
    push_image(client, name, "v2", [b"another"])
    found = shown(client, name)
    created, updated = found.pop("createdTime"), found.pop("lastUpdateTime")
    assert found == {
        "registry": server.host,
        "imageName": name,
        "manifestCount": 2,
        "tagCount": 2,
        "changeableAttributes": ALL_ON,
    }
    assert _TIME.fullmatch(created)
    assert _TIME.fullmatch(updated)
    assert created < updated


def test_a_tag_shows_its_digest_times_and_attributes(client: httpx.Client, name: str) -> None:
    """azure.md section 2.5: the same object alone as in the list."""
    digest = push_image(client, name, "v1")
    tag = shown(client, f"{name}/_tags/v1")["tag"]
    assert shown(client, f"{name}/_tags")["tags"] == [tag]
    assert _TIME.fullmatch(tag.pop("createdTime"))
    assert _TIME.fullmatch(tag.pop("lastUpdateTime"))
    assert tag == {
        "name": "v1",
        "digest": digest,
        "signed": False,
        "changeableAttributes": ALL_ON,
    }


def test_an_image_shows_what_its_config_says(client: httpx.Client, name: str) -> None:
    """azure.md section 2.6: the same object alone as in the list; no `references`: no index."""
    digest = push_image(client, name, "v1", [b"12345", b"6789"])
    answer = shown(client, f"{name}/_manifests/{digest}")
    manifest = answer["manifest"]
    assert "references" not in answer
    assert shown(client, f"{name}/_manifests")["manifests"] == [manifest]
    assert _TIME.fullmatch(manifest.pop("createdTime"))
    assert _TIME.fullmatch(manifest.pop("lastUpdateTime"))
    assert manifest == {
        "digest": digest,
        "imageSize": len('{"architecture":"amd64","os":"linux"}') + 9,
        "architecture": "amd64",
        "os": "linux",
        "mediaType": MANIFEST,
        "configMediaType": CONFIG,
        "tags": ["v1"],
        "changeableAttributes": ALL_ON,
    }


def test_an_index_shows_what_it_lists(client: httpx.Client, name: str) -> None:
    """azure.md section 2.6: `references`, no architecture; its size is that of what it lists."""
    children = [push_image(client, name, tag, [tag.encode()]) for tag in ("a", "b")]
    body = index_of(client, name, children)
    body["manifests"][0]["platform"] = {"architecture": "arm64", "os": "linux", "variant": "v8"}
    raw = encoded(body)
    assert put_manifest(client, name, "multi", body).status_code == 201
    answer = shown(client, f"{name}/_manifests/{digest_of(raw)}")
    assert answer["references"] == [
        {"digest": children[0], "architecture": "arm64", "os": "linux"},
        {"digest": children[1]},
    ]
    manifest = answer["manifest"]
    assert manifest["imageSize"] == sum(each["size"] for each in body["manifests"])
    assert manifest["mediaType"] == INDEX
    assert not {"architecture", "os", "configMediaType"} & manifest.keys()


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{}",
        b"[]",
        b"no JSON",
        b'{"architecture": 1, "os": null}',
        b'{"architecture": "", "os": "a\\u0000"}',
        json.dumps({"architecture": "x" * 65, "os": "two\nlines"}).encode(),
        b'{"architecture": "amd64", "history": "' + b"x" * 2**20 + b'"}',
        b"[" * 1000,
    ],
    ids=lambda config: config[:20].decode(),
)
def test_a_config_that_says_nothing_is_no_reason_to_refuse_an_image(
    client: httpx.Client, name: str, config: bytes
) -> None:
    """azure.md section 2.6: the config is read with limits, errors ignored."""
    push_blob(client, name, config)
    body = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [],
    }
    assert put_manifest(client, name, "v1", body).status_code == 201
    manifest = shown(client, f"{name}/_manifests")["manifests"][0]
    assert not {"architecture", "os"} & manifest.keys()
    assert manifest["imageSize"] == len(config)


@pytest.mark.parametrize("what", ["repositories", "tags", "manifests"])
@pytest.mark.thorough
def test_what_is_empty_is_null(tmp_path: Path, what: str) -> None:
    """azure.md section 0, rule 5: acr-cli takes the last element of anything that is not null."""
    with UllageServer(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        if what == "repositories":
            assert client.get("/acr/v1/_catalog").json() == {"repositories": None}
            for agent, found in (
                ("python-requests/2.32.3 AZURECLI/2.91.0", None),
                ("Go/go1.22 (amd64-linux) go-autorest/v14.2.1 acr/0.14", None),
                ("docker/27.0.1 go/go1.21", []),
            ):
                answer = client.get("/v2/_catalog", headers={"User-Agent": agent})
                assert answer.json() == {"repositories": found}, agent
            return
        digest = push_image(client, "app", "v1")
        assert client.delete("/acr/v1/app/_tags/v1").status_code == 202
        assert shown(client, "app/_tags")["tags"] is None
        assert shown(client, f"app/_{what}?last=zzz")[what] is None
        assert shown(client, f"app/_tags?digest={digest}")["tags"] is None
        assert shown(client, "app/_manifests")["manifests"][0]["tags"] is None


# --- 2.0, 2.1: paths and errors -------------------------------------------------------------------


def test_paths_may_be_percent_encoded(client: httpx.Client, name: str) -> None:
    """azure.md section 0, rule 8: the SDK and acr-cli escape slashes and colons, az does not."""
    digest = push_image(client, name, "v1")
    escaped, colon = name.replace("/", "%2F"), digest.replace(":", "%3A")
    for path in ("", "/_tags", "/_tags/v1", "/_manifests"):
        assert shown(client, f"{escaped}{path}") == shown(client, f"{name}{path}")
    assert shown(client, f"{escaped}/_manifests/{colon}?api-version=2021-07-01") == shown(
        client, f"{name}/_manifests/{digest}"
    )


def test_names_made_of_the_words_of_the_api_are_names(client: httpx.Client, name: str) -> None:
    """azure.md section 0, rule 8: read from the right."""
    for tail in ("tags", "manifests", "v1", "acr/v1"):
        push_image(client, f"{name}/{tail}", "v1")
        assert shown(client, f"{name}/{tail}")["imageName"] == f"{name}/{tail}"
        assert shown(client, f"{name}/{tail}/_tags/v1")["tag"]["name"] == "v1"


NOWHERE = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("method", "path", "code", "message", "detail"),
    [
        *(
            (method, path, "NAME_UNKNOWN", "repository name not known to registry", "name")
            for method, path in [
                ("GET", "nobody/app"),
                ("PATCH", "nobody/app"),
                ("DELETE", "nobody/app"),
                ("GET", "nobody/app/_tags"),
                ("GET", "nobody/app/_manifests"),
            ]
        ),
        *(
            (method, f"{name}/_tags/nope", "TAG_UNKNOWN", "the specified tag does not exist", "tag")
            for method in ("GET", "PATCH", "DELETE")
            for name in ("nobody/app", "errors/app")
        ),
        *(
            (
                method,
                f"{name}/_manifests/{NOWHERE}",
                "MANIFEST_UNKNOWN",
                f"manifest {NOWHERE} is not found",
                "Revision",
            )
            for method in ("GET", "PATCH")
            for name in ("nobody/app", "errors/app")
        ),
    ],
)
def test_what_is_not_there_is_404_in_azures_words(
    client: httpx.Client, method: str, path: str, code: str, message: str, detail: str
) -> None:
    """azure.md section 2.1."""
    push_image(client, "errors/app", "v1")
    body = "{}" if method == "PATCH" else None
    answer = client.request(method, f"/acr/v1/{path}", content=body)
    assert refused(answer) == (404, code)
    error = answer.json()["errors"][0]
    assert error["message"] == message
    name = "nobody/app" if path.startswith("nobody") else "errors/app"
    expected = {
        "name": {"name": name},
        "tag": {"name": name, "tag": "nope"},
        "Revision": {"Name": name, "Revision": NOWHERE},
    }
    assert error["detail"] == expected[detail]
    assert answer.headers["X-Ms-Correlation-Request-Id"]


@pytest.mark.parametrize("path", ["Upper/case", "a//b", "_deleted/_x", "-x/_tags", "a/_x"])
def test_a_name_that_cannot_be_is_answered_as_text(client: httpx.Client, path: str) -> None:
    """azure.md section 2.1: a name that cannot be."""
    answer = client.get(f"/acr/v1/{path}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.text == "404 page not found\n"


def test_a_get_with_a_body_is_answered(client: httpx.Client, name: str) -> None:
    """azure.md section 2.0: az sends one."""
    push_image(client, name, "v1")
    for path in ("_catalog", name, f"{name}/_tags", f"{name}/_manifests", f"{name}/_tags/v1"):
        for method in ("GET", "HEAD"):
            answer = client.request(method, f"/acr/v1/{path}", json={"some": "thing"})
            assert answer.status_code == 200, (method, path)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("", "UNSUPPORTED"),
        ("[]", "UNSUPPORTED"),
        ("no", "UNSUPPORTED"),
        ('{"deleteEnabled": 0}', "UNSUPPORTED"),
        ('{"deleteEnabled": "false"}', "UNSUPPORTED"),
        ('{"deleteEnabled": true, "deleteEnabled": false}', "UNSUPPORTED"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(
    client: httpx.Client, name: str, body: str, code: str
) -> None:
    push_image(client, name, "v1")
    for path in (name, f"{name}/_tags/v1"):
        assert refused(client.patch(f"/acr/v1/{path}", content=body)) == (400, code)
    assert shown(client, name)["changeableAttributes"] == ALL_ON


def test_attributes_that_are_too_long_are_refused(client: httpx.Client, name: str) -> None:
    push_image(client, name, "v1")
    answer = client.patch(f"/acr/v1/{name}", content=b'{"x": "' + b"x" * 70_000 + b'"}')
    assert refused(answer) == (413, "UNSUPPORTED")


# --- PATCH ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ALL_ON)
@pytest.mark.parametrize("kind", ["repository", "tag", "manifest"])
def test_each_attribute_of_each_object_is_its_own(
    client: httpx.Client, name: str, kind: str, attribute: str
) -> None:
    """azure.md sections 2.4-2.6 and 5.6: three objects of four switches; null is no change."""
    digest = push_image(client, name, "v1")
    paths = {
        "repository": name,
        "tag": f"{name}/_tags/v1",
        "manifest": f"{name}/_manifests/{digest}",
    }

    def attributes(of: str) -> Any:
        found = shown(client, paths[of])
        return found.get(of, found)["changeableAttributes"]

    others = dict.fromkeys(ALL_ON) | {"quarantineState": "Passed"}
    answer = client.patch(f"/acr/v1/{paths[kind]}", json=others | {attribute: False})
    assert answer.status_code == 200
    assert answer.json() == shown(client, paths[kind])
    assert attributes(kind) == ALL_ON | {attribute: False}
    for other in paths.keys() - {kind}:
        assert attributes(other) == ALL_ON
    assert client.patch(f"/acr/v1/{paths[kind]}", json={attribute: True}).status_code == 200
    assert attributes(kind) == ALL_ON


def test_attributes_of_a_deleted_repository_are_not_inherited(
    client: httpx.Client, name: str
) -> None:
    """Its row may stay for an upload session's sake; the next repository of the name is another."""
    digest = push_image(client, name, "v1")
    assert client.post(f"/v2/{name}/blobs/uploads/").status_code == 202
    hidden = {"listEnabled": False, "readEnabled": False}
    assert client.patch(f"/acr/v1/{name}", json=hidden).status_code == 200
    assert client.delete(f"/v2/{name}/manifests/{digest}").status_code == 202
    push_image(client, name, "v1")
    assert shown(client, name)["changeableAttributes"] == ALL_ON


# --- times ----------------------------------------------------------------------------------------


def test_times_of_update_move_with_what_changes(client: httpx.Client, name: str) -> None:
    """azure.md sections 2.5, 5.6: tags with a push or attributes; manifests with their tags too."""
    body = image(client, name)
    put_manifest(client, name, "v1", body)
    digest = digest_of(encoded(body))
    other = push_image(client, name, "other", [b"other"])

    def times() -> tuple[str, str, str, str]:
        tags = shown(client, f"{name}/_tags")["tags"]
        tag = next((each["lastUpdateTime"] for each in tags if each["name"] == "v1"), "")
        manifests = {
            each["digest"]: each["lastUpdateTime"]
            for each in shown(client, f"{name}/_manifests")["manifests"]
        }
        repository = shown(client, name)["lastUpdateTime"]
        return repository, tag, manifests[digest], manifests[other]

    created = shown(client, f"{name}/_tags/v1")["tag"]["createdTime"]
    was = times()
    changes: list[tuple[Callable[[], httpx.Response], tuple[int, int, int, int]]] = [
        (lambda: put_manifest(client, name, "v1", body), (1, 1, 1, 0)),
        (lambda: put_manifest(client, name, digest, body), (1, 0, 1, 0)),
        (
            lambda: client.patch(f"/acr/v1/{name}/_tags/v1", json={"readEnabled": False}),
            (1, 1, 0, 0),
        ),
        (
            lambda: client.patch(f"/acr/v1/{name}/_tags/v1", json={"readEnabled": False}),
            (0, 0, 0, 0),
        ),
        (
            lambda: client.patch(f"/acr/v1/{name}/_manifests/{other}", json={"readEnabled": False}),
            (1, 0, 0, 1),
        ),
        (lambda: client.patch(f"/acr/v1/{name}", json={"readEnabled": False}), (1, 0, 0, 0)),
        (lambda: put_manifest(client, name, "v1", image(client, name, [b"other"])), (1, 1, 1, 1)),
        (lambda: client.delete(f"/acr/v1/{name}/_tags/v1"), (1, 1, 0, 1)),
    ]
    for change, moved in changes:
        assert change().status_code < 300
        now = times()
        assert [int(a != b) for a, b in zip(was, now, strict=True)] == list(moved)
        assert not now[1] or shown(client, f"{name}/_tags/v1")["tag"]["createdTime"] == created
        was = now


# --- deleting -------------------------------------------------------------------------------------


def test_deleting_a_repository_says_what_went(client: httpx.Client, name: str) -> None:
    """azure.md section 2.4: 202, both lists, sorted."""
    digests = [push_image(client, name, tag, [tag.encode()]) for tag in ("v2", "v1", "latest")]
    client.patch(f"/acr/v1/{name}/_tags/v1", json={"listEnabled": False})
    answer = client.delete(f"/acr/v1/{name}")
    assert answer.status_code == 202
    assert answer.json() == {
        "manifestsDeleted": sorted(digests),
        "tagsDeleted": ["latest", "v1", "v2"],
    }
    assert refused(client.delete(f"/acr/v1/{name}")) == (404, "NAME_UNKNOWN")
    assert client.get(f"/v2/{name}/manifests/v1").status_code == 404


def test_untagging_takes_the_tag_only(client: httpx.Client, name: str) -> None:
    """azure.md section 2.5: 202, empty, the digest in a header; the manifest stays."""
    digest = push_image(client, name, "v1")
    answer = client.delete(f"/acr/v1/{name}/_tags/v1")
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["x-ms-int-docker-content-digest"] == digest
    assert client.get(f"/v2/{name}/manifests/{digest}").status_code == 200
    assert refused(client.delete(f"/acr/v1/{name}/_tags/v1")) == (404, "TAG_UNKNOWN")


# --- "tags": names, null or [] --------------------------------------------------------------------


def test_only_orphans_have_null_for_tags(client: httpx.Client, name: str) -> None:
    """deletion.md section 2: `[?tags==null]` selects the roots of what is garbage."""
    tagged = push_image(client, name, "v1", [b"tagged"])
    orphan = push_image(client, name, "v2", [b"orphan"])
    push_image(client, name, "v2", [b"newer"])
    child = push_image(client, name, "child", [b"child"])
    index = push_index(client, name, "multi", [child])
    nested = push_index(client, name, "nested", [index])
    client.delete(f"/acr/v1/{name}/_tags/child")
    client.delete(f"/acr/v1/{name}/_tags/multi")
    signature = image(client, name, [b"signature"], subject=_subject(tagged))
    put_manifest(client, name, digest_of(encoded(signature)), signature)
    of_orphan = image(client, name, [b"sbom"], subject=_subject(orphan))
    put_manifest(client, name, digest_of(encoded(of_orphan)), of_orphan)
    of_nothing = image(client, name, [b"lost"], subject=_subject(Digest(NOWHERE)))
    put_manifest(client, name, digest_of(encoded(of_nothing)), of_nothing)
    orphan_child = push_image(client, name, "x", [b"orphan child"])
    orphan_index = push_index(client, name, None, [orphan_child])
    client.delete(f"/acr/v1/{name}/_tags/x")
    shown_tags = tags_by_digest(client, name)
    assert {digest: shown_tags[digest] for digest in (tagged, nested)} == {
        tagged: ["v1"],
        nested: ["nested"],
    }
    held = {child, index, orphan_child}
    held |= {digest_of(encoded(signature)), digest_of(encoded(of_orphan))}
    assert {digest for digest, tags in shown_tags.items() if tags == []} == held
    roots = {digest for digest, tags in shown_tags.items() if tags is None}
    assert roots == {orphan, orphan_index, digest_of(encoded(of_nothing))}
    for digest in sorted(roots):
        assert client.delete(f"/v2/{name}/manifests/{digest}").status_code == 202
    left = tags_by_digest(client, name)
    assert None not in left.values()
    assert left.keys() == shown_tags.keys() - roots - {orphan_child, digest_of(encoded(of_orphan))}


def _subject(digest: Digest) -> dict[str, Any]:
    return {"mediaType": MANIFEST, "digest": digest, "size": 1}


# --- listEnabled ----------------------------------------------------------------------------------


def test_what_is_hidden_is_in_no_list_and_still_there(client: httpx.Client, name: str) -> None:
    """azure.md section 5.4: hidden from list results, still addressable; /v2 as well."""
    subject = push_image(client, name, "v1")
    signature = image(client, name, [b"signature"], subject=_subject(subject))
    signed = digest_of(encoded(signature))
    put_manifest(client, name, signed, signature)
    hide = {"listEnabled": False}
    for path in (name, f"{name}/_tags/v1", f"{name}/_manifests/{signed}"):
        assert client.patch(f"/acr/v1/{path}", json=hide).status_code == 200
    for catalog in ("/v2/_catalog", "/acr/v1/_catalog"):
        assert name not in (client.get(f"{catalog}?n=1000").json()["repositories"] or [])
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == []
    assert shown(client, f"{name}/_tags")["tags"] is None
    # Its only tag is hidden, but it is no orphan.
    assert tags_by_digest(client, name) == {subject: []}
    assert client.get(f"/v2/{name}/referrers/{subject}").json()["manifests"] == []
    for path in (name, f"{name}/_tags/v1", f"{name}/_manifests/{signed}"):
        shown(client, path)
    for reference in ("v1", signed):
        assert client.get(f"/v2/{name}/manifests/{reference}").status_code == 200
