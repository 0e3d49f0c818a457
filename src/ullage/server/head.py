"""A request's head, looked at before anybody acts on it: how long it is, and whether it is plain.

Not plain is what a proxy in front could read in another way than we do, and what we would have to
decode: neither is guessed at.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope

from ullage.oci.errors import Unsupported
from ullage.server.wire import EncodingUnsupported, HeadersTooLarge, UriTooLong

MAX_PATH_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024
# Fields with one value: of two, one reader takes the first and another one the last.
_ONCE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"host",
        b"range",
        b"transfer-encoding",
    }
)


class Fields(Headers):
    """A request's header fields, by lower-case name; of several of one name the first.

    Starlette's go through the list for each name; ours are asked for many.
    """

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope)
        self._first: dict[str, str] = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in reversed([*scope["headers"]])
        }

    def __getitem__(self, key: str) -> str:
        return self._first[key]

    def __contains__(self, key: object) -> bool:
        return key in self._first

    def get(self, key: str, default: Any = None) -> Any:
        return self._first.get(key, default)


class Asked(Request):
    """A request whose head is read once."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self._fields = Fields(scope)

    @property
    def headers(self) -> Headers:
        return self._fields


def raw_path(scope: Scope) -> str:
    """The path as it was sent, still percent-encoded. Raises UriTooLong."""
    # ASGI servers need not keep it; then what was decoded is encoded again.
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    if len(raw) > MAX_PATH_BYTES:
        raise UriTooLong(message=f"the path is longer than {MAX_PATH_BYTES} bytes")
    return raw.partition(b"?")[0].decode("latin-1")


def require_plain(scope: Scope) -> None:
    """Raises HeadersTooLarge, EncodingUnsupported, Unsupported for what can be read in two ways."""
    size = 0
    once: dict[bytes, bytes] = {}
    for field, value in scope["headers"]:
        size += len(field) + len(value)
        if field in _ONCE:
            if field in once:
                raise Unsupported(message=f"the header {field.decode()} is given twice")
            once[field] = value
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(message=f"the headers are longer than {MAX_HEADER_BYTES} bytes")
    # granian makes an empty one of none at all.
    if scope["http_version"] == "1.1" and not once.get(b"host"):
        raise Unsupported(message="the header host is missing (RFC 9112, section 3.2)")
    # Digests are of the bytes as they are, so there is nothing to be won by unpacking them here.
    for field, known in ((b"content-encoding", b"identity"), (b"transfer-encoding", b"chunked")):
        if once.get(field, known).strip().lower() != known:
            raise EncodingUnsupported(
                message=f"{field.decode()}: send the body as it is, {known.decode()} at most"
            )
