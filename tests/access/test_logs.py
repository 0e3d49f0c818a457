"""What is written about requests, and what never is: reliability.md S56 to S58."""

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.access.house import House, basic
from tests.support.server import command_environment
from ullage.server.http.access_log import (
    FLUSH_SECONDS,
    MAX_VALUE,
    RequestLog,
    printable,
    request_id_of,
)


def lines(house: House) -> list[dict[str, Any]]:
    """The request log so far, as a machine reads it."""
    time.sleep(FLUSH_SECONDS * 3)
    return [json.loads(line) for line in house.server.log.splitlines() if line.startswith("{")]


def line_of(house: House, response: httpx.Response) -> dict[str, Any]:
    wanted = response.headers["x-request-id"]
    [found] = [line for line in lines(house) if line["request_id"] == wanted]
    return found


def test_each_request_is_one_line_of_json(house: House) -> None:
    response = house.client.get(
        "/v2/team/app/tags/list?n=1&secret=x",
        headers=house.basic("reader") | {"User-Agent": "tester/1"},
    )
    line = line_of(house, response)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line.pop("ms") >= 0
    assert line == {
        "request_id": response.headers["x-request-id"],
        "address": "127.0.0.1",
        "subject": "reader",
        "method": "GET",
        "path": "/v2/team/app/tags/list",
        "status": 200,
        "agent": "tester/1",
    }


def test_the_request_id_is_told_to_the_client_in_both_headers(house: House) -> None:
    """azure.md section 2.0: az prints the second one in errors."""
    for path in ("/v2/", "/v2/open/app/tags/list", "/nowhere", "/oauth2/token"):
        headers = house.client.get(path).headers
        assert headers["x-request-id"] == headers["x-ms-correlation-request-id"] != ""
    given = house.client.get("/v2/", headers={"X-Request-Id": "job-17.a_b"}).headers
    assert given["x-request-id"] == given["x-ms-correlation-request-id"] == "job-17.a_b"


@pytest.mark.parametrize(
    "header", ["", " ", "a b", "x" * 65, "-a", 'a"', "a\u2028b", "a\x1b[31m", "é", "a\nb", "a/b"]
)
def test_a_request_id_that_could_do_harm_is_replaced(header: str) -> None:
    """S56."""
    assert request_id_of(header.encode()) != header
    made = uuid.UUID(request_id_of(header.encode()))
    assert (made.version, made.variant) == (4, uuid.RFC_4122)


HOSTILE = "a\r\nb\x1b[2Jc\u2028d\u202ee\x00f\x7fg\x9bh"


def test_what_a_client_sends_cannot_forge_a_line_or_move_a_cursor() -> None:
    """CVE-2020-7694 (uvicorn), S56: in either form of the log."""
    for terminal in (False, True):
        written = _written(terminal, path=HOSTILE, agent=HOSTILE, method=HOSTILE, subject=HOSTILE)
        assert written.count("\n") == 1
        body = written.rstrip("\n")
        assert not set(HOSTILE) & set(body) & set("\r\n\x1b\u2028\u202e\x00\x7f\x9b")
        assert "\\u001b" in body


def test_lines_have_a_bounded_length() -> None:
    long = "x" * 100_000
    assert len(printable(long)) <= MAX_VALUE + 1
    assert len(_written(False, path=long, agent=long, method=long, subject=long)) < 2000


def test_hostile_paths_arrive_escaped_from_the_wire(house: House) -> None:
    """End to end: percent-decoded control characters in the path, raw ones in the agent."""
    response = house.client.get(
        "/v2/a%0D%0Ab%1B%5B2J%E2%80%A8c/tags/list",
        headers={b"User-Agent": "evil\u009b31m\u00e9".encode("latin-1")},
    )
    line = line_of(house, response)
    assert line["status"] == 404
    assert not set(line["path"] + line["agent"]) & set("\r\n\x1b\x9b\u2028")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _written(terminal: bool, *, path: str, agent: str, method: str, subject: str) -> str:
    stream = Terminal() if terminal else io.StringIO()

    async def write() -> None:
        log = RequestLog(stream)
        log.write(
            at=1_767_225_600.25,
            request_id="r",
            address="192.0.2.1",
            subject=subject,
            method=method,
            path=path,
            status=200,
            seconds=0.01,
            agent=agent,
        )
        log.flush()

    asyncio.run(write())
    return stream.getvalue()


@pytest.fixture
def at_a_terminal(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A server whose stderr is a terminal: its URL, and the other end of the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ullage", "serve", "--listen", "127.0.0.1:0", "--data", tmp_path],
        env=command_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[3].rstrip(","), ours
    finally:
        process.terminate()
        process.communicate()
        os.close(ours)


def test_on_a_terminal_lines_are_for_people(at_a_terminal: tuple[str, int]) -> None:
    """Readable lines on a terminal."""
    url, terminal = at_a_terminal
    with urllib.request.urlopen(f"{url}/v2/", timeout=10) as response:
        assert response.status == 200
    shown = os.read(terminal, 4096).decode()
    assert "200 GET    /v2/ " in shown
    assert "{" not in shown


def test_a_wrong_password_is_logged_as_a_401_without_an_account(house: House) -> None:
    """The name that was tried might be a password typed into the wrong field."""
    response = house.client.get("/v2/", headers=basic("my-secret-typed-too-early", "x"))
    line = line_of(house, response)
    assert (line["status"], line["subject"]) == (401, "")
    assert "my-secret-typed-too-early" not in house.server.log
