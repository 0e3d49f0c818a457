"""One real server process for all tests that leave it as it is, and a repository for each test."""

from tests.support.shared_server import client, name, server

__all__ = ["client", "name", "server"]
