"""A real registry process for each test, and the clients that are pointed at it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.dockerd import Docker
from tests.clients.view import View
from tests.support.server import UllageServer, run_ullage

pytest.register_assert_rewrite("tests.clients.builders")


@pytest.fixture
def registry(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[UllageServer]:
    """A server that erases bytes as soon as nobody may ask for them; parameters are more flags.

    Any 500 fails the test, and so does whatever `ullage check --deep` finds when it is over.
    """
    flags = getattr(request, "param", ())
    with UllageServer(tmp_path / "registry", "--read-grace", "0s", *flags) as server:
        yield server
        server.assert_no_500()
        checked = run_ullage("check", "--deep", "--data", server.data)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def view(registry: UllageServer) -> Iterator[View]:
    """What the registry holds, and what its disk says."""
    with View(registry) as view:
        yield view


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[Docker]:
    """A Docker daemon, started when the first test needs it."""
    with Docker() as docker:
        yield docker


@pytest.fixture
def docker(docker_daemon: Docker) -> Docker:
    """The daemon without any image."""
    docker_daemon.forget_everything()
    return docker_daemon
