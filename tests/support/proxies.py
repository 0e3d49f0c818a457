"""An HTTP proxy before a real server that does to requests what networks and services do.

It forwards everything, unless a test says otherwise: an answer is lost after the request was
carried out, a request is refused, an answer has more headers.
"""

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self


@dataclass(frozen=True)
class Fault:
    """What happens to one request: it is refused with `status`, or forwarded and altered.

    `lost`: the server carries it out, and its answer never arrives. `headers` are laid over those
    of the answer.
    """

    lost: bool = False
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class FaultyProxy:
    """Before a server on `port` of 127.0.0.1. `fault` is asked for each request."""

    def __init__(self, port: int) -> None:
        self.fault: Callable[[str, str], Fault | None] = lambda method, path: None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length)
                fault = proxy.fault(self.command, self.path) or Fault()
                if fault.status is not None:
                    self.answer(fault.status, fault.headers, fault.body)
                    return
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request(self.command, self.path, sent, dict(self.headers))
                answer = connection.getresponse()
                body = answer.read()
                connection.close()
                if fault.lost:
                    self.close_connection = True
                    return
                self.answer(answer.status, {**dict(answer.getheaders()), **fault.headers}, body)

            def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                if self.command == "HEAD":
                    self.send_header("Content-Length", headers.get("content-length", "0"))
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
