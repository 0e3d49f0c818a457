"""A way to ask the running server for something that only it can do.

On SQLite one process owns the database, and promises to pushers live in its memory. So a command
such as `ullage check` is carried out by the server, if one runs: over a Unix socket in the data
folder that only that folder's owner may use. A request is one line of JSON, `{"do": name, …}`. The
answer is any number of lines of JSON objects, then `{"done": true}`, or
`{"done": false, "error": text}` if it could not be finished.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]

# A scope map of 500 repositories with the longest of names is some 150 KB.
MAX_REQUEST_BYTES = 256 * 1024
# A client connects with its request in hand.
_REQUEST_SECONDS = 10
# A client that reads nothing for this long is gone, or as good as.
_SEND_SECONDS = 60
# Requests that are worked on at once; more of them wait.
_WORKERS = 4
# unix(7): sun_path has 108 bytes, one of which ends it.
_MAX_ADDRESS_BYTES = 107


class ControlError(OSError):
    """The server refused, failed, or went away in the middle. The text says which."""


def serve_control(path: Path, handlers: Mapping[str, Handler]) -> ControlServer:
    """Answer requests at the socket `path` until closed; a handler's answer is sent as it is made.

    A socket that another process left at `path`, or still serves, is replaced. Raises
    FileExistsError if something else is there, OSError if the socket cannot be made.
    """
    return ControlServer(path, handlers)


def ask_control(
    path: Path, request: Mapping[str, Any]
) -> Generator[dict[str, Any], None, None] | None:
    """Send a request to the server at `path` and give its answers; None if no server listens there.

    Closing the answers early ends the server's work on them, too.
    Raises ControlError, also while the answers are read.
    """
    connection = _connect(path)
    return None if connection is None else _answers(connection, request)


class ControlServer:
    """A thread that accepts, and a few that answer."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = dict(handlers)
        self._listener, self._identity = _listen(path)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._closing = False
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="ullage-control")
        self._thread = threading.Thread(target=self._accept, name="ullage-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, cutting off what is being answered at its next line."""
        with self._lock:
            self._closing = True
            connections = list(self._connections)
        # Not close(): that would not wake a thread that waits in accept or send.
        for open_socket in (self._listener, *connections):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._pool.shutdown()
        self._listener.close()
        with suppress(FileNotFoundError):
            if _identity(self._path) == self._identity:
                self._path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._closing:
                    log.error("no longer answering at %s: %s", self._path, error)
                return
            with self._lock:
                if self._closing:
                    connection.close()
                    return
                self._connections.add(connection)
            self._pool.submit(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        # OSError: the client went away, or this server is closing; no one is left to answer.
        with connection, suppress(OSError):
            try:
                self._answer(connection)
            finally:
                with self._lock:
                    self._connections.discard(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_REQUEST_SECONDS)
        try:
            handler, request = self._understand(_read_request(connection))
        except ControlError as error:
            connection.sendall(_line({"done": False, "error": str(error)}))
            return
        connection.settimeout(_SEND_SECONDS)
        # Closed when the client goes away, so that the work for it ends too.
        with closing(_contained(handler, request)) as answers:
            for line in answers:
                connection.sendall(line)

    def _understand(self, line: bytes) -> tuple[Handler, dict[str, Any]]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ControlError("request: expected one line of JSON") from error
        name = request.pop("do", None) if isinstance(request, dict) else None
        if not isinstance(name, str) or name not in self._handlers:
            known = ", ".join(sorted(self._handlers))
            raise ControlError(f'request: expected {{"do": one of {known}}}')
        return self._handlers[name], request


def _contained(handler: Handler, request: dict[str, Any]) -> Generator[bytes, None, None]:
    """The lines the handler answers and, whatever happens to it, a last one."""
    try:
        for answer in handler(request):
            yield _line(answer)
    except Exception as error:
        # The outermost place: the operator finds it in the log, and the client is told.
        log.exception("a control request failed")
        yield _line({"done": False, "error": f"{type(error).__name__}: {error}"})
    else:
        yield _line({"done": True})


# --- the wire -------------------------------------------------------------------------------------


def _read_request(connection: socket.socket) -> bytes:
    received = b""
    while b"\n" not in received:
        piece = connection.recv(MAX_REQUEST_BYTES + 1 - len(received))
        received += piece
        if not piece or len(received) > MAX_REQUEST_BYTES:
            raise ControlError(f"request: expected a line of at most {MAX_REQUEST_BYTES} bytes")
    return received.partition(b"\n")[0]


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _answers(
    connection: socket.socket, request: Mapping[str, Any]
) -> Generator[dict[str, Any], None, None]:
    with connection, _as_control_errors(), connection.makefile("rb") as lines:
        connection.sendall(_line(request))
        for line in lines:
            answer = json.loads(line)
            if "done" not in answer:
                yield answer
            elif answer["done"]:
                return
            else:
                raise ControlError(answer["error"])
    raise ControlError("the server went away before it had finished; its log may say why")


@contextmanager
def _as_control_errors() -> Iterator[None]:
    try:
        yield
    except ControlError:
        raise
    except (ValueError, OSError) as error:
        raise ControlError(f"the server cannot be talked to: {error}") from error


# --- the socket -----------------------------------------------------------------------------------


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            connection.connect(address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise ControlError(f"{path}: {error.strerror or error}") from error
    return connection


def _listen(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """A listening socket at `path`, there from one moment to the next, and which file it is."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_other_file(path)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(new) as address:
            listener.bind(address)
        # Before it listens, so that no other user ever gets in.
        new.chmod(0o600)
        listener.listen()
        identity = _identity(new)
        new.rename(path)
    except BaseException:
        listener.close()
        new.unlink(missing_ok=True)
        raise
    return listener, identity


def _refuse_other_file(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} is in the way: it is not a socket")


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """`path` as an address of a Unix socket, also if it is too long for one."""
    if len(os.fsencode(path)) <= _MAX_ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
