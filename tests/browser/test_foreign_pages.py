"""A page of another origin, in a real browser, against a registry that `make serve` starts (B5)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page

from tests.browser.chromium import chromium
from tests.server.pushing import push_image
from tests.support.server import UllageServer

pytestmark = pytest.mark.browser

# A name that leads to this machine, as an attacker's does after DNS rebinding.
REBOUND = "evil.example"
# What a page can send to any host without asking it first.
ATTACK = """async (registry) => {
  const send = (path, options) =>
    fetch(registry + path, {mode: "no-cors", ...options}).catch(() => null);
  const purge = JSON.stringify({filters: ["app:.*"], ago: "0d"});
  await send("/api/v1/purge", {method: "POST", body: purge});
  await send("/api/v1/plans", {method: "POST", body: '{"repositories": ["app"]}'});
  await send("/v2/app/blobs/uploads/", {method: "POST"});
  const form = document.createElement("form");
  form.method = "POST"; form.enctype = "text/plain"; form.target = "frame";
  form.action = registry + "/api/v1/purge";
  const field = document.createElement("input");
  field.name = purge.slice(0, -1) + ', "x": "'; field.value = '"}';
  form.append(field);
  const frame = document.createElement("iframe");
  frame.name = "frame";
  const loaded = new Promise((done) => { frame.onload = done; });
  document.body.append(frame, form);
  form.submit();
  await loaded;
}"""
# After rebinding the page and the registry are one origin: nothing but the Host tells them apart.
ATTACK_AS_ITS_OWN = """async () => {
  const status = async (path, options) => (await fetch(path, options)).status;
  const json = {"Content-Type": "application/json"};
  const body = JSON.stringify({filters: ["app:.*"], ago: "0d"});
  return [
    await status("/v2/_catalog"),
    await status("/acr/v1/app", {method: "DELETE"}),
    await status("/v2/app/manifests/v1", {method: "DELETE"}),
    await status("/api/v1/purge", {method: "POST", headers: json, body}),
  ];
}"""


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title><body></body>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def another_origin() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium(f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1") as browser:
        yield browser.new_page()


def test_a_foreign_page_and_a_rebound_name_change_nothing(page: Page, tmp_path: Path) -> None:
    with UllageServer(tmp_path / "data") as server, another_origin() as elsewhere:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            push_image(client, "app", "v1")
            before = client.get("/acr/v1/app/_manifests").json()
            page.goto(elsewhere)
            page.evaluate(ATTACK, server.url)
            port = server.url.rpartition(":")[2]
            page.goto(f"http://{REBOUND}:{port}/v2/")
            assert page.evaluate(ATTACK_AS_ITS_OWN) == [403] * 4
            assert client.get("/acr/v1/app/_manifests").json() == before
            assert client.get("/api/v1/jobs").json()["jobs"] == []
        server.assert_no_500()
