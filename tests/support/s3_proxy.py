"""A proxy in front of a real S3 server: how it listens, answers, and asks for itself."""

import http.client
import threading
from abc import abstractmethod
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.buckets import S3Server

Answer = tuple[int, list[tuple[str, str]], bytes]


class S3Proxy(S3Server):
    """`server` as it is reached by way of the proxy; started and stopped by the `with` block."""

    def __init__(self, server: S3Server) -> None:
        super().__init__(server.folder)
        self.upstream = server
        self.environment = server.environment

    @abstractmethod
    def serve(self, request: "ProxiedRequest") -> None:
        """Answer one request."""

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        return self.upstream.url(bucket, prefix, **{"endpoint": self.endpoint, **options})

    def client(self) -> Any:
        return self.upstream.client()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), ProxiedRequest)
        self._server.proxy = self
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: S3Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are none of the test's business."""


class ProxiedRequest(BaseHTTPRequestHandler):
    """One request after the other of a connection, with its `body`."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.proxy.serve(self)
        self.wfile.flush()

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, keep_blank_values=True)

    @property
    def operation(self) -> str:
        """What is asked for, in the words of S3; one word for all listings."""
        query = self.query
        match self.command:
            case "PUT":
                return "UploadPart" if "partNumber" in query else "PutObject"
            case "POST" if "uploads" in query:
                return "CreateMultipartUpload"
            case "POST":
                return "DeleteObjects" if "delete" in query else "CompleteMultipartUpload"
            case "DELETE":
                return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
            case "GET" if {"list-type", "uploads", "uploadId", "versioning"} & query.keys():
                return "List"
        return {"GET": "GetObject", "HEAD": "HeadObject"}[self.command]

    def ask_upstream(
        self, path: str | None = None, headers: list[tuple[str, str]] | None = None
    ) -> Answer:
        """Pass the request on as it is, Host and all, since they are signed; or another one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.proxy.upstream.port)
        try:
            connection.putrequest(
                self.command, path or self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in headers or self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            # A refusal may come before the body was read.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.endheaders(self.body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        named = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if "content-length" not in named and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        said = f"<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>"
        body = b"" if self.command == "HEAD" else said.encode()
        self.answer(status, [("Content-Type", "application/xml")], body)
