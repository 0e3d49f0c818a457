"""`/api/v1/` over HTTP: plans and the bill (docs/reference/api.md)."""

import json
from typing import Any

import httpx
import pytest

from tests.server.pushing import push_image, refused

PLANS = "/api/v1/plans"
JSON = {"Content-Type": "application/json"}
DIGEST = "sha256:" + "0" * 64


def test_a_plan_has_an_address_and_pages(client: httpx.Client) -> None:
    digests = {push_image(client, "plans/pages", f"v{n}", (b"layer %d" % n,)) for n in range(5)}
    response = client.post(f"{PLANS}?n=2", json={"repositories": ["plans/pages"]})
    made = response.json()
    assert (response.status_code, response.headers["location"]) == (201, f"{PLANS}/{made['id']}")
    assert made["manifest_count"] == 5
    seen, page = list(made["items"]), response
    while "link" in page.headers:
        page = client.get(page.headers["link"].partition("<")[2].partition(">")[0])
        seen += page.json()["items"]
    assert {item["digest"] for item in seen} == digests
    assert len(seen) == 5
    whole = client.get(response.headers["location"]).json()
    assert whole == made | {"items": seen}


def test_a_plan_is_applied_and_answers_the_same_again(client: httpx.Client) -> None:
    push_image(client, "plans/apply", "v1", (b"applied",))
    made = client.post(PLANS, json={"repository": "plans/apply", "tags": ["v1"]}).json()
    path = f"{PLANS}/{made['id']}/apply"
    first = client.post(path)
    assert first.status_code == 200
    assert first.json()["freed_bytes"] == made["freed_bytes"] >= len(b"applied")
    assert client.post(path, json={"allow_smaller": True}).json() == first.json()
    assert client.get("/v2/plans/apply/tags/list").status_code == 404


def test_a_difference_and_a_rail_are_conflicts(client: httpx.Client) -> None:
    push_image(client, "plans/conflict", "v1", (b"one",))
    wanted: dict[str, Any] = {"repository": "plans/conflict", "tags": ["v1"]}
    old = client.post(PLANS, json=wanted).json()["id"]
    computed = client.post(PLANS, json=wanted | {"computed": True}).json()["id"]
    stopped = client.post(f"{PLANS}/{computed}/apply")
    assert refused(stopped) == (409, "PLAN_REFUSED")
    assert "only-tag" in stopped.json()["errors"][0]["detail"]["allow"]
    push_image(client, "plans/conflict", "v1", (b"two",))
    changed = client.post(f"{PLANS}/{old}/apply")
    assert refused(changed) == (409, "PLAN_CHANGED")
    assert changed.json()["errors"][0]["detail"]["smaller"] is True


NOT_UNDERSTOOD: tuple[dict[str, Any], ...] = (
    {},
    {"repository": "app"},
    {"digests": [DIGEST]},
    {"repository": "app", "repositories": ["app"], "tags": ["v1"]},
    {"repositories": []},
    {"repositories": "app"},
    {"repositories": [1]},
    {"repositories": ["app"], "tags": ["v1"]},
    {"repository": 1, "tags": ["v1"]},
    {"repositories": ["app"], "force": True},
    {"repositories": ["app"], "computed": "no"},
    {"repositories": ["app"], "caps": []},
    {"repositories": ["app"], "caps": {"max_byte": 1}},
    {"repositories": ["app"], "caps": {"max_manifests": -1}},
    {"repositories": ["app"], "caps": {"max_manifests": True}},
    {"repositories": ["app"] * 1001},
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        *((body, (400, "PLAN_INVALID")) for body in ("", "[]", "{", '{"a": 1, "a": 2}', "null")),
        *((json.dumps(body), (400, "PLAN_INVALID")) for body in NOT_UNDERSTOOD),
        ('{"repositories": ["app"], "caps": {"max_bytes": "10 GX"}}', (400, "VALUE_INVALID")),
        ('{"repositories": ["App"]}', (400, "NAME_INVALID")),
        ('{"repository": "app", "tags": ["-"]}', (400, "TAG_INVALID")),
        ('{"repository": "app", "digests": ["md5:1"]}', (400, "DIGEST_INVALID")),
        ('{"repositories": ["plans/absent"]}', (404, "NAME_UNKNOWN")),
        ('{"repositories": ["' + "a" * 2**20 + '"]}', (413, "UNSUPPORTED")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_request_that_is_not_understood_plans_nothing(
    client: httpx.Client, body: str, expected: tuple[int, str]
) -> None:
    """A misspelt word must not mean "without it" where something is deleted."""
    assert refused(client.post(PLANS, content=body, headers=JSON)) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", f"{PLANS}/{'0' * 32}", (404, "PLAN_UNKNOWN")),
        ("GET", f"{PLANS}/no-such", (404, "PLAN_UNKNOWN")),
        ("POST", f"{PLANS}/{'0' * 32}/apply", (404, "PLAN_UNKNOWN")),
        ("DELETE", f"{PLANS}/{'0' * 32}", (405, "UNSUPPORTED")),
        ("GET", "/api/v1/usage?by=colour", (400, "VALUE_INVALID")),
        ("GET", "/api/v1/usage?by=tag", (400, "VALUE_INVALID")),
        ("GET", "/api/v1/usage?top=-1", (400, "VALUE_INVALID")),
        ("GET", "/api/v1/usage?repository=A", (400, "NAME_INVALID")),
        ("GET", "/api/v1/usage?repository=usage/absent", (404, "NAME_UNKNOWN")),
        ("GET", "/api/v1/usage?repository=usage/absent&by=namespace", (400, "VALUE_INVALID")),
        ("GET", f"/api/v1/why/{DIGEST}", (404, "BLOB_UNKNOWN")),
        ("GET", "/api/v1/why/latest", (400, "DIGEST_INVALID")),
    ],
)
def test_what_there_is_not_and_what_nobody_understands(
    client: httpx.Client, method: str, path: str, expected: tuple[int, str]
) -> None:
    assert refused(client.request(method, path)) == expected


def test_the_bill_is_cut_to_the_top(client: httpx.Client) -> None:
    for name in ("usage/a", "usage/b", "usage/c"):
        push_image(client, name, "v1", (name.encode(),))
    bill = client.get("/api/v1/usage", params={"top": 2, "check": "true"}).json()
    assert len(bill["entries"]) == 2
    assert bill["omitted"] >= 1
    assert bill["registry"]["unexplained_bytes"] == 0
    spaces = client.get("/api/v1/usage", params={"by": "namespace"}).json()
    assert "usage" in [entry["name"] for entry in spaces["entries"]]
