"""What web pages may do to a registry that asks no caller for credentials: nothing (B5)."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.server import UllageServer

pytestmark = pytest.mark.thorough

JSON = {"Content-Type": "application/json"}
PURGE = json.dumps({"filters": ["app:.*"], "ago": "0d"}).encode()
EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    folder = tmp_path_factory.mktemp("open") / "data"
    arguments = ("--hosts", "registry.test", "--external-url", "https://images.test")
    with UllageServer(folder, *arguments) as server:
        yield server
        server.assert_no_500()


def ask(
    server: UllageServer,
    method: str,
    path: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[int, dict[str, object]]:
    """A request exactly as given: no client adds an Origin or corrects a Host."""
    connection = http.client.HTTPConnection(server.host, timeout=30)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    return response.status, json.loads(text) if text else {}


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "localhost.evil.example",
     "10.0.0.1", "[fe80::1]", "0x7f.1", "registry.test.evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/acr/v1/_catalog", "/api/v1/usage"])
def test_it_answers_to_no_name_but_its_own(open_server: UllageServer, host: str, path: str) -> None:
    """DNS rebinding: a page reads what its own name leads to."""
    status, answer = ask(open_server, "GET", path, {"Host": host})
    assert status == 403
    assert "--hosts" in str(answer)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:5000", "127.1.2.3", "localhost", "LOCALHOST:80", "a.localhost",
     "localhost.", "[::1]:5000", "registry.test", "Registry.Test:443", "images.test:443"],
)  # fmt: skip
def test_it_answers_to_its_own_names(open_server: UllageServer, host: str) -> None:
    assert ask(open_server, "GET", "/v2/", {"Host": host})[0] == 200


FOREIGN = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://registry.test.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": EVIL, "Sec-Fetch-Site": "none"},
]
CHANGES = [
    ("POST", "/api/v1/purge", JSON, PURGE),
    ("POST", "/api/v1/plans", JSON, b'{"repositories": ["app"]}'),
    ("DELETE", "/acr/v1/app", {}, None),
    ("DELETE", "/v2/app/manifests/v1", {}, None),
    ("POST", "/v2/app/blobs/uploads/", {}, None),
    ("PUT", "/v2/app/manifests/v1", {"Content-Type": "text/plain"}, b"{}"),
    ("PATCH", "/acr/v1/app", JSON, b'{"deleteEnabled": false}'),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
@pytest.mark.parametrize(("method", "path", "headers", "body"), CHANGES)
def test_a_page_of_another_origin_changes_nothing(
    open_server: UllageServer,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | None,
    foreign: dict[str, str],
) -> None:
    status, answer = ask(open_server, method, path, headers | foreign, body)
    assert status == 403
    assert "another origin" in str(answer)


def test_nothing_was_changed_and_a_page_of_its_own_may(tmp_path: Path) -> None:
    """The same requests, from the registry's own page and from clients that send no Origin."""
    with UllageServer(tmp_path / "data") as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            push_image(client, "app", "v1")
        for foreign in FOREIGN:
            ask(server, "DELETE", "/acr/v1/app", foreign)
        assert ask(server, "GET", "/v2/app/tags/list")[1]["tags"] == ["v1"]
        own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
        assert ask(server, "DELETE", "/v2/app/manifests/v1", own)[0] == 202
        assert ask(server, "DELETE", "/acr/v1/app")[0] == 202


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_its_own_interface_takes_json_only_as_such(open_server: UllageServer, kind: str) -> None:
    """A page may send these to any host without asking (Fetch Standard, safelisted headers)."""
    headers = {"Content-Type": kind} if kind else {}
    status, answer = ask(open_server, "POST", "/api/v1/purge", headers, PURGE)
    assert status == 415
    assert "application/json" in str(answer)


def test_json_may_name_its_character_set(open_server: UllageServer) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    body = json.dumps({"filters": ["none:.*"], "ago": "0d", "dry_run": True}).encode()
    assert ask(open_server, "POST", "/api/v1/purge", headers, body)[0] == 202


def test_a_registry_with_accounts_asks_for_credentials_instead(tmp_path: Path) -> None:
    """A page has none to send: browsers keep no registry's password."""
    with UllageServer(tmp_path / "data", "--auth") as server:
        assert ask(server, "GET", "/v2/_catalog", {"Host": "registry.example"})[0] == 401
        assert ask(server, "DELETE", "/acr/v1/app", {"Origin": EVIL})[0] == 401
