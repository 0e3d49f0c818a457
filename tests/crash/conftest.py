"""Fixtures of the crash suites."""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash.harness import CrashServer, ForkServer, Journal
from tests.crash.stock import stock_up
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def forkserver() -> Iterator[ForkServer]:
    """Starts servers quickly, one after another."""
    with ForkServer() as server:
        yield server


class Stock(NamedTuple):
    """A registry that was filled and stopped in good order."""

    data: Path
    database: str | None
    journal: Journal

    def copy(self, data: Path, storage: Path | None = None) -> Journal:
        """Copy the data folder, its blobs elsewhere if told so, and what the client knows."""
        shutil.copytree(self.data, data, ignore=shutil.ignore_patterns("*.sock"))
        if storage is not None:
            for folder in ("blobs", "uploads"):
                shutil.move(data / folder, storage / folder)
        return deepcopy(self.journal)


@pytest.fixture(scope="session")
def stock(forkserver: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """On SQLite and files."""
    data = tmp_path_factory.mktemp("stock") / "data"
    return _filled(CrashServer(forkserver, data), None)


@pytest.fixture(scope="session")
def stock_pg(
    forkserver: ForkServer,
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
) -> Iterator[Stock]:
    """On PostgreSQL and files."""
    data = tmp_path_factory.mktemp("stock-pg") / "data"
    with postgres_server.fresh_database() as url:
        yield _filled(CrashServer(forkserver, data, database=url), url)


def _filled(server: CrashServer, database: str | None) -> Stock:
    with server:
        server.start()
        journal = stock_up(server.host)
        assert server.terminate() == 0
    return Stock(server.data, database, journal)
