"""What every page has: its headers, its weight, and no word of others that is taken for markup."""

import re

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.server import UllageServer
from tests.ui.visitors import Visitor, text_of
from ullage.server.ui.assets import assets

CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def test_a_browser_is_led_to_the_pages_and_others_are_not(server: UllageServer) -> None:
    """ui.md section 3: GET / by a browser; also /ui, which people type."""
    with httpx.Client(base_url=server.url) as client:
        for path in ("/", "/ui"):
            answer = client.get(path, headers={"Accept": "text/html,application/xhtml+xml"})
            assert (answer.status_code, answer.headers["Location"]) == (303, "ui/")
        assert client.get("/").json()["name"] == "ullage"


@pytest.mark.parametrize("path", ["/ui/", "/ui/nowhere", "/ui/static/0000/ui.css"])
def test_no_page_runs_what_is_not_ours(visitor: Visitor, path: str) -> None:
    """ui.md section 2: nothing but our own files, in no one's frame, kept by no cache."""
    page = visitor.get(path)
    assert page.headers["Content-Security-Policy"] == CSP
    assert page.headers["Referrer-Policy"] == "same-origin"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert page.headers["Cache-Control"] == "no-store"


def test_a_page_is_counted_by_its_route_as_requests_of_clients_are(server: UllageServer) -> None:
    """observability.md section 3: the label says which page, and no repository's name."""
    httpx.get(f"{server.url}/ui/repositories/no/such")
    assert 'http_route="/ui/repositories/{name}"' in httpx.get(f"{server.url}/metrics").text


def test_an_unknown_page_and_another_method_are_pages_too(visitor: Visitor) -> None:
    page = visitor.get("/ui/nowhere")
    assert (page.status_code, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert "There is no such page" in text_of(page)
    assert visitor.post("/ui/").status_code == 405
    assert visitor.client.head("/ui/").status_code == 200


def test_files_are_kept_for_ever_under_the_hash_of_their_bytes(visitor: Visitor) -> None:
    page = visitor.get("/ui/")
    for name in ("ui.css", "ui.js", "icon.svg"):
        (path,) = set(re.findall(rf'"\./(static/[0-9a-f]+/{name})"', page.text))
        answer = visitor.client.get(f"/ui/{path}")
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        tag = {"If-None-Match": answer.headers["ETag"]}
        assert visitor.client.get(f"/ui/{path}", headers=tag).status_code == 304
    assert visitor.get("/ui/static/0000000000000000/ui.css").status_code == 404


def test_style_and_script_stay_small() -> None:
    """Issue: CSS at most 20 KB, JavaScript 12 KB and 300 lines."""
    found = assets()
    assert len(found["ui.css"].body) <= 20_000
    assert len(found["ui.js"].body) <= 12_000
    assert found["ui.js"].body.count(b"\n") < 300


def test_links_lead_on_from_wherever_the_registry_is_mounted(visitor: Visitor) -> None:
    """ui.md section 1: deep links, a base path behind a proxy."""
    for path, base in (("/ui/", "./"), ("/ui/a/b/c", "../../")):
        links = re.findall(r'(?:href|src|action)="([^"]*)"', visitor.get(path).text)
        assert links
        assert not [link for link in links if not link.startswith((base, "#", "?"))]


def test_the_space_page_shows_the_disk_and_its_largest_parts(
    client: httpx.Client, visitor: Visitor
) -> None:
    push_image(client, "space/large", "v1", (b"x" * 300_000,))
    page = visitor.get("/ui/")
    assert "on the disk, in" in text_of(page)
    assert "space/large" in text_of(page)
    assert len(page.content) <= 60_000
    one = visitor.get("/ui/?ns=space")
    assert "space/large" in text_of(one)
    assert "team" not in text_of(one)


def test_what_an_address_says_is_shown_as_text(visitor: Visitor) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    page = visitor.client.get("/ui/", params={"ns": evil, "lang": evil})
    assert "<script>alert" not in page.text
    assert "<img" not in page.text


def test_an_empty_registry_says_how_to_push(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        UllageServer(tmp_path_factory.mktemp("empty") / "data") as server,
        Visitor(server.url) as visitor,
    ):
        assert f"docker push {server.host}/hello:v1" in text_of(visitor.get("/ui/"))


def test_without_the_pages_there_is_nothing_of_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("without") / "data"
    with UllageServer(folder, "--ui", "false") as server, Visitor(server.url) as visitor:
        assert visitor.get("/ui/").status_code == 404
        assert visitor.get("/").json()["name"] == "ullage"
        assert "/ui/" not in server.log.partition("Try next")[0]


def test_serve_says_where_the_pages_are(server: UllageServer) -> None:
    assert f"{server.url}/ui/" in server.log
