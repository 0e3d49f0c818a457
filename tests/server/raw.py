"""HTTP by hand, where the HTTP itself is odd: bytes out, answers in, connections cut."""

import json
import os
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from tests.support.server import UllageServer

SECONDS = 20
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The OCI error code, if the body is an OCI error."""
        if self.status < 400 or not self.body:
            return None
        return str(json.loads(self.body)["errors"][0]["code"])


class Closed(Exception):
    """The other side closed the connection. `received`: what came before that."""

    def __init__(self, received: bytes) -> None:
        super().__init__(received)
        self.received = received


class Connection:
    """A TCP connection that speaks only what it is told to."""

    def __init__(
        self,
        server: UllageServer,
        *,
        seconds: float = SECONDS,
        receive_buffer: int | None = None,
        tls: bool = False,
    ) -> None:
        host, _, port = server.host.rpartition(":")
        self._socket = socket.socket()
        context = ssl.create_default_context() if tls else None
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(seconds)
        self._received = b""
        # Whether it took no more bytes.
        self._refused = False
        try:
            self._socket.connect((host, int(port)))
            if context is not None:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                self._socket = context.wrap_socket(self._socket)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> Self:
        """Send bytes; one end that the server has closed already takes no more."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            self._refused = True
        return self

    def request(
        self, method: str, path: str, headers: str = "", body: bytes = b"", *, length: int = -1
    ) -> Self:
        """Send a request; `length` announces another length than that of `body`."""
        announced = len(body) if length < 0 else length
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}"
        if announced or body:
            head += f"Content-Length: {announced}\r\n"
        return self.send(f"{head}\r\n".encode("latin-1") + body)

    def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer. Raises Closed or TimeoutError. `to_head`: it has no body."""
        status_line, *lines = self.head().decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if line)
        headers = {name.lower(): value for name, value in pairs}
        status = int(status_line.split()[1])
        bodiless = to_head or status in (204, 304) or status < 200
        length = 0 if bodiless else int(headers["content-length"])
        return Answer(status, headers, self.exactly(length))

    def head(self) -> bytes:
        """The head of the next answer; its body is still to be read."""
        return self._until(b"\r\n\r\n")

    def exactly(self, size: int) -> bytes:
        """So many bytes. Raises Closed when there are fewer."""
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def everything(self) -> bytes | None:
        """All that comes until the server closes; None if it does not."""
        try:
            while True:
                self._receive()
        except Closed as closed:
            return closed.received
        except TimeoutError:
            return None

    def is_closed(self) -> bool:
        """Wait for more, and say whether instead of it came the end."""
        try:
            while not self._received:
                self._receive()
        except Closed:
            return True
        return False

    def is_gone(self) -> bool:
        """Whether the server has closed by now, without waiting."""
        if self._refused:
            return True
        try:
            # The socket itself, also below TLS.
            with socket.socket(fileno=os.dup(self._socket.fileno())) as same:
                return same.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def half_close(self) -> Self:
        """Say that nothing more will be sent, but go on listening."""
        with suppress(OSError):  # Closed from the other side already.
            self._socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Close with RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.close()

    def close(self) -> None:
        """Close with FIN, or with RST if something was not read."""
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            self._receive()
        found, _, self._received = self._received.partition(mark)
        return found

    def _receive(self) -> None:
        try:
            piece = self._socket.recv(1024 * 1024)
        except (ConnectionResetError, ssl.SSLEOFError):
            piece = b""
        if not piece:
            raise Closed(self._received)
        self._received += piece
