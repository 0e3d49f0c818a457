"""`/api/v1/policies/` and `/api/v1/retention/` over HTTP (docs/reference/api.md)."""

from typing import Any

import httpx
import pytest

from tests.server.pushing import push_image, refused

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "policies/pullers", {"ignored": ["nobody"]}),
        ("PUT", "policies/pullers", {"patterns": [{"agent": "(", "class": "node"}]}),
        ("PUT", "policies/retention", {"rules": [{"tags": "x"}]}),
        ("PUT", "policies/retention", {"rules": [{"tags": "(", "older_than": "1d"}]}),
        ("PUT", "policies/retention", {"rule": []}),
        ("PATCH", "policies/untagged", {"days": 366}),
        ("PATCH", "policies/untagged", {"days": "7"}),
        ("PATCH", "policies/untagged", {"status": "on"}),
        ("PATCH", "policies/untagged", {"status": 1}),
        ("PATCH", "policies/untagged", {"retentionDays": 1}),
        ("POST", "retention/runs", {"dryrun": True}),
        ("POST", "retention/runs", {"dry_run": "yes"}),
        ("POST", "retention/test", {"since": "401d"}),
        ("POST", "retention/test", {"since": 1}),
        ("POST", "retention/test", {"rules": {}}),
        ("POST", "retention/test", {"rules": [{"tags": "(", "older_than": "1d"}]}),
        ("GET", "retention/explain", None),
        ("GET", "retention/explain?repository=a", None),
        ("GET", f"retention/explain?repository=a&tag=b&digest={DIGEST}", None),
        ("GET", "retention/explain?repository=a&digest=b", None),
        ("GET", "retention/explain?repository=A&tag=b", None),
    ],
)
def test_what_is_not_understood_is_refused(
    client: httpx.Client, method: str, path: str, body: dict[str, Any] | None
) -> None:
    response = client.request(method, f"/api/v1/{path}", json=body)
    assert refused(response)[0] == 400
    assert client.get("/api/v1/policies/retention").json()["rules"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "policies/pullers"),
        ("PUT", "policies/retention"),
        ("PATCH", "policies/untagged"),
        ("PATCH", "policies/soft-delete"),
        ("POST", "retention/runs"),
        ("POST", "retention/test"),
        ("POST", "check"),
    ],
)
@pytest.mark.parametrize("body", ["[]", "{", '{"days": "x", "since": 1, "dry_run": 2}'])
def test_what_is_no_plan_is_not_refused_as_one(
    client: httpx.Client, method: str, path: str, body: str
) -> None:
    response = client.request(
        method, f"/api/v1/{path}", content=body, headers={"Content-Type": "application/json"}
    )
    assert refused(response) == (400, "VALUE_INVALID")


def test_a_run_is_a_job(client: httpx.Client) -> None:
    response = client.post("/api/v1/retention/runs", json={"dry_run": True})
    assert response.status_code == 202
    job = client.get(response.headers["location"]).json()
    assert (job["kind"], job["request"]["dry_run"]) == ("retention", True)


def test_a_pull_is_a_get_of_a_manifest(client: httpx.Client, name: str) -> None:
    """Pulling by digest counts; looking with HEAD does not."""
    digest = push_image(client, name, "v1", (b"pulled",))
    node = {"User-Agent": "containerd/2.0.0"}

    def last() -> Any:
        return client.get(f"/api/v1/why/{digest}").json()["manifest"][0]["last_pull"]

    for reference in ("v1", digest):
        client.head(f"/v2/{name}/manifests/{reference}", headers=node)
    assert client.get(f"/v2/{name}/manifests/v2", headers=node).status_code == 404
    assert last() is None
    client.get(f"/v2/{name}/manifests/{digest}", headers=node)
    assert (last()["by"], last()["counts"]) == ("node", True)
