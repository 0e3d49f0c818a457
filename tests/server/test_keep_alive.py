"""How long a connection may be without a request: long between two of them, else not.

A proxy's pool that takes a connection again while the server closes it turns that into a 502, so
connections are kept for longer than pools keep theirs (60 s in nginx).
"""

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.raw import Connection
from tests.support.server import UllageServer
from ullage.config.loading import load_settings

pytestmark = pytest.mark.thorough

HEADER_SECONDS = 1
KEEP_SECONDS = 12
LIMITS = ("--header-timeout", f"{HEADER_SECONDS}s", "--keep-alive", f"{KEEP_SECONDS}s")
ASK = "GET", "/v2/"


def seconds_until_closed(connection: Connection) -> float:
    began = time.monotonic()
    assert connection.is_closed()
    return time.monotonic() - began


def test_pools_of_common_proxies_end_first() -> None:
    """nginx: keepalive_timeout of an upstream is 60 s, and so is ALB's idle timeout."""
    assert load_settings({}, {}).keep_alive.total_seconds() > 60


@pytest.mark.parametrize("tls", [(), ("--tls", "self-signed")], ids=["plain", "tls"])
def test_an_idle_connection_is_kept_and_a_slow_head_is_not(
    tmp_path: Path, tls: tuple[str, ...]
) -> None:
    with UllageServer(tmp_path / "data", *LIMITS, *tls) as server, ExitStack() as stack:

        def connect() -> Connection:
            connection = Connection(server, seconds=3 * KEEP_SECONDS, tls=bool(tls))
            return stack.enter_context(connection)

        idle, slow, again, silent, first = (connect() for _ in range(5))
        for one in (idle, slow, again):
            assert one.request(*ASK).answer().status == 200
        began = time.monotonic()
        slow.send(b"GET /v2/ HTTP/1.1\r\nX-Slow: ")
        first.send(b"GET /v2/ HTTP/1.1\r\nX-Slow: ")
        for late in (slow, first):
            # However busily its bytes drip.
            while not late.is_gone():
                late.send(b"x")
                time.sleep(0.05)
                assert time.monotonic() - began < KEEP_SECONDS / 2
        assert seconds_until_closed(silent) < KEEP_SECONDS / 2
        assert time.monotonic() - began > HEADER_SECONDS
        assert again.request(*ASK).answer().status == 200
        assert seconds_until_closed(idle) < 2 * KEEP_SECONDS
        assert time.monotonic() - began > KEEP_SECONDS * 0.9
        assert again.is_closed()
        server.assert_no_500()


def test_a_request_that_takes_longer_is_not_ended(tmp_path: Path) -> None:
    """Neither while its body comes slowly, nor for what comes behind it."""
    with UllageServer(tmp_path / "data", *LIMITS) as server, Connection(server) as connection:
        session = connection.request("POST", "/v2/app/blobs/uploads/").answer().headers["location"]
        began = time.monotonic()
        connection.request("PATCH", session, length=1000)
        while time.monotonic() - began < 4 * HEADER_SECONDS:
            connection.send(b"x")
            assert not connection.is_gone()
            time.sleep(0.1)
        connection.half_close()
        answer = connection.answer()
        assert answer.code == "SIZE_INVALID"
