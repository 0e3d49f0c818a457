"""A real Chromium, with and without JavaScript, and what it has to say about a page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.require import require_command, unavailable

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    found = require_command("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page in a context of its own. What it says on its console ends the test."""
    context = browser.new_context(**options)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        yield page
        # A page that is not there, or was refused, is said by the browser itself.
        assert [text for text in said if "Failed to load resource" not in text] == []
    finally:
        context.close()


def axe_source() -> str:
    """axe-core's script, from the cache of `.ci/run`."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = caches / "ullage-ci" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
    if not path.exists():
        unavailable("axe-core is not installed (npm install axe-core)")
    return path.read_text("utf-8")


def overflow(page: Page) -> int:
    """How many pixels of the page are beside the window."""
    width = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return int(width)
