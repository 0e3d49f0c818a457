"""`ullage plan`, `apply`, `usage` and `why` on a real server (deletion.md section 4)."""

import json
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image

pytestmark = pytest.mark.usefixtures("here")


def answer(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


def test_a_plan_is_shown_and_carried_out(ullage: Ullage, client: httpx.Client, name: str) -> None:
    """Predicted, then freed, to the byte."""
    digest = push_image(client, name, "v1", (b"base", b"only in v1"))
    push_image(client, name, "v2", (b"base", b"v2"))
    done = ullage("plan", "--image", f"{name}:v1")
    made = answer(done)
    assert made["freed_bytes"] == len(b"only in v1")
    assert [(item["digest"], item["why"]) for item in made["items"]] == [(digest, "asked")]
    assert "Frees 10 B (10 bytes)" in done.err
    table = ullage("plan", "--image", f"{name}:v1", "-o", "table", "--all").out
    assert "asked for" in table
    explained = answer(ullage("plan", "--image", f"{name}:v1", "--explain", digest))
    assert explained["items"][0]["tags"] == ["v1"]
    done = ullage("apply", made["id"], "--yes")
    assert answer(done)["freed_bytes"] == made["freed_bytes"]
    assert client.get(f"/v2/{name}/manifests/v1").status_code == 404
    assert client.get(f"/v2/{name}/manifests/v2").status_code == 200


def test_a_plan_that_is_out_of_date_says_what_changed(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    old = push_image(client, name, "v1", (b"old",))
    push_image(client, name, "v2", (b"two",))
    made = answer(ullage("plan", "--image", f"{name}:v1"))
    push_image(client, name, "v1", (b"new",))
    done = ullage("apply", made["id"], "--yes")
    assert (done.code, done.out) == (1, "")
    assert f"{name}@{old} would not go" in done.err
    assert "allow_smaller" in done.err
    done = ullage("apply", made["id"], "--yes", "--allow-smaller")
    assert answer(done)["manifest_count"] == 0


def test_whole_repositories_are_planned(ullage: Ullage, client: httpx.Client, name: str) -> None:
    for part in ("a", "b"):
        push_image(client, f"{name}-{part}", "v1", (name.encode() + part.encode(),))
    line = ("--repository", f"{name}-a", "--repository", f"{name}-b")
    made = answer(ullage("plan", *line))
    assert made["manifest_count"] == 2
    assert made["freed_bytes"] >= 2 * len(name)


def test_what_does_not_exist_is_not_found(ullage: Ullage, name: str) -> None:
    for line in (
        ("plan", "--image", f"{name}:v1"),
        ("apply", "0" * 32, "--yes"),
        ("usage", "--repository", name),
        ("why", "sha256:" + "0" * 64),
    ):
        done = ullage(*line)
        assert (done.code, done.out) == (3, ""), done


def test_the_bill_adds_up(ullage: Ullage, client: httpx.Client, name: str) -> None:
    """harbor#19712: what is shown is what is on the disk, and `--check` proves it."""
    push_image(client, name, "v1", (b"layer of " + name.encode(),))
    data = answer(ullage("usage", "--check"))
    assert data["registry"]["unexplained_bytes"] == 0
    shares = sum(entry["fair_share_bytes"] for entry in data["entries"])
    sums = data["registry"]
    parts = ("tagged_bytes", "untagged_bytes", "leased_bytes")
    assert shares == sum(sums[part] for part in parts)
    table = ullage("usage", "-o", "table", "--top", "10000").out
    assert "(on the disk)" in table
    assert name in table
    (tag,) = answer(ullage("usage", "--repository", name, "--by", "tag"))["entries"]
    assert tag["tag"] == "v1"
    assert "v1" in ullage("usage", "--repository", name, "--by", "image", "-o", "table").out


def test_the_lines_of_a_repository_come_in_an_order_and_in_pages(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    """ui.md section 6, G2; over all of them, not over a page."""
    for tag, size in (("v10", 10), ("v9", 3000), ("v1", 200), ("other", 5)):
        push_image(client, name, tag, (tag.encode() * size,))

    def tags(*line: str) -> list[str]:
        asked = ("usage", "--repository", name, "--by", "tag", *line)
        return [entry["tag"] for entry in answer(ullage(*asked))["entries"]]

    assert tags("--sort", "size") == ["v9", "v1", "v10", "other"]
    assert tags("--sort", "tag", "--match", "v") == ["v1", "v9", "v10"]
    assert tags("--sort", "tag", "--top", "2") == ["other", "v1"]
    path = f"/api/v1/usage?repository={name}&by=tag&sort=tag&q=v&n=2"
    first = client.get(path)
    assert [entry["tag"] for entry in first.json()["entries"]] == ["v1", "v9"]
    assert first.json()["omitted"] == 1
    then = client.get(first.links["next"]["url"])
    assert [entry["tag"] for entry in then.json()["entries"]] == ["v10"]
    assert "next" not in then.links
    for wrong in (f"repository={name}&by=tag&sort=pushed", "sort=size", "q=v"):
        assert client.get(f"/api/v1/usage?{wrong}").json()["errors"][0]["code"] == "VALUE_INVALID"


def test_what_has_a_text_in_its_name_is_found(
    ullage: Ullage, client: httpx.Client, name: str
) -> None:
    digest = push_image(client, name, "v1", (b"found",))
    assert answer(ullage("search", name)) == [{"repository": name}]
    tag = {"repository": name, "tag": "v1", "digest": digest}
    assert answer(ullage("search", f"{name}:v")) == [tag]
    assert name in ullage("search", digest, "-o", "table").out
    assert answer(ullage("search", "no such name")) == []


def test_why_says_who_holds_a_layer(ullage: Ullage, client: httpx.Client, name: str) -> None:
    digest = push_image(client, name, "v1", (b"held by " + name.encode(),))
    layer = client.get(f"/v2/{name}/manifests/v1").json()["layers"][0]["digest"]
    done = ullage("why", layer)
    assert answer(done)["blob"]["held_by"] == [
        {"digest": digest, "repository": name, "tags": ["v1"]}
    ]
    assert done.err == "held by 1 manifest\n"
    shown = ullage("why", digest, "-o", "table").out
    assert shown.split()[:2] == ["Repository", "HeldBy"]
    assert "tag v1" in shown
