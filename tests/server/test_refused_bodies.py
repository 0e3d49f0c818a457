"""Refusals of long bodies arrive: the server reads on for a while, and then closes.

RFC 9112, section 9.6. Go's clients, docker's among them, send all of a body before they look for
an answer; a connection that is reset by then has none.
"""

import os
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.processes import MIB, in_use, peak_bytes, resident_bytes
from tests.server.raw import Connection
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of
from ullage.server.http.bodies import LINGER_SECONDS, MAX_LINGERING

pytestmark = pytest.mark.thorough

# Longer than what is read of a body before its refusal.
BODY_BYTES = 24 * MIB
TRIES = 10
DIGEST = digest_of(b"data")
SESSION = "0" * 32
# No disk has so much left.
FULL = ("--min-free", "100000TiB")


def written_whole(server: UllageServer, tls: ssl.SSLContext | None, head: str) -> bytes:
    """Write all of a request, then read: the status line. Raises OSError where Go's clients do."""
    host, _, port = server.host.rpartition(":")
    with ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        connection = stack.enter_context(tls.wrap_socket(plain)) if tls else plain
        connection.sendall(f"{head} HTTP/1.1\r\nHost: localhost\r\n".encode())
        connection.sendall(f"Content-Length: {BODY_BYTES}\r\n\r\n".encode())
        piece = os.urandom(MIB)
        for _ in range(BODY_BYTES // MIB):
            connection.sendall(piece)
        received = b""
        while b"\r\n" not in received:
            more = connection.recv(65536)
            assert more, received
            received += more
        return received.partition(b"\r\n")[0]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_writes_all_and_then_reads_sees_its_refusal(
    tmp_path: Path, tls: bool
) -> None:
    """401, 404, 413 and 507, each ten times of ten."""
    flags = ("--tls", "self-signed") if tls else ()
    context = ssl.create_default_context() if tls else None
    if context is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with (
        UllageServer(tmp_path / "open", *FULL, *flags) as full,
        UllageServer(tmp_path / "closed", "--auth", *flags) as closed,
    ):
        for server, head, status in [
            (closed, f"POST /v2/app/blobs/uploads/?digest={DIGEST}", 401),
            (full, f"PATCH /v2/app/blobs/uploads/{SESSION}", 404),
            (full, "PUT /v2/app/manifests/v1", 413),
            (full, f"POST /v2/app/blobs/uploads/?digest={DIGEST}", 507),
        ]:
            for _ in range(TRIES):
                line = written_whole(server, context, head)
                assert line.split()[1] == str(status).encode(), (head, line)


def test_a_refused_client_is_not_read_for_ever(tmp_path: Path) -> None:
    """One that goes on sending is closed, whatever it announced, and the answer says so."""
    with UllageServer(tmp_path / "data") as server, Connection(server) as connection:
        began = time.monotonic()
        connection.request("PUT", "/v2/app/manifests/v1", body=b"x", length=10**12)
        answer = connection.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        while not connection.is_gone():
            connection.send(b"x")
            assert time.monotonic() < began + 20 * LINGER_SECONDS


def test_refused_clients_together_hold_little(tmp_path: Path) -> None:
    """Of many that are refused only some are read on; others are served meanwhile, and all end."""
    with UllageServer(tmp_path / "data") as server, ExitStack() as stack:
        before, used = resident_bytes(server), in_use(server)
        many = [stack.enter_context(Connection(server)) for _ in range(4 * MAX_LINGERING)]
        for one in many:
            one.request("PUT", "/v2/app/manifests/v1", body=b"x" * 4096, length=10**12)
        with Connection(server) as other:
            assert other.request("GET", "/v2/").answer().status == 200
        for one in many:
            with_answer = one.everything()
            assert with_answer is not None
            assert with_answer.startswith(b"HTTP/1.1 413")
        deadline = time.monotonic() + 20 * LINGER_SECONDS
        while in_use(server) > used:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert peak_bytes(server) - before < MAX_LINGERING * MIB
