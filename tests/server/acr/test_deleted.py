"""Soft-deleted artifacts over HTTP: azure.md section 2.9, and what only this registry can do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.server.pushing import (
    encoded,
    error_code,
    image,
    index_of,
    push_image,
    put_manifest,
    refused,
)
from tests.support.postgres import PostgresServer
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of

pytestmark = pytest.mark.thorough

DELETED, POLICY = "/api/v1/deleted", "/api/v1/policies/soft-delete"
OPERATION = "Ullage-Operation"
DIGEST = "sha256:" + "0" * 64
_numbers = itertools.count()


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)
def soft(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a server with soft delete on."""
    with ExitStack() as stack:
        extra: tuple[str, ...] = ()
        if request.param == "postgresql":
            postgres: PostgresServer = request.getfixturevalue("postgres_server")
            extra = ("--database", stack.enter_context(postgres.fresh_database()))
        data = tmp_path_factory.mktemp("soft") / "data"
        server = stack.enter_context(UllageServer(data, *extra))
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=30))
        assert client.patch(POLICY, json={"status": "enabled"}).status_code == 200
        yield client
        server.assert_no_500()


@pytest.fixture
def name() -> str:
    return f"soft/app-{next(_numbers)}"


def delete(client: httpx.Client, name: str, reference: str) -> str:
    answer = client.delete(f"/v2/{name}/manifests/{reference}")
    assert answer.status_code == 202
    return str(answer.headers[OPERATION])


def listed(client: httpx.Client, path: str, key: str) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    answer = client.get(path)
    while True:
        assert answer.status_code == 200, answer.text
        found += answer.json()[key] or []
        if "link" not in answer.headers:
            return found
        answer = client.get(answer.headers["link"].partition("<")[2].partition(">")[0])


def test_every_way_to_delete_names_the_operation(soft: httpx.Client, name: str) -> None:
    for tag in ("v1", "v2", "v3", "keep"):
        push_image(soft, name, tag, (tag.encode(),))
    ways = (
        soft.delete(f"/v2/{name}/manifests/v1"),
        soft.delete(f"/acr/v1/{name}/_tags/v2"),
        soft.delete(f"/acr/v1/{name}"),
    )
    ids = {answer.headers[OPERATION] for answer in ways}
    assert [answer.status_code for answer in ways] == [202] * 3
    assert len(ids) == 3
    operations = {each["id"]: each for each in listed(soft, f"{DELETED}?n=2", "operations")}
    assert ids <= operations.keys()
    kinds = [operations[answer.headers[OPERATION]]["kind"] for answer in ways]
    assert kinds == ["tag.delete", "tag.delete", "repository.delete"]


def test_the_lists_that_az_reads(soft: httpx.Client, name: str) -> None:
    digests = [push_image(soft, name, f"v{n}", (b"layer %d" % n,)) for n in range(3)]
    assert soft.get(f"/acr/v1/_deleted/{name}/_tags").json() == {"tags": None}
    assert soft.get(f"/acr/v1/_deleted/{name}/_manifests").json() == {"manifests": None}
    for digest in digests:
        delete(soft, name, digest)
    encoded_name = name.replace("/", "%2F")
    manifests = listed(soft, f"/acr/v1/_deleted/{encoded_name}/_manifests?n=2", "manifests")
    assert [each["digest"] for each in manifests] == digests
    tags = listed(soft, f"/acr/v1/_deleted/{name}/_tags?n=2", "tags")
    assert [(each["tag"], each["digest"]) for each in tags] == [
        (f"v{n}", digest) for n, digest in enumerate(digests)
    ]
    assert all(
        each[when].endswith("0Z")
        for each in (*manifests, *tags)
        for when in ("createdAt", "deletedAt", "expiresAfter")
    )
    names = listed(soft, "/acr/v1/_deleted/_catalog?n=1", "repositories")
    assert name in [each["repository"] for each in names]
    push_image(soft, name, "again", (b"again",))
    names = listed(soft, "/acr/v1/_deleted/_catalog", "repositories")
    assert name not in [each["repository"] for each in names]


@pytest.mark.parametrize("force", ["False", "false", ""])
def test_restoring_a_tag(soft: httpx.Client, name: str, force: str) -> None:
    digest = push_image(soft, name, "v1", (b"one",))
    delete(soft, name, digest)
    path = f"/acr/v1/_deleted/{name}/_manifests/{digest}?force={force}"
    assert soft.post(path, json={"tag": "v1"}).status_code == 200
    assert soft.get(f"/v2/{name}/manifests/v1").headers["Docker-Content-Digest"] == digest
    assert soft.post(path, json={"tag": "v1"}).status_code == 404


def test_restoring_over_a_tag_that_is_there_takes_force(soft: httpx.Client, name: str) -> None:
    old = push_image(soft, name, "v1", (b"old",))
    delete(soft, name, old)
    push_image(soft, name, "v1", (b"new",))
    path = f"/acr/v1/_deleted/{name}/_manifests/{old}"
    assert refused(soft.post(f"{path}?force=False", json={"tag": "v1"})) == (
        409,
        "RESTORE_CONFLICT",
    )
    assert soft.post(f"{path}?force=True", json={"tag": "v1"}).status_code == 200
    assert soft.get(f"/v2/{name}/manifests/v1").headers["Docker-Content-Digest"] == old
    # azure.md section 5.5: the one that was overwritten is listed as deleted.
    (tag,) = listed(soft, f"/acr/v1/_deleted/{name}/_tags", "tags")
    assert tag["tag"] == "v1"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"tag": null}'])
def test_a_manifest_by_digest_comes_back_with_all_its_tags(
    soft: httpx.Client, name: str, body: bytes
) -> None:
    digest = push_image(soft, name, "v1", (b"one",))
    push_image(soft, name, "v2", (b"one",))
    delete(soft, name, digest)
    answer = soft.post(f"/acr/v1/_deleted/{name}/_manifests/{digest}", content=body)
    assert answer.json()["tagsRestored"] == 2
    assert soft.get(f"/v2/{name}/tags/list").json()["tags"] == ["v1", "v2"]


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"[", 400), (b'{"tag": 1}', 400), (b'{"tag": "-"}', 400), (b'{"tag": "nope"}', 404)],
)
def test_what_is_not_understood_restores_nothing(
    soft: httpx.Client, name: str, content: bytes, status: int
) -> None:
    digest = push_image(soft, name, "v1", (b"one",))
    delete(soft, name, digest)
    path = f"/acr/v1/_deleted/{name}/_manifests/{digest}"
    assert soft.post(path, content=content).status_code == status
    assert soft.get(f"/v2/{name}/manifests/v1").status_code == 404


def test_what_there_is_not_is_404(soft: httpx.Client, name: str) -> None:
    assert error_code(soft.get(f"/acr/v1/_deleted/{name}/_tags")) == "NAME_UNKNOWN"
    assert error_code(soft.get(f"/acr/v1/_deleted/{name}/_manifests")) == "NAME_UNKNOWN"
    lost = soft.post(f"/acr/v1/_deleted/{name}/_manifests/{DIGEST}", json={"tag": "v1"})
    assert refused(lost) == (404, "NAME_UNKNOWN")
    for method, path in (
        ("GET", f"{DELETED}/{'0' * 32}"),
        ("DELETE", f"{DELETED}/{'0' * 32}"),
        ("POST", f"{DELETED}/{'0' * 32}/restore"),
        ("GET", f"{DELETED}/nonsense"),
    ):
        assert refused(soft.request(method, path)) == (404, "OPERATION_UNKNOWN")


def test_an_operation_is_shown_restored_and_freed(soft: httpx.Client, name: str) -> None:
    made = [image(soft, name, (data,)) for data in (b"amd64" * 9, b"arm64" * 9)]
    platforms = [digest_of(encoded(each)) for each in made]
    for each, platform in zip(made, platforms, strict=True):
        put_manifest(soft, name, platform, each)
    put_manifest(soft, name, "multi", index_of(soft, name, platforms))
    digest = soft.get(f"/v2/{name}/manifests/multi").headers["Docker-Content-Digest"]
    before = soft.get(f"/acr/v1/{name}/_manifests").json()["manifests"]
    operation = delete(soft, name, digest)
    shown = soft.get(f"{DELETED}/{operation}").json()
    assert (shown["manifest_count"], shown["tag_count"], shown["target"]) == (3, 1, digest)
    assert shown["exclusive_bytes"] >= 90
    assert soft.get(f"/v2/{name}/manifests/multi").status_code == 404
    done = soft.post(f"{DELETED}/{operation}/restore", json={"force": False})
    assert done.status_code == 200
    assert done.json()["repositories"] == [name]
    after = soft.get(f"/acr/v1/{name}/_manifests").json()["manifests"]
    assert [(m["digest"], m["tags"]) for m in after] == [(m["digest"], m["tags"]) for m in before]
    operation = delete(soft, name, digest)
    freed = soft.delete(f"{DELETED}/{operation}")
    assert (freed.status_code, freed.json()["freed_bytes"]) == (202, shown["exclusive_bytes"])
    assert soft.get(f"{DELETED}/{operation}").status_code == 404
    assert soft.delete(f"{DELETED}?repository={name}").json()["operations"] == []


def test_a_conflict_is_told_before_anything_comes_back(soft: httpx.Client, name: str) -> None:
    push_image(soft, name, "v1", (b"one",))
    push_image(soft, name, "v2", (b"two",))
    operation = soft.delete(f"/acr/v1/{name}").headers[OPERATION]
    new = push_image(soft, name, "v2", (b"new",))
    answer = soft.post(f"{DELETED}/{operation}/restore")
    assert refused(answer) == (409, "RESTORE_CONFLICT")
    assert answer.json()["errors"][0]["detail"]["tags"][0]["digest"] == new
    assert soft.get(f"/v2/{name}/tags/list").json()["tags"] == ["v2"]
    done = soft.post(f"{DELETED}/{operation}/restore", json={"force": True}).json()
    assert done["overwritten"] == [f"{name}:v2"]
    assert soft.get(f"/v2/{name}/tags/list").json()["tags"] == ["v1", "v2"]


def test_the_bill_and_why_say_soft_deleted(soft: httpx.Client, name: str) -> None:
    push_image(soft, name, "keep", (b"keep",))
    digest = push_image(soft, name, "v1", (b"gone",))
    operation = delete(soft, name, digest)
    bill = soft.get("/api/v1/usage?check=true").json()
    sums = bill["registry"]
    assert sums["unexplained_bytes"] == 0
    kinds = ("tagged", "untagged", "leased", "soft_deleted", "uploading", "pending")
    assert sum(sums[f"{kind}_bytes"] for kind in kinds) == sums["disk_bytes"]
    assert sums["soft_deleted_bytes"] > 0
    assert operation in [entry["operation"] for entry in bill["entries"]]
    until = soft.get(f"{DELETED}/{operation}").json()["until"]
    said = soft.get(f"/api/v1/why/{digest}").json()
    assert said["because"] == f"nothing: soft-deleted until {until}"
    assert said["manifest"][0]["operation"] == operation


@pytest.mark.parametrize(
    "change",
    [
        {"retentionDays": 0},
        {"retentionDays": 91},
        {"retentionDays": "7"},
        {"retentionDays": True},
        {"status": "on"},
        {"status": 1},
        {"enabled": True},
    ],
)
def test_a_policy_that_is_not_understood_changes_nothing(
    soft: httpx.Client, change: dict[str, Any]
) -> None:
    before = soft.get(POLICY).json()
    assert soft.patch(POLICY, json=change).status_code == 400
    assert soft.get(POLICY).json() == before


def test_the_policy_in_az_s_shape(soft: httpx.Client) -> None:
    """azure.md section 3.5."""
    changed = soft.patch(POLICY, json={"retentionDays": 30}).json()
    assert (changed["status"], changed["retentionDays"]) == ("enabled", 30)
    assert changed.keys() == {"status", "retentionDays", "lastUpdatedTime"}
    assert soft.patch(POLICY, json={"retentionDays": 7}).json()["retentionDays"] == 7
