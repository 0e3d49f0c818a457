"""Where a request comes from when proxies are in front: RFC 7239, and X-Forwarded-For before it.

Each proxy adds the address it was asked from at the end, behind what the client itself may have
written. So the headers are read from their end, and only as far as trusted proxies wrote them: the
last hop that is none of these is the client.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, TypeAlias

from ullage.server.http.request import Request

log = logging.getLogger(__name__)

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# A peer at a Unix socket, as nginx calls it in its settings and in the headers it writes.
UNIX = "unix:"
# In a request's scope: a trusted proxy sent it, and says for which client.
PROXIED = "ullage.proxied"
# And what that client spoke.
SCHEME = "ullage.scheme"
# More proxies than any request has behind it.
MAX_HOPS = 32
MAX_FORWARDED_CHARACTERS = 8 * 1024
# The same clients come again and again; what is longer than usual is read each time.
_PEERS_KEPT = 1024
_CLIENTS_KEPT = 1024
_USUAL_BYTES = 256
_X_FOR, _X_PROTO, _FORWARDED = b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"
_NAMES = frozenset({_X_FOR, _X_PROTO, _FORWARDED})
_SCHEMES = frozenset({"http", "https"})
# RFC 7239, section 6: an address with its port, which may be obfuscated.
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_BARE = re.compile(r"[0-9A-Fa-f:.]+")
# RFC 7239, section 4: pairs, with ";" between those of one element and "," between elements.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a part of a grammar
_PAIR = re.compile(
    rf'[ \t]*(?:({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*)"))?[ \t]*(?:([,;])|\Z)', re.DOTALL
)


class Malformed(ValueError):
    """A header that says nothing that can be relied on."""


class Hop(NamedTuple):
    """A sender that a proxy was asked by; None for one at a Unix socket."""

    address: IPAddress | None
    scheme: str | None = None


# The headers that proxies write, in the order in which they came.
Told: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Proxies:
    """Those that are believed: networks, and `unix:` for peers at Unix sockets."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        names = frozenset(trusted)
        self._networks = tuple(ipaddress.ip_network(name) for name in names - {UNIX})
        self._unix = UNIX in names
        self._any = bool(names)
        self._warned = False
        self._is_trusted = lru_cache(_PEERS_KEPT)(self._is_trusted_peer)
        self._known_client = lru_cache(_CLIENTS_KEPT)(self._client)

    def locate(self, request: Request) -> None:
        """Let the request come from its client, if a trusted proxy says which one that is.

        Then its scope has the client's address in place of the proxy's, for all that ask for it,
        PROXIED, and as SCHEME what the client spoke. What cannot be read changes nothing.
        """
        first = request.fields.first
        named = _X_FOR in first or _FORWARDED in first
        if not self._any and (self._warned or not named):
            return
        peer = request.scope.get("client")
        host = peer[0] if peer else ""
        if not self._is_trusted(host):
            if named and not self._warned:
                self._warn(host)
            return
        told = tuple((name, value) for name, value in request.fields.raw if name in _NAMES)
        usual = sum(len(value) for _, value in told) <= _USUAL_BYTES
        address, scheme = (self._known_client if usual else self._client)(told)
        if address is not None:
            request.scope["client"] = (address, 0)
            request.scope[PROXIED] = True
        if scheme is not None:
            request.scope[SCHEME] = scheme

    def _client(self, told: Told) -> tuple[str | None, str | None]:
        """By what trusted proxies wrote, the client's address and what it spoke."""
        try:
            hops = self._hops(told)
        except Malformed:
            hops = []
        client = hops[-1] if hops else Hop(None)
        scheme = _scheme_at(told, max(len(hops), 1)) or client.scheme
        return None if client.address is None else str(client.address), scheme

    def _hops(self, told: Told) -> list[Hop]:
        """From the last hop back to the client. Raises Malformed."""
        ways: list[list[Hop]] = []
        if lines := _lines(told, _X_FOR):
            ways.append(self._as_far_as_trusted(_by_x_forwarded_for(lines)))
        if lines := _lines(told, _FORWARDED):
            ways.append(self._as_far_as_trusted(_by_forwarded(lines)))
        # A proxy writes one of the two, and may pass the other one on as its client wrote it.
        if len({hops[-1].address if hops else None for hops in ways}) > 1:
            raise Malformed
        return ways[-1] if ways else []

    def _as_far_as_trusted(self, hops: Iterator[Hop]) -> list[Hop]:
        found: list[Hop] = []
        for hop in islice(hops, MAX_HOPS):
            found.append(hop)
            if not self._trusts(hop.address):
                return found
        if next(hops, None) is not None:
            raise Malformed
        return found

    def _trusts(self, address: IPAddress | None) -> bool:
        if address is None:
            return self._unix
        return any(address in network for network in self._networks)

    def _is_trusted_peer(self, host: str) -> bool:
        try:
            return self._trusts(_peer(host))
        except ValueError:
            return False

    def _warn(self, host: str) -> None:
        """Say once that a proxy seems to be in front, and that nothing is known of it."""
        try:
            peer = _peer(host)
        except ValueError:
            return
        if peer is not None and peer.is_global:
            # Anyone may send the header; this one is on none of the operator's networks.
            return
        self._warned = True
        name = UNIX if peer is None else str(peer)
        log.warning(
            "trusted_proxies: a request from %s says for which client it is (X-Forwarded-For), and "
            "that address is not trusted: it counts as the client. If it is your proxy, start with "
            "--trusted-proxies %s",
            name,
            name,
        )


def _peer(host: str) -> IPAddress | None:
    """The other end of a connection; None at a Unix socket. Raises ValueError."""
    return None if host in ("", UNIX) else _plain(ipaddress.ip_address(host))


def _plain(address: IPAddress) -> IPAddress:
    """RFC 4291, section 2.5.5.2: an IPv4 address is one in IPv6, too."""
    mapped = address.ipv4_mapped if address.version == 6 else None
    return address if mapped is None else mapped


def _node(text: str) -> IPAddress | None:
    """What a proxy calls a sender; None at a Unix socket. Raises Malformed."""
    if text == UNIX:
        return None
    found = _NODE.fullmatch(text)
    bare = text if _BARE.fullmatch(text) else ""
    try:
        if found:
            return _plain(ipaddress.ip_address(found[1] or found[2]))
        return _plain(ipaddress.ip_address(bare))
    except ValueError:
        # Also "unknown" and obfuscated names (RFC 7239, sections 6.2 and 6.3).
        raise Malformed from None


def _lines(told: Told, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in told if name == header]


def _by_x_forwarded_for(lines: list[str]) -> Iterator[Hop]:
    """The hops, the last one first. Raises Malformed where one is no address."""
    for line in reversed(lines):
        rest, comma = line, ","
        while comma:
            rest, comma, name = rest.rpartition(",")
            if name := name.strip(" \t"):
                yield Hop(_node(name))


def _by_forwarded(lines: list[str]) -> Iterator[Hop]:
    """As _by_x_forwarded_for."""
    for line in reversed(lines):
        for pairs in reversed(_elements(line)):
            scheme = pairs.get("proto", "").lower()
            yield Hop(_node(pairs.get("for", "")), scheme if scheme in _SCHEMES else None)


def _elements(line: str) -> list[dict[str, str]]:
    """RFC 7239, section 4: the pairs of each element, by lower-case names. Raises Malformed."""
    if len(line) > MAX_FORWARDED_CHARACTERS:
        raise Malformed
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(line):
        pair = _PAIR.match(line, at)
        if pair is None:
            raise Malformed
        at = pair.end()
        name, word, quoted, separator = pair.groups()
        if name is not None:
            if name.lower() in elements[-1]:
                raise Malformed
            value = word if word is not None else re.sub(r"\\(.)", r"\1", quoted)
            elements[-1][name.lower()] = value
        if separator == ",":
            elements.append({})
    return [element for element in elements if element]


def _scheme_at(told: Told, hops: int) -> str | None:
    """By X-Forwarded-Proto, what the client so many hops back spoke.

    Some proxies add what they were spoken to in, like addresses, others pass on the first one's.
    """
    spoken = [word.strip(" \t").lower() for word in ",".join(_lines(told, _X_PROTO)).split(",")]
    scheme = spoken[-min(hops, len(spoken))]
    return scheme if scheme in _SCHEMES else None
