"""A request's head, checked before it is acted on: how long it is, and whether it is plain.

Not plain is what a proxy in front could read in another way than we do, and what we would have to
decode: neither is guessed at.
"""

from __future__ import annotations

from itertools import chain
from typing import Any
from urllib.parse import quote

from starlette import datastructures, requests
from starlette.types import Receive, Scope

from ullage.oci.errors import Unsupported
from ullage.server.http.errors import (
    EncodingUnsupported,
    HeadersTooLarge,
    MediaTypeUnsupported,
    UriTooLong,
)

# In a request's scope once the last byte of its body was read.
BODY_IS_OVER = "ullage.body_is_over"
MAX_PATH_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024
# Headers with one value: of two, one reader takes the first and another one the last.
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
_ENCODINGS = ((b"content-encoding", b"identity"), (b"transfer-encoding", b"chunked"))


class Headers(datastructures.Headers):
    """A request's header fields, by lower-case name; of several of one name the first.

    Starlette's go through the list for each name; ours are asked for many.
    """

    def __init__(self, scope: Scope) -> None:
        # As Starlette's does, which first looks which of three ways it was called in.
        self._list = list(scope["headers"])
        self.first: dict[bytes, bytes] = dict(reversed(self._list))

    def __getitem__(self, key: str) -> str:
        return self.first[key.encode("latin-1")].decode("latin-1")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.encode("latin-1") in self.first

    def get(self, key: str, default: Any = None) -> Any:
        value = self.first.get(key.encode("latin-1"))
        return default if value is None else value.decode("latin-1")

    def require_plain(self, http_version: str) -> None:
        """Raises HeadersTooLarge, EncodingUnsupported, Unsupported for what is not plain."""
        first, every = self.first, self._list
        if sum(map(len, chain.from_iterable(every))) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(message=f"the headers are longer than {MAX_HEADER_BYTES} bytes")
        if len(first) != len(every):
            names = [name for name, _ in every]
            for field in _ONCE:
                if names.count(field) > 1:
                    raise Unsupported(message=f"the header {field.decode()} is given twice")
        # granian makes an empty one of none at all.
        if http_version == "1.1" and not first.get(b"host"):
            raise Unsupported(message="the header host is missing (RFC 9112, section 3.2)")
        # Digests are of the bytes as they are, so unpacking them gains nothing.
        for field, known in _ENCODINGS:
            if field in first and first[field].strip().lower() != known:
                raise EncodingUnsupported(
                    message=f"{field.decode()}: send the body as it is, {known.decode()} at most"
                )


class Request(requests.Request):
    """A request whose head is read once."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self.fields = Headers(scope)

    @property
    def headers(self) -> Headers:
        return self.fields

    @property
    def has_unread_body(self) -> bool:
        """Whether more of the body was announced than was read."""
        announced = self.fields.get("content-length", "0") != "0"
        left = announced or "transfer-encoding" in self.fields
        return left and BODY_IS_OVER not in self.scope


def require_json(fields: Headers) -> None:
    """A body says that it is JSON. Raises MediaTypeUnsupported.

    Fetch Standard, "CORS-safelisted request-header": a page of any origin may send text/plain and
    forms to any host; application/json it may not.
    """
    if fields.get("content-length", "0") == "0" and "transfer-encoding" not in fields:
        return
    kind = fields.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise MediaTypeUnsupported({"content_type": kind[:100]})


def raw_path(scope: Scope) -> str:
    """The path as it was sent, still percent-encoded. Raises UriTooLong."""
    # ASGI servers need not keep it; then what was decoded is encoded again.
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    if len(raw) > MAX_PATH_BYTES:
        raise UriTooLong(message=f"the path is longer than {MAX_PATH_BYTES} bytes")
    return raw.partition(b"?")[0].decode("latin-1")
