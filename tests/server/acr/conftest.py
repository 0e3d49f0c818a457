"""One real server for all tests that leave it as it is, and one for each on PostgreSQL."""

from tests.server.conftest import client, name, server

__all__ = ["client", "name", "server"]
