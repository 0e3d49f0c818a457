"""distribution-spec, "Determining Support" (end-1), and what every answer carries."""

import httpx
import pytest

from tests.server.pushing import refused, start_upload
from ullage import __version__


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_base_answers_200(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_the_root_says_what_answers(client: httpx.Client) -> None:
    """Charts and balancers probe it; a HEAD is enough for them."""
    answer = client.get("/", headers={"Accept": "application/json"})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["name"], told["version"]) == ("ullage", __version__)
    for path in told["paths"].values():
        assert client.get(path).status_code == 200, path
    assert client.head("/").status_code == 200
    assert refused(client.post("/")) == (405, "UNSUPPORTED")


def test_every_answer_names_the_api_version(client: httpx.Client, name: str) -> None:
    """Docker's and Podman's clients look for it, also on errors."""
    location = start_upload(client, name)
    answers = [
        client.get(location),
        client.delete(location),
        client.get(location),
        client.get("/nowhere"),
        client.post("/v2/"),
        client.get(f"/v2/{name}/tags/list"),
    ]
    assert [answer.status_code for answer in answers] == [204, 204, 404, 404, 405, 404]
    for answer in answers:
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/_catalog", "/v2/{name}/tags/list", "/v2/{name}/blobs/uploads/{id}"]
)
def test_head_works_wherever_get_does(client: httpx.Client, name: str, path: str) -> None:
    """RFC 9110, section 9.3.2: the same head as GET, and no body."""
    session = start_upload(client, name).rpartition("/")[2]
    path = path.format(name=name, id=session)
    got, asked = client.get(path), client.head(path)
    assert asked.status_code == got.status_code
    assert asked.content == b""
    for answer in (got, asked):
        for of_one_request in ("Date", "X-Request-Id", "X-Ms-Correlation-Request-Id"):
            answer.headers.pop(of_one_request)
    assert asked.headers == got.headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/", "GET, HEAD"),
        ("PATCH", "/v2/_catalog", "GET, HEAD"),
        ("PUT", "/v2/a/tags/list", "GET, HEAD"),
        ("POST", "/v2/a/manifests/x", "DELETE, GET, HEAD, PUT"),
        ("PUT", "/v2/a/blobs/sha256:00", "DELETE, GET, HEAD"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("POST", "/v2/a/blobs/uploads/00", "DELETE, GET, HEAD, PATCH, PUT"),
        ("DELETE", "/v2/a/referrers/sha256:00", "GET, HEAD"),
        ("OPTIONS", "/v2/", "GET, HEAD"),
        ("TRACE", "/v2/", "GET, HEAD"),
        ("PROPFIND", "/v2/", "GET, HEAD"),
    ],
)
def test_another_method_is_told_which_there_are(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    """RFC 9110, section 15.5.6: 405 with Allow."""
    answer = client.send(httpx.Request(method, client.base_url.join(path)))
    assert refused(answer) == (405, "UNSUPPORTED")
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/v1/",
        "/v2/x",
        "/v2/_catalog/",
        "/v2/a/tags/list/",
        "/v2/a/tags",
        "/v2/a/manifests/",
        "/v2/a/manifests/x/",
        "/v2/a/blobs/",
        "/v2/a/referrers",
        "/v2//",
        "//v2/",
        "/V2/",
        "/v2/a/tags/list;x=1",
        "/index.html",
    ],
)
def test_there_is_nothing_beside_the_endpoints(client: httpx.Client, path: str) -> None:
    """No hidden routes and no second spelling of one (CVE-2020-29662: `/v2/_catalog/`)."""
    answer = client.send(httpx.Request("GET", f"{client.base_url}{path}"))
    assert refused(answer) == (404, "NOT_FOUND")
