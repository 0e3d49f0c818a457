"""`/api/v1/deployments` over HTTP (docs/reference/api.md)."""

import httpx

from tests.server.pushing import push_image, refused

PATH = "/api/v1/deployments"
DIGEST = "sha256:" + "0" * 64


def test_a_report_is_listed_shown_met_and_forgotten(client: httpx.Client) -> None:
    digest = push_image(client, "deployed/app", "v1", (b"deployed",))
    pod = {"image": "reg/deployed/app:v1", "image_id": f"reg/deployed/app@{digest}"}
    body = {"images": [pod | {"where": "shop/deployment/app"}, {"image": "deployed/later:v1"}]}
    answer = client.put(f"{PATH}/prod", json=body)
    assert answer.status_code == 200
    source = answer.json()["source"]
    assert answer.json() == {"source": source, "added": 2, "left": 0}
    assert source == {
        "source": "prod",
        "by": source["by"],
        "reported": source["reported"],
        "ttl_seconds": 7200.0,
        "stale": False,
        "complete": True,
        "images": 2,
        "recently": 0,
    }
    assert source in client.get(PATH).json()["sources"]
    first = client.get(f"{PATH}/prod", params={"n": 1})
    second = client.get(first.links["next"]["url"])
    named = first.json()["images"] + second.json()["images"]
    assert [(each["image"], each["digest"], each["tag"]) for each in named] == [
        ("deployed/later:v1", None, "v1"),
        (digest, digest, None),
    ]
    words = "deployed in prod: shop/deployment/app"
    for path in (f"/v2/deployed/app/manifests/{digest}", "/acr/v1/deployed/app"):
        refusal = client.delete(path)
        # The one refusal that az and acr-cli both handle.
        assert refused(refusal) == (405, "REGISTRY_DISALLOWED_OPERATION")
        assert words in refusal.text
    assert client.delete(f"{PATH}/prod").status_code == 400
    gone = client.delete(f"{PATH}/prod", params={"confirm": 1})
    assert (gone.status_code, gone.json()) == (200, source)
    assert client.delete(f"/v2/deployed/app/manifests/{digest}").status_code == 202


def test_an_empty_report_and_a_name_that_is_none_are_refused(client: httpx.Client) -> None:
    assert refused(client.put(f"{PATH}/empty", json={"images": []})) == (409, "SOURCE_EMPTY")
    assert client.put(f"{PATH}/empty", json={"images": [], "empty_ok": True}).status_code == 200
    image = {"images": [{"image_id": DIGEST}]}
    assert refused(client.put(f"{PATH}/UPPER", json=image)) == (400, "VALUE_INVALID")
    for method in ("GET", "DELETE"):
        absent = client.request(method, f"{PATH}/absent", params={"confirm": 1})
        assert refused(absent) == (404, "SOURCE_UNKNOWN")


def test_a_large_report_is_taken_and_a_larger_one_refused(client: httpx.Client) -> None:
    """A report has at most 16 MiB."""
    images = [{"image_id": f"sha256:{number:064x}"} for number in range(20_000)]
    answer = client.put(f"{PATH}/large", json={"images": images})
    assert answer.json()["added"] == len(images)
    assert client.delete(f"{PATH}/large", params={"confirm": 1}).json()["images"] == len(images)
    json = {"Content-Type": "application/json"}
    too_large = client.put(f"{PATH}/large", content=b" " * (16 * 1024 * 1024 + 1), headers=json)
    assert too_large.status_code == 413
