"""A real server for all tests of a room that leave it as it is, and a repository for each test."""

import itertools
from collections.abc import Iterator

import httpx
import pytest

from tests.support.server import UllageServer

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A server without accounts that many tests share. Any 500 is a failure."""
    with UllageServer(tmp_path_factory.mktemp("served") / "data") as server:
        yield server
        server.assert_no_500()


@pytest.fixture(scope="session")
def client(server: UllageServer) -> Iterator[httpx.Client]:
    """An ordinary HTTP client of `server`."""
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A repository that no other test uses."""
    return f"team/app-{next(_numbers)}"
