"""A service of S3 that fails as real ones do: a proxy in front of a real server.

It passes requests on as they are, signatures included, unless a fault is due for their operation.
"""

import http.client
import threading
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.support.buckets import S3Server

_XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class FaultyS3(S3Server):
    """`server` as it is reached by way of the proxy; started and stopped by the `with` block."""

    def __init__(self, server: S3Server) -> None:
        super().__init__(server.folder)
        self.upstream = server
        # What is due, by operation; each fault once.
        self.due: dict[str, list[Callable[[_Handler], None]]] = defaultdict(list)
        # Every request, until it is taken away again.
        self.always: Callable[[_Handler], None] | None = None
        # Names of objects that refuse to be deleted.
        self.stuck: set[str] = set()
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.faulty = self
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next_fault(self, operation: str) -> "Callable[[_Handler], None] | None":
        with self._lock:
            self.asked.append(operation)
            if self.always is not None:
                return self.always
            return self.due[operation].pop(0) if self.due[operation] else None


# --- faults -----------------------------------------------------------------------------------


def slow_down(handler: "_Handler") -> None:
    """Refused before anything is done: too many requests."""
    handler.refuse(503, "SlowDown")


def expired(handler: "_Handler") -> None:
    """The credentials have ended."""
    handler.refuse(400, "ExpiredToken")


def full(handler: "_Handler") -> None:
    """The bucket's quota is used up."""
    handler.refuse(403, "QuotaExceeded")


def reset(handler: "_Handler") -> None:
    """The connection breaks before anything is done."""
    handler.close_connection = True


def answer_lost(handler: "_Handler") -> None:
    """Done, and the connection breaks before the answer."""
    handler.ask_upstream()
    handler.close_connection = True


def error_in_200(handler: "_Handler") -> None:
    """Refused by the body of an answer that began well, as a long completion's."""
    handler.refuse(200, "InternalError")


def done_and_error_in_200(handler: "_Handler") -> None:
    """Done all the same."""
    handler.ask_upstream()
    handler.refuse(200, "InternalError")


def half_a_body(handler: "_Handler") -> None:
    """The connection breaks in the middle of the answer's body."""
    status, headers, body = handler.ask_upstream()
    handler.answer(status, headers, body[: len(body) // 2])
    handler.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    faulty: FaultyS3

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are none of the test's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        operation = self._operation()
        fault = self.server.faulty.next_fault(operation)
        if fault is not None:
            fault(self)
        elif operation == "DeleteObjects" and self.server.faulty.stuck:
            self._delete_others()
        else:
            self.answer(*self.ask_upstream())
        self.wfile.flush()

    def ask_upstream(self) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.faulty.upstream.port)
        try:
            # Host and all: they are signed.
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
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
        if "content-length" not in named:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        said = f"<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>"
        self.answer(status, [("Content-Type", "application/xml")], said.encode())

    def _delete_others(self) -> None:
        """As a service does where some objects are locked: the others go."""
        faulty, bucket = self.server.faulty, self.path.split("/")[1].partition("?")[0]
        keys = [found.text or "" for found in ET.fromstring(self.body).iter(f"{_XMLNS}Key")]
        errors = ""
        for key in keys:
            if key in faulty.stuck:
                errors += f"<Error><Key>{key}</Key><Code>AccessDenied</Code></Error>"
            else:
                faulty.upstream.client().delete_object(Bucket=bucket, Key=key)
        self.answer(200, [], f"<DeleteResult>{errors}</DeleteResult>".encode())

    def _operation(self) -> str:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
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
