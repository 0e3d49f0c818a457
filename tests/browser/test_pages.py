"""The web UI in a real browser: without JavaScript, by keyboard, for axe-core, on a phone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.access.house import House
from tests.browser.chromium import axe_source, chromium, overflow, tab
from tests.server.pushing import image, index_of, push_image, put_manifest
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of
from ullage.server.ui.languages import LANGUAGES

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = '"><script>alert(1)</script><b onclick=alert(2)>'
# Where pictures of the pages are left, to be looked at.
PICTURES = os.environ.get("ULLAGE_PICTURES", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A registry with soft delete and images of several kinds, some with hostile words."""
    with UllageServer(tmp_path_factory.mktemp("shop") / "data") as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            fill(client)
        yield server
        server.assert_no_500()


def fill(client: httpx.Client) -> None:
    for number in range(6):
        layers = (b"base" * 50_000, b"%d" % number * (number + 1) * 20_000)
        push_image(client, "team/app", f"v{number}", layers)
    push_image(client, "team/app", "v0", (b"again" * 30_000,))
    push_image(client, "team/worker", "latest", (b"base" * 50_000, b"worker" * 9_000))
    index = index_of(client, "team/app", [push_image(client, "team/app", "p", (b"arm" * 999,))])
    put_manifest(client, "team/app", "multi", index)
    evil = image(client, "evil", (b"evil",), annotations={EVIL: EVIL, "url": "javascript:alert(1)"})
    put_manifest(client, "evil", "v1", evil)
    soft = {"status": "enabled", "retentionDays": 7}
    client.patch("/api/v1/policies/soft-delete", json=soft).raise_for_status()
    gone = client.post("/api/v1/plans", json={"repository": "team/app", "tags": ["v5"]}).json()
    client.post(f"/api/v1/plans/{gone['id']}/apply", json={}).raise_for_status()
    rules = [
        {"name": "releases", "tags": "^v[0-9]$", "keep": True},
        {"name": "old orphans", "untagged": True, "older_than": "7d"},
    ]
    client.put("/api/v1/policies/retention", json={"rules": rules}).raise_for_status()
    lock = {"repository": "team/worker", "tag": "latest", "reason": f"audit {EVIL}"}
    client.post("/api/v1/locks", json=lock).raise_for_status()
    client.post("/v2/team/app/blobs/uploads/").raise_for_status()
    purge = {"filters": ["team/app:^v1$"], "ago": "0d", "dry_run": True}
    client.post("/api/v1/purge", json=purge).raise_for_status()


def addresses(server: UllageServer) -> dict[str, str]:
    """Every kind of page, by name."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        plan = client.post("/api/v1/plans", json={"repositories": ["team/app"]}).json()["id"]
        job = client.get("/api/v1/jobs").json()["jobs"][0]["id"]
        deletion = client.get("/api/v1/deleted").json()["operations"][0]["id"]
    return {
        "space": "",
        "namespace": "?ns=team",
        "repositories": "repositories",
        "repository": "repositories/team/app",
        "orphans": "repositories/team/app?tab=orphans",
        "tags": "repositories/team/app?tab=tags",
        "pulls": "repositories/team/app?tab=pulls",
        "image": "images/team/app/v3",
        "index": "images/team/app/multi",
        "hostile": "images/evil/v1",
        "plan": f"plans/{plan}",
        "deleted": "deleted",
        "deletion": f"deleted/{deletion}",
        "jobs": "jobs",
        "job": f"jobs/{job}",
        "clean-up": "cleanup",
        "retention": "retention?repository=team/app&tag=v3",
        "locks": "locks",
        "accounts": "accounts",
        "audit": "audit",
        "uploads": "uploads",
        "search": "search?q=team",
        "missing": "nowhere",
    }


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(
    browser: Browser, shop: UllageServer, scheme: str, language: str
) -> None:
    """WCAG 2.2 AA as far as a program can tell; the policy keeps nothing of ours from working."""
    axe, found = axe_source(), {}
    options = {"color_scheme": scheme, "bypass_csp": True, "locale": language}
    with tab(browser, **options) as page:
        for name, path in addresses(shop).items():
            page.goto(f"{shop.url}/ui/{path}")
            assert page.locator("html").get_attribute("lang") == language
            page.evaluate(axe)
            report = page.evaluate("axe.run()")
            found[name] = [
                (each["id"], each["nodes"][0]["html"][:200]) for each in report["violations"]
            ]
            keep_picture(page, f"{name}-{scheme}-{language}")
    assert found == {name: [] for name in found}


def keep_picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("width", [390, 320])
def test_no_page_scrolls_sideways_on_a_phone(
    browser: Browser, shop: UllageServer, width: int
) -> None:
    """WCAG 2.2, 1.4.10; and under the real policy the console stays silent."""
    with tab(browser, viewport={"width": width, "height": 844}) as page:
        for name, path in addresses(shop).items():
            page.goto(f"{shop.url}/ui/{path}")
            assert overflow(page) <= 0, name
            keep_picture(page, f"{name}-{width}")


def test_nothing_that_was_pushed_becomes_part_of_a_page(
    browser: Browser, shop: UllageServer
) -> None:
    with tab(browser) as page:
        page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
        page.goto(f"{shop.url}/ui/images/evil/v1")
        assert EVIL in page.locator("main").inner_text()
        assert page.locator("main [onclick]").count() == 0
        assert page.locator("a[href^=javascript]").count() == 0


def test_without_javascript_what_is_deleted_is_planned_and_can_be_taken_back(
    browser: Browser, shop: UllageServer
) -> None:
    """Choose, plan, delete, receipt, undo: five clicks."""
    with tab(browser, java_script_enabled=False) as page:
        page.goto(f"{shop.url}/ui/")
        page.locator("tbody").get_by_role("link", name="team/app", exact=True).click()
        page.get_by_role("row", name=re.compile(r"\bv2\b")).get_by_role("checkbox").check()
        page.get_by_role("button", name="Plan deleting the chosen").click()
        assert page.get_by_role("heading", level=1).inner_text() == "If you delete this"
        page.get_by_role("button", name=re.compile("^Delete 1 manifest")).click()
        assert "1 manifest deleted." in page.get_by_role("status").inner_text()
        tags = httpx.get(f"{shop.url}/v2/team/app/tags/list").json()["tags"]
        assert "v2" not in tags
        page.get_by_role("button", name="Undo").click()
        assert "1 manifest is back." in page.get_by_role("status").inner_text()
        tags = httpx.get(f"{shop.url}/v2/team/app/tags/list").json()["tags"]
        assert "v2" in tags


def test_a_push_in_between_is_shown_as_a_difference(browser: Browser, shop: UllageServer) -> None:
    with httpx.Client(base_url=shop.url, timeout=60) as client, tab(browser) as page:
        push_image(client, "racing", "v1", (b"first",))
        page.goto(f"{shop.url}/ui/repositories/racing")
        page.get_by_role("button", name="Plan deleting the whole repository").click()
        push_image(client, "racing", "v2", (b"second",))
        page.get_by_role("button", name=re.compile("^Delete")).click()
        assert "would go too" in page.get_by_role("alert").inner_text()
        page.get_by_role("button", name="Plan again").click()
        page.get_by_role("button", name=re.compile("^Delete 2 manifests")).click()
        assert client.get("/v2/racing/tags/list").status_code == 404


def test_all_of_it_works_by_keyboard(browser: Browser, shop: UllageServer) -> None:
    """Tab, Space and Enter alone; nothing needs a pointer (WCAG 2.2, 2.1.1)."""
    with httpx.Client(base_url=shop.url, timeout=60) as client, tab(browser) as page:
        push_image(client, "keys", "v1", (b"keys" * 1000,))
        page.goto(f"{shop.url}/ui/repositories/keys")
        tab_to(page, "input[name=digest]")
        page.keyboard.press("Space")
        tab_to(page, "[data-plan]")
        page.keyboard.press("Enter")
        page.wait_for_url("**/plans/*")
        tab_to(page, "button.danger")
        page.keyboard.press("Enter")
        page.wait_for_selector("[data-undo]")
        tab_to(page, "[data-undo]")
        page.keyboard.press("Enter")
        page.wait_for_url("**/deleted?restored=1")


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_logging_in_and_out(browser: Browser, tmp_path: Path) -> None:
    with House(tmp_path / "data") as house, tab(browser) as page:
        house.push_image("app", "v1", b"layer")
        page.goto(f"{house.server.url}/ui/repositories/app")
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password").fill("wrong")
        page.keyboard.press("Enter")
        assert "wrong" in page.get_by_role("alert").inner_text()
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password").fill(house.ADMIN_PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url("**/ui/repositories/app")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
        page.get_by_role("button", name="Log out", exact=True).click()
        page.wait_for_url("**/ui/login")
        page.goto(f"{house.server.url}/ui/repositories/app")
        assert "/ui/login" in page.url


def test_a_long_job_is_watched(browser: Browser, shop: UllageServer) -> None:
    """Its progress arrives by itself where scripts run."""
    with httpx.Client(base_url=shop.url, timeout=60) as client, tab(browser) as page:
        for number in range(30):
            push_image(client, "watched", f"pr-{number}", (b"%d" % number * 100,))
        purge = {"filters": ["watched:^pr-"], "ago": "0d", "untagged": True}
        job = client.post("/api/v1/purge", json=purge).json()["id"]
        page.goto(f"{shop.url}/ui/jobs/{job}")
        page.wait_for_selector("[data-state=done]", timeout=30_000)
        assert "30 manifests / 30" in page.locator("main").inner_text()


def test_what_a_signature_says_is_folded(browser: Browser, shop: UllageServer) -> None:
    """cosign's tags swamp a list otherwise."""
    with httpx.Client(base_url=shop.url, timeout=60) as client, tab(browser) as page:
        signed = image(client, "signed", (b"signed",))
        put_manifest(client, "signed", "v1", signed)
        name = digest_of(json.dumps(signed).encode()).replace(":", "-") + ".sig"
        push_image(client, "signed", name, (b"signature",))
        page.goto(f"{shop.url}/ui/repositories/signed")
        assert page.locator("tbody tr").count() == 1
