"""Requests that a web page makes for its visitor, where no caller says who they are.

A browser sends them with whatever access its machine has: to a registry on loopback, that is all
there is. A page elsewhere cannot read the answers, but it can change things, and with a name of its
own that leads to 127.0.0.1 (DNS rebinding) it can read, too. So an open registry answers only to
its own names, and changes nothing for a page of another origin. Clients that are no browsers send
no Origin and notice none of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from ullage.oci.errors import Denied
from ullage.server.http.request import Request

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
# Fetch Metadata Request Headers, section 2.3: a page of ours, and no page at all.
_OF_OURS = frozenset({"same-origin", "none"})
# As many names as one machine is called by.
_NAMES_KEPT = 64


class OwnOrigins:
    """The names that an open registry answers to, and the pages it changes something for."""

    def __init__(self, *, listen_host: str, external_url: str, hosts: Iterable[str]) -> None:
        self._external = external_url
        given = (listen_host, urlsplit(external_url).hostname or "", *hosts)
        self._names = frozenset(name.strip("[]").lower() for name in given if name)
        self._is_own = lru_cache(_NAMES_KEPT)(self._is_own_name)

    def require(self, request: Request) -> None:
        """Raises Denied for another's name, and for a change that a foreign page asks for."""
        # As it is sent: every request of an open registry comes by here.
        host = request.fields.first.get(b"host", b"")
        # HTTP/1.0 needs none, and no browser speaks that.
        if host and not self._is_own(host):
            raise Denied(
                {"host": host[:255].decode("latin-1")},
                "this registry asks no caller for credentials, so it answers only to its own names;"
                " start it with --hosts NAME to add this one, or with --auth",
            )
        if request.scope["method"] not in _READING:
            self._require_own_page(request)

    def _require_own_page(self, request: Request) -> None:
        if self.is_foreign(request):
            raise Denied(
                {"origin": request.headers.get("origin", "")[:255]},
                "a web page of another origin asks for a change, and this registry asks no caller"
                " for credentials; nothing was changed",
            )

    def is_foreign(self, request: Request) -> bool:
        """Whether a browser says that a page of another origin sends this."""
        first = request.fields.first
        if b"origin" not in first and b"sec-fetch-site" not in first:
            # No browser.
            return False
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site")
        own = (f"http://{host}", f"https://{host}", self._external)
        return (origin is not None and origin not in own) or (
            site is not None and site not in _OF_OURS
        )

    def _is_own_name(self, host: bytes) -> bool:
        text = host.decode("latin-1")
        return _name_in(text) in self._names or is_loopback(text)


def _without_port(host: str) -> str:
    """RFC 9110, section 7.2: a name or an address, and a port behind a colon."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _name_in(host: str) -> str:
    return _without_port(host).lower().rstrip(".")


def is_loopback(host: str) -> bool:
    """Whether a Host header names this very machine.

    RFC 6761, section 6.3, for names; addresses as their families define it.
    """
    name = _name_in(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
