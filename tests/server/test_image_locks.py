"""`/api/v1/locks` over HTTP (docs/reference/api.md)."""

import json
from typing import Any

import httpx
import pytest

from tests.server.pushing import push_image, refused

LOCKS = "/api/v1/locks"


def test_a_lock_is_placed_listed_met_and_lifted(client: httpx.Client) -> None:
    digest = push_image(client, "locks/app", "v1", (b"locked",))
    body = {"repository": "locks/app", "tag": "v1", "reason": "audit", "owner": "ops"}
    placed = client.post(LOCKS, json=body | {"until": "2999-01-01"})
    assert placed.status_code == 201
    assert placed.json() == body | {
        "id": placed.json()["id"],
        "digest": None,
        "until": "2999-01-01T00:00:00+00:00",
        "created": placed.json()["created"],
    }
    listed = client.get(LOCKS, params={"repository": "locks/app"}).json()
    assert listed == {"locks": [placed.json()]}
    said = "held by ops until 2999-01-01T00:00:00+00:00: audit"
    for path in (f"/v2/locks/app/manifests/{digest}", "/v2/locks/app/manifests/v1"):
        answer = client.delete(path)
        # The one refusal that az and acr-cli both handle.
        assert refused(answer) == (405, "REGISTRY_DISALLOWED_OPERATION")
        assert said in answer.text
    assert client.delete("/acr/v1/locks/app").status_code == 405
    # Attributes stay what they are: the lock is no attribute.
    shown = client.get("/acr/v1/locks/app/_tags/v1").json()["tag"]["changeableAttributes"]
    assert shown["deleteEnabled"] is True
    lifted = client.delete(LOCKS, params={"repository": "locks/app", "tag": "v1"})
    assert (lifted.status_code, lifted.json()) == (200, listed)
    assert client.delete(f"/v2/locks/app/manifests/{digest}").status_code == 202


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "NAME_INVALID")),
        ({"repository": "locks/absent", "reason": "x"}, (404, "NAME_UNKNOWN")),
        ({"repository": "locks/b", "tag": "v9", "reason": "x"}, (404, "MANIFEST_UNKNOWN")),
        ({"repository": "locks/b", "digest": DIGEST, "reason": "x"}, (404, "MANIFEST_UNKNOWN")),
        ({"repository": "locks/b", "tag": "v1", "digest": DIGEST}, (400, "PLAN_INVALID")),
        ({"repository": "locks/b", "tag": "-", "reason": "x"}, (400, "TAG_INVALID")),
        ({"repository": "locks/b"}, (400, "VALUE_INVALID")),
        ({"repository": "locks/b", "reason": 1}, (400, "PLAN_INVALID")),
        ({"repository": "locks/b", "reason": "x", "untill": "1d"}, (400, "PLAN_INVALID")),
        ({"repository": "locks/b", "reason": "x", "until": "soon"}, (400, "VALUE_INVALID")),
        ({"repository": "locks/b", "reason": "x", "until": "2001-01-01"}, (400, "VALUE_INVALID")),
    ],
    ids=json.dumps,
)
def test_what_is_not_understood_locks_nothing(
    client: httpx.Client, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    push_image(client, "locks/b", "v1", (b"b",))
    assert refused(client.post(LOCKS, json=body)) == expected
    assert client.get(LOCKS, params={"repository": "locks/b"}).json() == {"locks": []}
    nothing = client.delete(LOCKS, params={"repository": "locks/b"})
    assert refused(nothing) == (404, "LOCK_UNKNOWN")
