"""`ullage restore`, `deleted`, `purge --deleted`, `config soft-delete` and az's commands beside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image
from tests.support.server import UllageServer

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def soft_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A server with soft delete on."""
    with UllageServer(tmp_path_factory.mktemp("soft") / "data") as server:
        enabled = {"status": "enabled"}
        httpx.patch(f"{server.url}/api/v1/policies/soft-delete", json=enabled).raise_for_status()
        yield server
        server.assert_no_500()


@pytest.fixture
def client(soft_server: UllageServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("ULLAGE_REGISTRY", soft_server.host)
    with httpx.Client(base_url=soft_server.url, timeout=30) as client:
        yield client


def answer(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


def digest_of(client: httpx.Client, name: str, tag: str) -> str | None:
    answer = client.get(f"/v2/{name}/manifests/{tag}")
    found: str | None = answer.headers.get("Docker-Content-Digest")
    return found


def test_a_deleted_repository_is_listed_shown_and_restored(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    digest = push_image(client, name, "v1", (b"layer",))
    assert ullage("repository", "delete", "--repository", name, "--yes").code == 0
    (operation, *_) = answer(ullage("deleted", "list"))
    assert [part["repository"] for part in operation["repositories"]] == [name]
    assert name in ullage("deleted", "list", "-o", "table").out
    shown = answer(ullage("deleted", "show", operation["id"]))
    assert shown["until"] == operation["until"]
    deleted = answer(ullage("repository", "list-deleted"))
    assert name in [each["repository"] for each in deleted]
    done = ullage("restore", operation["id"])
    assert answer(done)["repositories"] == [name]
    assert f"Restored 1 manifest and 1 tag in {name}.\n" in done.err
    assert digest_of(client, name, "v1") == digest
    assert ullage("restore", operation["id"]).code == 3


def test_a_tag_that_is_taken_is_overwritten_with_force_only(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    old = push_image(client, name, "v1", (b"old",))
    ullage("repository", "delete", "--image", f"{name}:v1", "--yes")
    (operation, *_) = answer(ullage("deleted", "list", "--top", "1"))
    push_image(client, name, "v1", (b"new",))
    refused = ullage("restore", operation["id"])
    assert (refused.code, refused.out) == (1, "")
    assert "points to something else by now" in refused.err
    assert ullage("restore", operation["id"], "--force").code == 1  # Nobody there to ask.
    forced = ullage("restore", operation["id"], "--force", "--yes")
    by = answer(forced)["overwritten_by"]
    assert f"To have them back: ullage restore {by} --force" in forced.err
    assert digest_of(client, name, "v1") == old


def test_az_s_commands(ullage: Ullage, client: httpx.Client, name: str) -> None:
    """azure.md sections 3.1 and 3.3."""
    digest = push_image(client, name, "v1", (b"layer",))
    push_image(client, name, "v2", (b"layer",))
    ullage("repository", "delete", "--image", f"{name}:v1", "--yes")
    (manifest,) = answer(ullage("manifest", "list-deleted", "--name", name))
    assert manifest["digest"] == digest
    tags = answer(ullage("manifest", "list-deleted-tags", "--name", name))
    assert [(each["tag"], each["digest"]) for each in tags] == [("v1", digest), ("v2", digest)]
    (tag,) = answer(ullage("manifest", "list-deleted-tags", "--name", f"{name}:v2"))
    assert tag["tag"] == "v2"
    assert "v2" in ullage("manifest", "list-deleted-tags", "-n", name, "-o", "table").out
    restored = answer(ullage("manifest", "restore", "--name", f"{name}:v2"))
    assert restored["digest"] == digest
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["v2"]
    lost = ullage("manifest", "restore", "--name", f"{name}:v3")
    assert (lost.code, "No deleted manifests found for tag: v3" in lost.err) == (1, True)
    ullage("manifest", "restore", "--name", f"{name}:v1", "--digest", digest)
    assert client.get(f"/v2/{name}/tags/list").json()["tags"] == ["v1", "v2"]


def test_restoring_one_of_several_asks(ullage: Ullage, client: httpx.Client, name: str) -> None:
    """azure.md section 3.4: the last in the list is the most recently deleted."""
    digests = []
    for content in (b"old", b"new"):
        digests.append(push_image(client, name, "v1", (content,)))
        ullage("repository", "delete", "--image", f"{name}:v1", "--yes")
    assert ullage("manifest", "restore", "--name", f"{name}:v1").code == 1  # Nobody there to ask.
    assert ullage("manifest", "restore", "--name", f"{name}:v1", "--yes").code == 0
    assert digest_of(client, name, "v1") == digests[1]
    assert ullage("manifest", "restore", "-n", f"{name}:v1", "-d", digests[0]).code == 1
    assert ullage("manifest", "restore", "-n", f"{name}:v1", "-d", digests[0], "-f").code == 0
    assert digest_of(client, name, "v1") == digests[0]


def test_a_plan_and_a_purge_say_that_they_can_be_taken_back(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    push_image(client, name, "keep", (b"keep",))
    digest = push_image(client, name, "v1", (b"one", b"of a plan"))
    planned = ullage("plan", "--image", f"{name}:v1")
    until = answer(planned)["restorable_until"]
    said = f"{until[:10]} {until[11:16]}Z"
    assert f"It can be taken back; freed later, at {said}." in planned.err
    plan_id = answer(planned)["id"]
    applied = ullage("apply", plan_id, "--yes")
    assert f"it can be taken back: ullage restore {plan_id}" in applied.err
    assert ullage("restore", plan_id).code == 0
    line = ("purge", "--filter", f"{name}:^v1$", "--ago", "0d", "--untagged")
    purged = ullage(*line)
    assert "Space freed: 0 B (0 bytes), 12 B more later" in purged.out
    last = purged.out.splitlines()[-1]
    assert last.startswith("To take it back: ullage restore ")
    assert ullage("restore", last.rpartition(" ")[2]).code == 0
    assert digest_of(client, name, "v1") == digest


def test_what_was_deleted_is_freed_on_demand(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    push_image(client, name, "keep", (b"keep",))
    for content in (b"first", b"second"):
        push_image(client, name, "v1", (content * 20,))
        ullage("repository", "delete", "--image", f"{name}:v1", "--yes")
    second, first, *_ = answer(ullage("deleted", "list"))
    assert ullage("purge", "--deleted").code == 1  # Nobody there to ask.
    one = ullage("purge", "--deleted", "--operation", first["id"], "--yes")
    assert answer(one)["freed_bytes"] == 100
    assert "Gave up 1 deletions for good, frees 100 B (100 bytes)." in one.err
    rest = answer(ullage("purge", "--deleted", "--yes"))
    assert second["id"] in rest["operations"]
    assert answer(ullage("deleted", "list")) == []
    usage = ullage("usage", "--check")
    assert answer(usage)["registry"]["soft_deleted_bytes"] == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--deleted", "--untagged"),
        ("--deleted", "--filter", "a:b"),
        ("--deleted", "--dry-run"),
        ("--operation", "0" * 32),
    ],
)
def test_what_was_deleted_is_not_mixed_with_what_was_not(
    ullage: Ullage, client: httpx.Client, flags: tuple[str, ...]
) -> None:
    assert ullage("purge", *flags).code == 2


def test_the_policy(ullage: Ullage, client: httpx.Client) -> None:
    """azure.md sections 3.3 and 3.5."""
    shown = answer(ullage("config", "soft-delete", "show"))
    assert (shown["status"], shown["retentionDays"]) == ("enabled", 7)
    update = ("config", "soft-delete", "update")
    assert answer(ullage(*update, "--days", "14"))["retentionDays"] == 14
    fewer = ullage(*update, "--days", "7")
    assert (fewer.code, "--yes" in fewer.err) == (1, True)
    assert answer(ullage(*update, "--days", "7", "--yes"))["retentionDays"] == 7
    assert "Invalid value for days: should be from 1 to 90" in ullage(*update, "--days", "91").err
    off = ullage(*update, "--status", "disabled")
    assert answer(off)["status"] == "disabled"
    assert "WARNING: Disabling soft-delete does not affect purge behavior" in off.err
    assert answer(ullage(*update, "--status", "enabled"))["status"] == "enabled"
