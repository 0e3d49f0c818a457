"""The control socket: requests that only the running server can carry out."""

import errno
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ullage.control import (
    MAX_REQUEST_BYTES,
    ControlError,
    ControlServer,
    ask_control,
    serve_control,
)

WAIT_SECONDS = 30


def echo(request: dict[str, Any]) -> Iterable[dict[str, Any]]:
    return [{"asked": request}, {"and": 2}]


def fail_midway(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"first": 1}
    raise RuntimeError("the disk is on fire")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    server = serve_control(path, {"echo": echo, "fail": fail_midway})
    yield server
    server.close()


def ask(path: Path, **request: Any) -> list[dict[str, Any]]:
    answers = ask_control(path, request)
    assert answers is not None, "no server listens"
    return list(answers)


def raw(path: Path, *pieces: bytes) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_SECONDS)
        connection.connect(str(path))
        for piece in pieces:
            connection.sendall(piece)
        with connection.makefile("rb") as lines:
            return [json.loads(line) for line in lines]


def test_a_request_is_answered_line_by_line(path: Path, server: ControlServer) -> None:
    assert ask(path, do="echo", mode="fast") == [{"asked": {"mode": "fast"}}, {"and": 2}]


def test_the_last_line_says_that_it_is_done(path: Path, server: ControlServer) -> None:
    assert raw(path, b'{"do": "echo"}\n') == [{"asked": {}}, {"and": 2}, {"done": True}]
    assert raw(path, b'{"do":', b' "echo"}', b"\n")[-1] == {"done": True}, "in pieces"


def test_only_the_owner_may_connect(path: Path, server: ControlServer) -> None:
    status = path.lstat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_only_the_owner_may_connect_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(serve_control(path, {})):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_no_server_listening_is_no_error(path: Path, tmp_path: Path) -> None:
    assert ask_control(path, {}) is None
    assert ask_control(tmp_path / "no" / "such" / "folder", {}) is None
    path.touch()
    assert ask_control(path, {}) is None, "a file is not a socket"
    assert ask_control(path / "below", {}) is None


def test_a_stale_socket_is_replaced(path: Path) -> None:
    """What a killed server leaves behind."""
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert ask_control(path, {}) is None
    with closing(serve_control(path, {"echo": echo})):
        assert ask(path, do="echo") == [{"asked": {}}, {"and": 2}]
    assert not os.path.lexists(path)


def test_another_file_is_not_replaced(path: Path) -> None:
    path.write_text("notes")
    with pytest.raises(FileExistsError, match="not a socket"):
        serve_control(path, {})
    assert path.read_text() == "notes"
    assert list(path.parent.iterdir()) == [path]


def test_a_server_that_was_replaced_leaves_its_successor_alone(path: Path) -> None:
    first = serve_control(path, {})
    with closing(serve_control(path, {"echo": echo})):
        first.close()
        assert ask(path, do="echo")


def test_a_folder_that_is_missing_is_made_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "control.sock"
    with closing(serve_control(path, {"echo": echo})):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert ask(path, do="echo")


def test_a_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    """unix(7): sun_path holds 108 bytes; data folders may lie deeper."""
    path = tmp_path / ("deep" * 20) / ("deeper" * 20) / "control.sock"
    with closing(serve_control(path, {"echo": echo})):
        assert path.is_socket()
        assert ask(path, do="echo", n=1) == [{"asked": {"n": 1}}, {"and": 2}]
    assert not os.path.lexists(path)
    assert ask_control(path, {}) is None


@pytest.mark.parametrize("length", [106, 107, 108, 109])
def test_every_length_of_a_path_works(tmp_path: Path, length: int) -> None:
    room = length - len(os.fsencode(tmp_path)) - len("//s")
    path = tmp_path / ("x" * room) / "s"
    assert len(os.fsencode(path)) == length
    with closing(serve_control(path, {"echo": echo})):
        assert ask(path, do="echo")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{\n",
        b"[]\n",
        b"7\n",
        b"\xff\n",
        b"{}\n",
        b'{"do": 7}\n',
        b'{"do": "rm"}\n',
        b" " * (MAX_REQUEST_BYTES + 1),
        b"[" * 50_000 + b"\n",
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "number",
        "bytes",
        "nothing",
        "type",
        "unknown",
        "endless",
        "deep",
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    path: Path, server: ControlServer, line: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT_SECONDS)
        connection.connect(str(path))
        connection.sendall(line)
        with connection.makefile("rb") as lines:
            (answer,) = map(json.loads, lines)
    assert answer["done"] is False
    assert "expected" in answer["error"]
    assert ask(path, do="echo"), "the server goes on"


def test_a_failure_is_told_and_logged(
    path: Path, server: ControlServer, caplog: pytest.LogCaptureFixture
) -> None:
    answers = ask_control(path, {"do": "fail"})
    assert answers is not None
    assert next(answers) == {"first": 1}
    with pytest.raises(ControlError, match="RuntimeError: the disk is on fire"):
        next(answers)
    assert "the disk is on fire" in caplog.text
    assert ask(path, do="echo"), "the server goes on"


def test_an_answer_that_json_cannot_carry_is_a_failure(path: Path) -> None:
    with (
        closing(serve_control(path, {"odd": lambda request: [{"path": path}]})),
        pytest.raises(ControlError, match="TypeError"),
    ):
        ask(path, do="odd")


class Endless:
    """A handler that answers until it is closed."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.closed = threading.Event()

    def __call__(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            while True:
                yield {"tick": "x" * 4096}
                self.started.set()
        finally:
            self.closed.set()


def test_a_client_that_goes_away_ends_the_work(path: Path) -> None:
    handler = Endless()
    with closing(serve_control(path, {"endless": handler, "echo": echo})):
        answers = ask_control(path, {"do": "endless"})
        assert answers is not None
        next(answers)
        answers.close()
        assert handler.closed.wait(WAIT_SECONDS)
        assert ask(path, do="echo"), "the server goes on"


def test_closing_the_server_ends_the_work_and_the_client_is_told(path: Path) -> None:
    handler = Endless()
    server = serve_control(path, {"endless": handler})
    answers = ask_control(path, {"do": "endless"})
    assert answers is not None
    next(answers)
    # The client reads nothing more, so that the handler is stuck in sending when this comes.
    closing_thread = threading.Thread(target=server.close)
    closing_thread.start()
    closing_thread.join(WAIT_SECONDS)
    assert not closing_thread.is_alive(), "still waiting for the client"
    assert handler.closed.is_set(), "nothing of it runs on"
    with pytest.raises(ControlError, match=r"went away|talked to"):
        for _ in answers:
            pass
    assert ask_control(path, {}) is None


def test_several_requests_are_worked_on_at_once(path: Path) -> None:
    handler = Endless()
    with closing(serve_control(path, {"endless": handler, "echo": echo})):
        answers = ask_control(path, {"do": "endless"})
        assert answers is not None
        next(answers)
        assert ask(path, do="echo")
        answers.close()


def test_more_requests_than_workers_wait_for_their_turn(path: Path) -> None:
    gate = threading.Event()

    def wait(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        gate.wait(WAIT_SECONDS)
        yield {"n": request["n"]}

    with closing(serve_control(path, {"wait": wait})):
        waiting = [ask_control(path, {"do": "wait", "n": n}) for n in range(12)]
        results: list[list[dict[str, Any]]] = [[] for _ in waiting]
        threads = [
            threading.Thread(target=_collect(answers, result))
            for answers, result in zip(waiting, results, strict=True)
        ]
        for thread in threads:
            thread.start()
        gate.set()
        for thread in threads:
            thread.join()
    assert results == [[{"n": n}] for n in range(12)]


def _collect(
    answers: Iterator[dict[str, Any]] | None, result: list[dict[str, Any]]
) -> Callable[[], None]:
    assert answers is not None
    return lambda: result.extend(answers)


def test_a_socket_that_may_not_be_used_is_an_error(
    path: Path, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is injected, for root may use every socket."""

    def refuse(connection: socket.socket, address: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(ControlError, match="Permission denied"):
        ask_control(path, {})
