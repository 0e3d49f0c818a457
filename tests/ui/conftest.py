"""Servers and visitors for the tests of pages; how they work is in tests/ui/visitors.py."""

from collections.abc import Iterator

import pytest

from tests.access.house import House
from tests.support.server import UllageServer
from tests.support.shared_server import client, name, server
from tests.ui.visitors import Visitor

__all__ = ["client", "name", "server"]


@pytest.fixture
def visitor(server: UllageServer) -> Iterator[Visitor]:
    """A browser, as far as HTTP goes, at an open registry."""
    with Visitor(server.url) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A registry with accounts."""
    with House(tmp_path_factory.mktemp("house") / "data") as house:
        yield house
