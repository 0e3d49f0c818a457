"""Responses that are whole in memory: JSON, or no body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ullage.documents import plain

API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


@lru_cache(maxsize=256)
def _field_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Header fields in ASGI's form."""
    return [(_field_name(name), value.encode("latin-1")) for name, value in headers.items()]


class FixedResponse(Response):
    """A response that is whole in memory: its headers are those given, and Content-Length.

    Starlette's takes three times as long to make, most of it for what we never ask of it.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = encoded(headers)
        # RFC 9110, section 8.6: these two have none.
        if status not in (204, 304) and "Content-Length" not in headers:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))

    @classmethod
    def ready(
        cls, status: int, head: list[tuple[bytes, bytes]], body: bytes = b""
    ) -> FixedResponse:
        """With headers that were encoded before."""
        response = cls.__new__(cls)
        response.status_code = status
        response.background = None
        response.raw_headers = head
        response.body = body
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body})


# json.dumps would make an encoder each time.
_in_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=plain).encode


def json_response(
    content: object,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> Response:
    body = _in_json(content).encode("ascii")
    head = {**API_VERSION, **headers} if headers else API_VERSION
    return FixedResponse(status, {"Content-Type": media_type, **head}, body)


def empty_response(status: int, headers: Mapping[str, str]) -> Response:
    return FixedResponse(status, {**API_VERSION, **headers})
