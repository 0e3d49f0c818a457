"""What went wrong is said on a page, in the visitor's language (ui.md sections 3 and 5)."""

import asyncio
import logging
import re
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.clock import FakeClock
from tests.support.registry import make_registry
from tests.ui.visitors import Visitor, text_of
from ullage.blobs.memory import MemoryBlobStore
from ullage.cleanup.guardrails import (
    Caps,
    Guardrail,
    RepositoryShare,
    guardrails,
    purge_guardrails,
)
from ullage.server.app import create_app
from ullage.server.ui import formats, space

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def test_every_rail_has_its_words_in_every_language() -> None:
    """A message that no sentence of the pages is would be English on a Chinese page."""
    share = RepositoryShare(
        "team/app", 4, 4, 3, 3, newest_going="v1", pulled_going=1, pulled="sha256:0 at 2026"
    )
    shares = [
        share,
        RepositoryShare("one", 9, 7, 1, 1, pulled_going=2, pulled="sha256:0 at 2026"),
        RepositoryShare("two", 9, 7, 9, 7),
    ]
    caps = Caps(max_manifests=1, max_bytes=1, max_percent=10)
    found = [
        *guardrails(shares, 9, caps, computed=True),
        *purge_guardrails(shares, 9, caps, keep=0),
    ]
    assert {warning.rail for warning in found} == set(Guardrail)
    assert [each.message for each in found if not formats.said(each.message).sentence] == []


def test_a_rail_is_told_in_the_visitors_language(
    client: httpx.Client, visitor: Visitor, name: str
) -> None:
    push_image(client, name, "v1")
    plan = client.post("/api/v1/plans", json={"repositories": [name]}).json()["id"]
    english = text_of(visitor.get(f"/ui/plans/{plan}?lang=en"))
    assert f"deletes everything in {name}, and so the repository" in english
    chinese = text_of(visitor.get(f"/ui/plans/{plan}?lang=zh-CN"))
    assert f"将删除 {name} 中的全部内容" in chinese
    assert "deletes" not in chinese


@pytest.mark.parametrize(
    "path",
    [
        "repositories/absent",
        "repositories/Bad",
        "images/absent/v1",
        "plans/0",
        "?ns=a&ns=b",
    ],
)
def test_an_error_is_told_in_the_visitors_language(visitor: Visitor, path: str) -> None:
    visitor.get("/ui/jobs?lang=zh-CN")
    page = visitor.get(f"/ui/{path}")
    assert page.headers["Content-Type"].startswith("text/html")
    alert = page.text.partition('role="alert">')[2].partition("</p>")[0]
    assert CHINESE.search(alert), alert
    assert '<bdi class="dim" lang="en">' in alert


def test_a_defect_is_a_page_with_the_number_of_the_request(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("of the test")

    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", MemoryBlobStore(), clock)
    monkeypatch.setattr(space, "bill_of", fail)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(registry))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/ui/")

    with caplog.at_level(logging.ERROR):
        page = asyncio.run(ask())
    registry.db.close()
    assert (page.status_code, page.headers["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert page.headers["X-Request-Id"] in page.text
    assert "of the test" not in page.text
    assert f"internal error in request {page.headers['X-Request-Id']}" in caplog.text
