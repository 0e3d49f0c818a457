"""A crash while requests share a question to PostgreSQL (docs/design/questions.md).

Each is answered once, with a clear 503, or not at all if its own process died; then reads go on.
"""

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.crash.postgres import CrashingPostgres
from tests.server.pushing import push_image
from tests.support.actors import Observer, observing, wait_until
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of

pytestmark = [pytest.mark.postgresql, pytest.mark.thorough]

LAYER = b"a layer"
BLOB = f"/v2/app/blobs/{digest_of(LAYER)}"
REQUESTS = (
    "GET /v2/app/manifests/v1",
    f"GET {BLOB}",
    # Of a client that may push: it is promised the blob.
    f"HEAD {BLOB}",
    "GET /v2/app/tags/list",
)
# Of each: one that is being asked, and those that wait for the next question.
CROWD = 5


@pytest.fixture
def postgres() -> Iterator[CrashingPostgres]:
    with CrashingPostgres() as server:
        yield server


def _statuses(host: str, request: str) -> list[str]:
    """The status of each response on a connection that is closed after the first, none if cut."""
    address, _, port = host.rpartition(":")
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        head = f"{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except ConnectionResetError:
            return []
    return [part[:3].decode() for part in said.split(b"HTTP/1.1 ")[1:]]


@contextmanager
def _asked(host: str, url: str, observer: Observer) -> Iterator[list[Future[list[str]]]]:
    """Requests of each kind, in the middle of their questions until the block ends."""
    with ThreadPoolExecutor(len(REQUESTS) * CROWD) as pool, psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE manifests, repo_blobs, tags IN ACCESS EXCLUSIVE MODE")
        asked = [pool.submit(_statuses, host, request) for request in REQUESTS]
        wait_until(lambda: observer.blocked() == len(REQUESTS), "the questions to be asked")
        asked += [pool.submit(_statuses, host, request) for request in REQUESTS * (CROWD - 1)]
        try:
            yield asked
        finally:
            # Its server may be gone.
            with suppress(psycopg.OperationalError):
                holder.rollback()


def _one_of_each(host: str) -> Sequence[list[str]]:
    return [_statuses(host, request) for request in REQUESTS]


def _server(folder: Path, url: str, name: str) -> UllageServer:
    return UllageServer(folder / name, "--database", url, "--storage", f"file:{folder / 'shared'}")


def _push(server: UllageServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        push_image(client, "app", "v1", [LAYER])


def test_a_database_that_crashes_under_a_question_is_one_503_for_each(
    postgres: CrashingPostgres, tmp_path: Path
) -> None:
    with _server(tmp_path, postgres.url(), "data") as server:
        _push(server)
        assert _one_of_each(server.host) == [["200"]] * len(REQUESTS)
        with (
            observing(postgres.url()) as observer,
            _asked(server.host, postgres.url(), observer) as asked,
        ):
            postgres.crash()
            assert [each.result() for each in asked] == [["503"]] * (len(REQUESTS) * CROWD)
        postgres.restart()
        assert _one_of_each(server.host) == [["200"]] * len(REQUESTS)
        server.assert_no_500()


def test_a_process_that_dies_under_a_question_holds_up_no_other(
    emptied_postgres_url: str, tmp_path: Path
) -> None:
    with (
        _server(tmp_path, emptied_postgres_url, "one") as one,
        _server(tmp_path, emptied_postgres_url, "other") as other,
        observing(emptied_postgres_url) as observer,
    ):
        _push(one)
        with _asked(one.host, emptied_postgres_url, observer) as asked:
            one.kill9()
            assert [each.result() for each in asked] == [[]] * (len(REQUESTS) * CROWD)
        assert _one_of_each(other.host) == [["200"]] * len(REQUESTS)
        one.start()
        assert _one_of_each(one.host) == [["200"]] * len(REQUESTS)
        for server in (one, other):
            server.assert_no_500()


def test_a_connection_that_was_lost_between_questions_costs_no_request(
    emptied_postgres_url: str, tmp_path: Path
) -> None:
    """PostgreSQL was started again, or something between has forgotten the connection."""
    with _server(tmp_path, emptied_postgres_url, "data") as server:
        _push(server)
        for _ in range(2):
            assert _one_of_each(server.host) == [["200"]] * len(REQUESTS)
            with psycopg.connect(emptied_postgres_url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND query LIKE %s",
                    ["%asked%"],
                )
        server.assert_no_500()
