"""`ulimit -n 64`: what there is no room for is answered 503, at once, and it passes."""

import os
import resource
import ssl
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.server.processes import MIB
from tests.server.pushing import push_blob, push_image
from tests.server.raw import Connection
from tests.support.server import UllageServer
from ullage.server.listener.descriptors import (
    MAX_CONNECTIONS,
    OF_A_CONNECTION,
    OF_A_THREAD,
    OF_THE_PROCESS,
    RESERVED,
    budget,
)

FILES = 64
CLIENTS = 60
BLOB = os.urandom(4 * MIB)


def statuses(connections: list[Connection]) -> Counter[int]:
    """What each of them is answered. A test fails where one is not."""
    return Counter(connection.answer().status for connection in connections)


@pytest.mark.parametrize("limit", [64, 100, 256, 1024, 4096, 32768, 10**6])
@pytest.mark.parametrize("threads", [1, 4, 32, 200])
def test_what_is_accepted_has_its_descriptors(limit: int, threads: int) -> None:
    """All connections and all threads at work at once stay below the limit."""
    room = budget(limit, threads)
    used = OF_THE_PROCESS + RESERVED
    used += room.threads * OF_A_THREAD + room.connections * OF_A_CONNECTION
    assert used <= limit
    assert 2 <= room.connections <= MAX_CONNECTIONS
    assert room.threads <= max(2, threads)


def test_an_ordinary_limit_costs_nothing() -> None:
    assert budget(32768, 32).connections == MAX_CONNECTIONS
    assert budget(1024, 32).threads == 32


@pytest.mark.thorough
def test_connections_without_room_are_answered_503(tmp_path: Path) -> None:
    """Not left to wait; those that have room are served, and afterwards all are."""
    with UllageServer(tmp_path / "data", max_files=FILES) as server:
        for _ in range(2):
            with ExitStack() as stack:
                many = [stack.enter_context(Connection(server)) for _ in range(CLIENTS)]
                for one in many:
                    one.request("GET", "/v2/")
                found = statuses(many)
            assert set(found) == {200, 503}
            assert found[503] > CLIENTS / 2
        with Connection(server) as one:
            assert one.request("GET", "/v2/").answer().status == 200
        assert "no room for more connections" in server.log
        server.assert_no_500()


@pytest.mark.thorough
def test_connections_without_room_are_answered_503_over_tls(tmp_path: Path) -> None:
    with (
        UllageServer(tmp_path / "data", "--tls", "self-signed", max_files=FILES) as server,
        ExitStack() as stack,
    ):
        context = ssl.create_default_context(cafile=tmp_path / "data" / "tls" / "ca.pem")
        found: Counter[int] = Counter()
        for _ in range(CLIENTS):
            client = stack.enter_context(httpx.Client(base_url=server.url, verify=context))
            found[client.get("/v2/").status_code] += 1
        assert set(found) == {200, 503}
        server.assert_no_500()


@pytest.mark.thorough
def test_nothing_is_lost_where_files_are_short(tmp_path: Path) -> None:
    """Of many clients' pushes at once each succeeds or is told 503, and all that did are there."""
    with UllageServer(tmp_path / "data", max_files=FILES) as server:
        pushed: list[str] = []
        others: list[int] = []

        def work(number: int) -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                for each in range(5):
                    data = f"{number}-{each}".encode() + BLOB[: 2 * MIB]
                    try:
                        digest = push_blob(client, "app", data)
                    except AssertionError:
                        others.append(number)
                        continue
                    pushed.append(digest)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pushed
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for digest in pushed:
                assert client.get(f"/v2/app/blobs/{digest}").status_code == 200
            push_image(client, "app", "v1")
        server.assert_no_500()


@pytest.mark.thorough
def test_a_limit_that_falls_while_serving_leaves_one_descriptor(tmp_path: Path) -> None:
    """Whatever took the descriptors: one is in reserve, so clients are told and nothing breaks."""
    with UllageServer(tmp_path / "data") as server, ExitStack() as stack:
        with httpx.Client(base_url=server.url) as client:
            digest = push_blob(client, "app", BLOB)
        held = sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())
        limit = held + 4
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, limit * 100))
        many = [stack.enter_context(Connection(server)) for _ in range(20)]
        for one in many:
            one.request("GET", f"/v2/app/blobs/{digest}")
        found = statuses(many)
        assert found[503] > 0
        assert set(found) <= {200, 503}
        stack.close()
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit * 100, limit * 100))
        with httpx.Client(base_url=server.url, timeout=20) as client:
            assert client.get(f"/v2/app/blobs/{digest}").content == BLOB
            push_image(client, "app", "v1")
        server.assert_no_500()
