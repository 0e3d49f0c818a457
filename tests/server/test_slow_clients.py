"""F37: clients that send and read as slowly as they can. Nobody else notices, and they go."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.processes import MIB, bytes_read, in_use, peak_bytes, resident_bytes
from tests.server.pushing import push_blob, push_image, start_upload
from tests.server.raw import Connection
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of

pytestmark = pytest.mark.thorough

EACH = 40
# Far below both time limits, so that a slow client is never a silent one.
TICK_SECONDS = 0.2
HEADER_SECONDS = 2
BODY_SECONDS = 3
# On a busy machine; a client that waits for the slow ones waits for ever.
PATIENCE_SECONDS = 10
BLOB = os.urandom(8 * MIB)


@contextmanager
def dripping(senders: list[Connection], readers: list[Connection]) -> Iterator[list[int]]:
    """Send one byte to, and read one from, each of these at every tick; yields how many so far."""
    stop, ticks = threading.Event(), [0]

    def drip() -> None:
        while not stop.wait(TICK_SECONDS):
            for sender in senders:
                sender.send(b"x")
            for reader in readers:
                reader.exactly(1)
            ticks[0] += 1

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield ticks
    finally:
        stop.set()
        thread.join()


def test_slow_clients_stop_nobody_else(tmp_path: Path) -> None:
    """200 of them: silent, slow with headers, with a body, slow readers of all and of a part."""
    limits = ["--header-timeout", f"{HEADER_SECONDS}s", "--body-timeout", f"{BODY_SECONDS}s"]
    with (
        UllageServer(tmp_path / "data", *limits) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client,
        ExitStack() as connections,
    ):
        digest = push_blob(client, "app", BLOB)
        sessions = [start_upload(client, "app") for _ in range(EACH)]
        memory, used = resident_bytes(server), in_use(server)

        def connect(request: bytes, receive_buffer: int | None = None) -> Connection:
            connection = connections.enter_context(
                Connection(server, receive_buffer=receive_buffer)
            )
            return connection.send(request)

        def pull(headers: str) -> list[Connection]:
            head = (
                f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()
            )
            readers = [connect(head, receive_buffer=16384) for _ in range(EACH)]
            for reader in readers:
                assert reader.head().startswith(b"HTTP/1.1 20")
            return readers

        whole, part = pull(""), pull("Range: bytes=1-\r\n")
        silent = [connect(b"") for _ in range(EACH)]
        heads = [connect(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") for _ in range(EACH)]
        chunk = "PATCH {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        bodies = [connect(chunk.format(session).encode()) for session in sessions]

        with dripping(heads + bodies, whole + part) as ticks:
            for number in range(5):
                began = time.monotonic()
                image = push_image(client, "others", f"v{number}", [os.urandom(1000)])
                assert client.get(f"/v2/others/manifests/{image}").status_code == 200
                assert time.monotonic() - began < PATIENCE_SECONDS
            # A head must be there in time, however busily its bytes drip.
            for connection in silent + heads:
                assert connection.is_closed()
            # A body may take its time.
            assert all(client.get(session).status_code == 204 for session in sessions)
        assert ticks[0] > 0

        # The body dries up: told so, and what arrived is kept.
        for connection, session in zip(bodies, sessions, strict=True):
            answer = connection.answer()
            assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
            assert connection.is_closed()
            assert client.get(session).headers["Range"] == f"0-{max(ticks[0] - 1, 0)}"
        assert peak_bytes(server) - memory < 2 * MIB * 2 * EACH

        # A slow reader gets all of it, once it hurries up.
        for readers, first in ((whole, 0), (part, 1)):
            rest = readers[0].exactly(len(BLOB) - first - ticks[0])
            assert digest_of(BLOB[: first + ticks[0]] + rest) == digest
        connections.close()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while in_use(server) > used:
            assert time.monotonic() < deadline, "connections or files are left open"
            time.sleep(0.02)
        server.assert_no_500()


def test_a_reader_that_leaves_costs_nothing_more(tmp_path: Path) -> None:
    """A pull that was broken off is not read to its end for nobody."""
    with (
        UllageServer(tmp_path / "data") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        path = f"/v2/app/blobs/{push_blob(client, 'app', BLOB * 4)}"
        used, read = in_use(server), bytes_read(server)
        readers = [Connection(server, receive_buffer=16384) for _ in range(10)]
        for reader in readers:
            reader.request("GET", path, "Range: bytes=1-\r\n").head()
        assert in_use(server) >= used + 2 * len(readers)
        for reader in readers:
            reader.close()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while in_use(server) > used:
            assert time.monotonic() < deadline, "left open"
            time.sleep(0.01)
        assert bytes_read(server) - read < len(readers) * 2 * len(BLOB), "read to the end"
        server.assert_no_500()
