"""`ullage retention`, `ullage pullers` and `ullage config retention` on a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import Done, Ullage
from tests.server.pushing import push_image
from tests.support.server import UllageServer

pytestmark = [pytest.mark.usefixtures("here"), pytest.mark.thorough]


@pytest.fixture(autouse=True)
def unset(server: UllageServer) -> Iterator[None]:
    """Policies are the whole registry's: take them away again."""
    yield
    for policy in ("retention", "pullers"):
        httpx.put(f"{server.url}/api/v1/policies/{policy}", json={}).raise_for_status()
    httpx.patch(f"{server.url}/api/v1/policies/untagged", json={"status": "disabled", "days": 7})


def answer(done: Done) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


def written(folder: Path, text: str) -> str:
    path = folder / "rules.yaml"
    path.write_text(text)
    return str(path)


def tags_of(client: httpx.Client, name: str) -> list[str]:
    return list(client.get(f"/v2/{name}/tags/list").json()["tags"] or [])


def test_rules_are_set_shown_explained_tried_and_run(
    ullage: Ullage, client: httpx.Client, name: str, tmp_path: Path
) -> None:
    digest = push_image(client, name, "pr-1", (b"only in pr-1",))
    for tag in ("v1", "v2"):
        push_image(client, name, tag, (tag.encode(),))
    rules = f"""
    - name: releases
      tags: '^v'
      keep: true
    - name: pull requests
      repositories: {name}
      tags: '^pr-'
      older_than: 0d
    """
    path = written(tmp_path, rules)
    done = ullage("retention", "set", path)
    assert [rule["name"] for rule in answer(done)["rules"]] == ["releases", "pull requests"]
    assert "ullage retention run --dry-run" in done.err
    table = ullage("retention", "show", "-o", "table").out
    assert "delete if older than 0d" in table
    explained = ullage("retention", "explain", f"{name}:v1")
    assert f"{name}:v1 stays, by 'releases': the rule always keeps it." in explained.err
    assert answer(ullage("retention", "explain", f"{name}:pr-1"))["goes"] is True
    assert answer(ullage("retention", "explain", f"{name}@{digest}"))["goes"] is True
    assert ullage("retention", "explain", f"{name}:none").code == 3
    dry = ullage("retention", "run", "--dry-run")
    assert "Would delete 1 manifest and 1 tag" in dry.err
    assert tags_of(client, name) == ["pr-1", "v1", "v2"]
    job = answer(ullage("retention", "run"))
    assert [(item["tag"], item["outcome"]) for item in job["items"]] == [
        ("pr-1", "deleted"),
        (None, "deleted"),
    ]
    assert tags_of(client, name) == ["v1", "v2"]
    report = answer(ullage("retention", "test", path, "--since", "30d"))
    assert (report["tags_deleted"], report["omitted"]) == (0, 0)
    assert "in 0 rep" not in ullage("retention", "test", "-o", "table").err
    shown = ullage("retention", "show").out
    again = written(tmp_path, shown)
    assert answer(ullage("retention", "set", again))["rules"] == json.loads(shown)["rules"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {tags: '(', older_than: 1d}", "missing )"),
        ("- {tags: x, older_then: 1d}", "older_then"),
        ("- {tags: x}", "expected keep, or a condition"),
        ("- {tags: x, older_than: 999999d}", "longer than 100 years"),
        ("3", "expected an object"),
        ("{", "neither JSON nor YAML"),
    ],
)
def test_rules_that_are_not_understood_change_nothing(
    ullage: Ullage, tmp_path: Path, text: str, said: str
) -> None:
    done = ullage("retention", "set", written(tmp_path, text))
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert answer(ullage("retention", "show"))["rules"] == []
    assert ullage("retention", "set", str(tmp_path / "none.yaml")).code == 1


def test_config_retention_is_as_az_has_it(ullage: Ullage) -> None:
    """azure.md sections 3.3 and 3.5."""
    line = ("config", "retention")
    shown = answer(ullage(*line, "show"))
    assert sorted(shown) == ["days", "lastUpdatedTime", "status"]
    assert (shown["days"], shown["status"]) == (7, "disabled")
    update = (*line, "update", "--type", "UntaggedManifests")
    changed = answer(ullage(*update, "--status", "enabled", "--days", "30"))
    assert (changed["days"], changed["status"]) == (30, "enabled")
    assert answer(ullage(*line, "show")) == changed
    for days in ("366", "-1"):
        refused = ullage(*update, "--days", days)
        assert refused.code == 1
        assert "Invalid value for days: should be from 0 to 365" in refused.err
    assert ullage(*line, "update", "--days", "3").code == 2
    assert ullage(*update, "--status", "on").code == 2


def test_pullers_are_shown_and_set(
    ullage: Ullage, client: httpx.Client, name: str, tmp_path: Path
) -> None:
    digest = push_image(client, name, "v1", (name.encode(),))
    policy = '{"patterns": [{"agent": "^ours/", "class": "replication"}]}'
    answer(ullage("pullers", "set", written(tmp_path, policy)))
    table = ullage("pullers", "show", "-o", "table").out.splitlines()
    assert "^ours/" in table[2]
    for agent in ("ours/1", "containerd/2.0"):
        pulled = client.get(f"/v2/{name}/manifests/v1", headers={"User-Agent": agent})
        assert pulled.status_code == 200
    # To look is not to pull.
    client.head(f"/v2/{name}/manifests/v1", headers={"User-Agent": "trivy/1"})
    (place,) = answer(ullage("why", digest))["manifest"]
    assert sorted(place["last_pull"]["classes"]) == ["node", "replication"]
    assert "by: node" in ullage("why", digest, "-o", "table").out
    done = ullage("plan", "--image", f"{name}:v1", "-o", "table", "--all")
    assert "pulled-recently" in done.err
    assert "asked for; pulled" in done.out
    images = ullage("usage", "--repository", name, "--by", "image", "-o", "table").out
    assert "Pulled" in images
