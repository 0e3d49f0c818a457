"""Two servers on one PostgreSQL database and one store: what the one was doing when it was killed
goes on in the other within seconds, not when its claims would have ended."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.crash.harness import (
    CrashServer,
    ForkServer,
    Lost,
    User,
    digest_of,
    make_image,
    some_bytes,
    wait_until,
)

pytestmark = pytest.mark.postgresql

# It counts as dead after 5 s without a sign of life.
SECONDS = 6.0
DATA = some_bytes("in the middle", 300_000)


@pytest.fixture
def pair(
    forkserver: ForkServer, postgres_url: str, tmp_path: Path
) -> Iterator[tuple[CrashServer, CrashServer]]:
    store = tmp_path / "store"
    one, other = (
        CrashServer(forkserver, tmp_path / name, database=postgres_url, storage=store)
        for name in ("one", "other")
    )
    with one, other:
        for server in (one, other):
            server.arguments = ("--read-grace", "0s")
        yield one, other


def _address(server: CrashServer) -> tuple[str, int]:
    host, _, port = server.host.rpartition(":")
    return host, int(port)


def test_an_upload_goes_on_in_the_other_process_within_seconds(
    pair: tuple[CrashServer, CrashServer], postgres_url: str
) -> None:
    """Killed in the middle of a PATCH: 57 s of "another request is working on this upload"."""
    one, other = pair
    for server in pair:
        server.start()
    with User(one.host) as user, psycopg.connect(postgres_url, autocommit=True) as database:
        location = user.open_session("app", DATA)
        user.append(location, DATA[:1000])
        with socket.create_connection(_address(one)) as patch:
            # A long body is written while it arrives.
            patch.sendall(
                f"PATCH {location} HTTP/1.1\r\nHost: {one.host}\r\nContent-Length: {2**24}\r\n"
                "Content-Type: application/octet-stream\r\n\r\n".encode()
            )
            patch.sendall(DATA[1000:200_000])
            claimed = "SELECT count(*) FROM uploads WHERE claim IS NOT NULL"
            wait_until(
                lambda: database.execute(claimed).fetchone() == (1,), lambda: f"no claim\n{one.log}"
            )
            killed = time.monotonic()
            one.kill9()
    with User(other.host) as user:
        statuses: list[int] = []
        while not statuses or statuses[-1] == 503:
            statuses.append(user.client.ask("PATCH", location, DATA[1000:]).status)
            assert time.monotonic() < killed + SECONDS, f"{statuses}\n{other.log}"
        assert statuses[-1] == 202, statuses
        user.client.expect(201, "PUT", f"{location}?digest={digest_of(DATA)}")
        found = user.client.expect(200, "GET", f"/v2/app/blobs/{digest_of(DATA)}")
        assert found.body == DATA
    other.check()


def test_a_job_goes_on_in_the_other_process_within_seconds(
    pair: tuple[CrashServer, CrashServer],
) -> None:
    """It is told that the first has died; by itself it looks for work every 30 s."""
    one, other = pair
    one.armed = "job.in_transaction=kill"
    other.start()
    one.start()
    with User(one.host) as user:
        user.push("app", make_image(DATA[:5000]), "v1")
        with suppress(Lost):
            user.purge("app")
    one.expect_kill()
    killed = time.monotonic()
    with User(other.host) as user:
        wait_until(lambda: user.jobs() == ["done"], lambda: f"{user.jobs()}\n{other.log}")
        assert time.monotonic() < killed + SECONDS + 1
    other.check()
