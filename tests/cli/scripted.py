"""A registry that answers what it is told to: for faults that a real one does not show."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ullage.cli.client.address import Origin
from ullage.cli.client.connection import Connections
from ullage.cli.client.registry import RemoteRegistry
from ullage.cli.client.saved import Login
from ullage.cli.shell.console import Console
from ullage.cli.shell.errors import Unauthenticated

Step = tuple[int, dict[str, str], Any]


class Script:
    """A server that answers with one step after another, and what it was asked."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.asked: list[str] = []
        self.shown: list[str | None] = []
        self.bodies: list[str] = []
        self.waited: list[float] = []

    @contextmanager
    def serving(self, login: Login | None = None) -> Iterator[RemoteRegistry]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                script.bodies.append(self.rfile.read(length).decode())
                script.asked.append(f"{self.command} {self.path}")
                script.shown.append(self.headers.get("Authorization"))
                status, headers, content = script.steps.pop(0)
                if status == 0:  # The connection breaks.
                    self.close_connection = True
                    return
                body = b"" if content is None else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = do_PATCH = answer

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                origin = Origin("http", "127.0.0.1", server.server_port)
                with closing(Connections(origin, None, Console())) as connections:
                    yield RemoteRegistry(
                        connections, Console(), login, ("a:b:c",), _nobody, self.waited.append
                    )
            finally:
                server.shutdown()
                thread.join()


def _nobody() -> Login:
    raise Unauthenticated("nobody is there to ask")
