"""A crash in the middle of a batch of uploads (architecture.md, "What a request costs").

Each request is answered once: 201 for what is there from then on, 503 for what may be sent again,
or not at all if its own process died.
"""

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg
import pytest

from tests.crash.postgres import CrashingPostgres
from tests.server.pushing import push_blob, push_image, start_upload
from tests.support.actors import wait_until
from tests.support.server import UllageServer
from ullage.oci.digest import Digest, digest_of

pytestmark = [pytest.mark.postgresql, pytest.mark.thorough]

# Pushed alone, one batch for each, before the crowd comes.
ALONE = 5
CROWD = 10
# A batch of the crowd, of those that came while its first one was at work: nobody has more than
# one upload in a batch, and each has two.
BATCH = ALONE + 2
IN_A_BATCH = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND state = 'idle in transaction' AND query LIKE 'DELETE FROM reserved_keys%'"
)


class Sent(NamedTuple):
    """A PUT of some bytes, and the status of each response to it."""

    data: bytes
    location: str
    statuses: Sequence[int]


@pytest.fixture
def postgres() -> Iterator[CrashingPostgres]:
    with CrashingPostgres() as server:
        yield server


def _put(host: str, location: str, data: bytes) -> Sent:
    """On a connection that is closed after the first response; no status if it was cut off."""
    address, _, port = host.rpartition(":")
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        head = (
            f"PUT {location}?digest={digest_of(data)} HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        said = b""
        try:
            connection.sendall(head.encode() + data)
            while piece := connection.recv(65536):
                said += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    statuses = [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]
    return Sent(data, location, statuses)


def _push_two(url: str, host: str, number: int) -> list[Sent]:
    sent = []
    for data in (b"first of %d" % number, b"second of %d" % number):
        with httpx.Client(base_url=url, timeout=60) as client:
            try:
                location = start_upload(client, f"app{number % 3}")
            except (httpx.TransportError, AssertionError):
                break
        sent.append(_put(host, location, data))
    return sent


def _server(folder: Path, url: str, name: str, action: str = "") -> UllageServer:
    arguments = ("--database", url, "--storage", f"file:{folder / 'shared'}")
    armed = f"upload.finish.in_transaction={action}@{BATCH}" if action else ""
    return UllageServer(folder / name, *arguments, env={"ULLAGE_FAILPOINTS": armed})


def _acknowledged_alone(server: UllageServer) -> list[Digest]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        return [push_blob(client, f"app{n % 3}", b"alone %d" % n) for n in range(ALONE)]


def _is_there(client: httpx.Client, digest: Digest) -> bool:
    found = {client.get(f"/v2/app{n}/blobs/{digest}").status_code for n in range(3)}
    assert found <= {200, 404}
    return 200 in found


def test_a_database_that_crashes_under_a_batch_loses_nothing_that_was_acknowledged(
    postgres: CrashingPostgres, tmp_path: Path
) -> None:
    url = postgres.url()
    with (
        _server(tmp_path, url, "data", "sleep:5000") as server,
        ThreadPoolExecutor(CROWD) as pool,
    ):
        kept = _acknowledged_alone(server)
        with psycopg.connect(url, autocommit=True) as observer:
            crowd = [pool.submit(_push_two, server.url, server.host, n) for n in range(CROWD)]
            wait_until(
                lambda: observer.execute(IN_A_BATCH).fetchone() != (0,), "a batch to be at work"
            )
            postgres.crash()
        sent = [each for pushed in crowd for each in pushed.result()]
        assert {len(each.statuses) for each in sent} == {1}
        # Those before the batch were 201, if there were any.
        assert {503} <= {each.statuses[0] for each in sent} <= {201, 503}
        postgres.restart()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for each in sent:
                if each.statuses == [201]:
                    kept.append(digest_of(each.data))
                else:
                    # The session goes on where it was.
                    assert _put(server.host, *each[1::-1]).statuses == [201]
            assert all(_is_there(client, digest) for digest in kept)
            assert all(_is_there(client, digest_of(each.data)) for each in sent)
            push_image(client, "app0", "v1", [sent[0].data])
        server.assert_no_500()


def test_a_process_that_dies_in_a_batch_loses_nothing_and_holds_up_no_other(
    emptied_postgres_url: str, tmp_path: Path
) -> None:
    with (
        _server(tmp_path, emptied_postgres_url, "one", "kill") as one,
        _server(tmp_path, emptied_postgres_url, "other") as other,
        ThreadPoolExecutor(CROWD) as pool,
    ):
        kept = _acknowledged_alone(one)
        url, host = one.url, one.host
        sent = [
            each
            for pushed in pool.map(lambda n: _push_two(url, host, n), range(CROWD))
            for each in pushed
        ]
        assert one.wait() == -9
        assert {()} <= {tuple(each.statuses) for each in sent} <= {(201,), ()}
        with httpx.Client(base_url=other.url, timeout=60) as client:
            for each in sent:
                if each.statuses:
                    kept.append(digest_of(each.data))
                else:
                    # Its bytes were safe, and its facts were not: another process knows the ticket.
                    assert not _is_there(client, digest_of(each.data))
                    assert _put(other.host, *each[1::-1]).statuses == [201]
            assert all(_is_there(client, digest) for digest in kept)
            assert all(_is_there(client, digest_of(each.data)) for each in sent)
        other.assert_no_500()
