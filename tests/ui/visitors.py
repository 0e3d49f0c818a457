"""A visitor of pages: what a browser does, without one: cookies, forms, and the headers it adds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import unescape
from typing import Self

import httpx

_PLAIN = re.compile(r"<[^>]*>")
# Not those between groups of digits.
_SPACES = re.compile(r"[ \n]+")


class Visitor:
    """One browser at one registry, on the page that it viewed last."""

    def __init__(self, url: str) -> None:
        self.origin = url
        self.client = httpx.Client(base_url=url, timeout=60, headers={"Accept": "text/html"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def get(self, path: str, **headers: str) -> httpx.Response:
        """A page, where a redirect leads to."""
        return self.client.get(path, headers=headers, follow_redirects=True)

    def post(
        self,
        path: str,
        fields: Mapping[str, str | Sequence[str]] | None = None,
        *,
        follow: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a form from a page of the registry's own, or with other `headers`."""
        own = {"Origin": self.origin} if headers is None else headers
        return self.client.post(path, data=fields or {"": ""}, headers=own, follow_redirects=follow)

    def log_in(self, name: str, password: str) -> httpx.Response:
        return self.post("/ui/login", {"name": name, "password": password, "next": ""})


def address(path: str) -> str:
    """A page's path, filled with what does not exist."""
    for word in ("name", "plan", "operation", "job", "reference", "hash", "file"):
        path = path.replace(f"{{{word}}}", "0" * 32 if word != "name" else "absent")
    return path


def text_of(page: httpx.Response) -> str:
    """What is to be read on a page: without markup, each space once."""
    body = page.text.partition("<main")[2].partition("</main>")[0]
    return _SPACES.sub(" ", unescape(_PLAIN.sub(" ", body)))
