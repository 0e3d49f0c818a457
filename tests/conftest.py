"""Fixtures that every suite may use; how they work is in tests/support."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.databases import (
    db,
    emptied_postgres_url,
    postgres_db,
    ready_url,
    shared_postgres,
    shared_postgres_url,
    shared_sqlite,
    sqlite_db,
    sqlite_template,
)
from tests.support.fixtures import assemble, installation, registry, store
from tests.support.postgres import PostgresServer
from tests.support.server import UllageServer

# Databases and registries, for the tests of every room.
__all__ = [
    "assemble",
    "db",
    "emptied_postgres_url",
    "installation",
    "postgres_db",
    "ready_url",
    "registry",
    "shared_postgres",
    "shared_postgres_url",
    "shared_sqlite",
    "sqlite_db",
    "sqlite_template",
    "store",
]


def pytest_configure() -> None:
    """SIGTERM ends the session as Ctrl-C does, so that no server outlives it (CI, `timeout`)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture
def clock() -> FakeClock:
    """A `now` that only the test moves."""
    return FakeClock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, started when the first test needs it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, this test's own."""
    with postgres_server.fresh_database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on each engine in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ullage.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def ullage_server(tmp_path: Path) -> Iterator[UllageServer]:
    """A real server process on SQLite and files. Any 500 fails the test."""
    with UllageServer(tmp_path / "data") as server:
        yield server
        server.assert_no_500()


@pytest.fixture
def ullage_server_pg(tmp_path: Path, postgres_url: str) -> Iterator[UllageServer]:
    """A real server process on PostgreSQL and files. Any 500 fails the test."""
    with UllageServer(tmp_path / "data", "--database", postgres_url) as server:
        yield server
        server.assert_no_500()
