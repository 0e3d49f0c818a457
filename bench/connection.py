"""A client that costs so little that the server is what is measured.

HTTP/1.1 over one kept-alive connection, as much of it as registries answer with. Real clients do
more work per request; they would hide the server behind themselves. Over TLS no certificate is
verified: the servers are on this machine, and their certificates made up.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_READ_BYTES = 256 * 1024
# Without it docker-registry says that there is no such manifest.
_ACCEPT = b"Accept: application/vnd.oci.image.manifest.v1+json, */*\r\n"


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_UNVERIFIED = _unverified()


class Broken(Exception):
    """The server ended the connection in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Connection:
    """One kept-alive connection to `url`: "http://127.0.0.1:5000", or https for TLS."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._host = parts.netloc.encode()
        address = (parts.hostname, parts.port or (443 if secure else 80))
        self._socket = socket.create_connection(address, timeout=300)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            self._socket = _UNVERIFIED.wrap_socket(self._socket)
        self._received = bytearray()

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | memoryview | None = None,
        content_type: str = "application/octet-stream",
    ) -> Answer:
        """Send one request and read its whole answer; `target` may be an absolute URL."""
        path = "/" + target.split("/", 3)[3] if target.startswith("http") else target
        head = b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (method.encode(), path.encode(), self._host)
        head += _ACCEPT
        if body is not None:
            head += b"Content-Type: %s\r\n" % content_type.encode()
        if method not in ("GET", "HEAD"):
            head += b"Content-Length: %d\r\n" % (0 if body is None else len(body))
        head += b"\r\n"
        if body is not None and len(body) <= _READ_BYTES:
            self._socket.sendall(head + bytes(body))
        else:
            self._socket.sendall(head)
            if body is not None:
                self._socket.sendall(body)
        return self._answer(bodiless=method == "HEAD")

    def expect(
        self,
        status: int,
        method: str,
        target: str,
        body: bytes | memoryview | None = None,
        content_type: str = "application/octet-stream",
    ) -> Answer:
        answer = self.ask(method, target, body, content_type)
        if answer.status != status:
            raise AssertionError(f"{method} {target}: {answer.status} {answer.body[:300]!r}")
        return answer

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, *, bodiless: bool) -> Answer:
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        status = int(first.split(" ", 2)[1])
        if bodiless or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, self._chunks())
        return Answer(status, headers, self._exactly(int(headers.get("content-length", "0"))))

    def _chunks(self) -> bytes:
        body = bytearray()
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            self._until(b"\r\n")
        self._until(b"\r\n")
        return bytes(body)

    def _until(self, end: bytes) -> bytes:
        while (found := self._received.find(end)) < 0:
            self._receive()
        taken = bytes(self._received[:found])
        del self._received[: found + len(end)]
        return taken

    def _exactly(self, n: int) -> bytes:
        while len(self._received) < n:
            self._receive()
        taken = bytes(self._received[:n])
        del self._received[:n]
        return taken

    def _receive(self) -> None:
        piece = self._socket.recv(_READ_BYTES)
        if not piece:
            raise Broken
        self._received += piece
