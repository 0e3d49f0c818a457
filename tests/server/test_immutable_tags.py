"""`/api/v1/policies/immutable-tags` over HTTP (docs/reference/api.md), and what clients meet."""

import json
from typing import Any

import httpx
import pytest

from tests.server.pushing import push_image, refused

RULES = "/api/v1/policies/immutable-tags"


def test_a_rule_is_set_listed_met_and_removed(client: httpx.Client) -> None:
    digest = push_image(client, "rules/app", "v1", (b"one",))
    image = client.get(f"/v2/rules/app/manifests/{digest}")
    other = client.get(f"/v2/rules/app/manifests/{push_image(client, 'rules/app', 'x', (b'x',))}")
    rule = {"pattern": "rules/*:v*", "except": ["v*-rc*"]}
    done = client.post(RULES, json=rule)
    assert (done.status_code, done.json()) == (200, rule)
    assert client.get(RULES).json() == {"rules": [rule]}

    def put(tag: str, manifest: httpx.Response) -> httpx.Response:
        kind = {"Content-Type": manifest.headers["content-type"]}
        path = f"/v2/rules/app/manifests/{tag}"
        return client.put(path, content=manifest.content, headers=kind)

    said = "tag 'v1' is immutable by the rule 'rules/*:v*'"
    answers = [
        put("v1", other),
        client.delete("/v2/rules/app/manifests/v1"),
        client.delete(f"/v2/rules/app/manifests/{digest}"),
        client.delete("/acr/v1/rules/app"),
        client.delete("/acr/v1/rules/app/_tags/v1"),
    ]
    for answer in answers:
        # The one refusal that az and acr-cli both handle; others show its message.
        assert refused(answer) == (405, "REGISTRY_DISALLOWED_OPERATION")
        assert said in answer.json()["errors"][0]["message"]
    assert put("v1", image).status_code == 201
    assert put("v1-rc1", image).status_code == 201
    assert put("v1-rc1", other).status_code == 201
    # azure.md section 5.4: what az has set is what it shows.
    shown = client.get("/acr/v1/rules/app/_tags/v1").json()["tag"]["changeableAttributes"]
    assert shown["writeEnabled"] is True
    removed = client.delete(RULES, params={"pattern": "rules/*:v*"})
    assert (removed.status_code, removed.json()) == (200, rule)
    assert refused(client.delete(RULES, params={"pattern": "rules/*:v*"})) == (404, "LOCK_UNKNOWN")
    assert put("v1", other).status_code == 201
    assert client.get(RULES).json() == {"rules": []}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"pattern": "app"},
        {"pattern": 1},
        {"pattern": ""},
        {"pattern": "a:b", "except": "v1"},
        {"pattern": "a:b", "except": [""]},
        {"pattern": "a:b", "except": ["x"] * 21},
        {"pattern": "a:b", "excepts": []},
        {"pattern": "a:b" * 200},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_what_is_not_understood_is_no_rule(client: httpx.Client, body: dict[str, Any]) -> None:
    assert refused(client.post(RULES, json=body)) == (400, "VALUE_INVALID")
    assert client.get(RULES).json() == {"rules": []}
