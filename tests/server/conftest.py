"""One real server process for all tests that leave it as it is, and a repository for each test."""

import pytest

from tests.support.shared_server import client, name, server

pytest.register_assert_rewrite("tests.server.raw", "tests.server.pushing")

__all__ = ["client", "name", "server"]
