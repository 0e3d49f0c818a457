"""The command line against a real server, with settings of its own."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.server import UllageServer
from ullage.cli.main import run

pytest.register_assert_rewrite("tests.cli.terminal")

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of this test's own, and nothing of whoever runs us."""
    for name in list(os.environ):
        if name.startswith(("ULLAGE_", "XDG_", "DBUS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "conf"))
    return home


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A server without accounts that many tests share, each with repositories of its own."""
    with UllageServer(tmp_path_factory.mktemp("cli") / "data") as server:
        yield server
        server.assert_no_500()


@pytest.fixture(scope="session")
def client(server: UllageServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A repository that no other test uses."""
    return f"team/app-{next(_numbers)}"


@pytest.fixture
def here(server: UllageServer, monkeypatch: pytest.MonkeyPatch) -> UllageServer:
    """The shared server as the default registry."""
    monkeypatch.setenv("ULLAGE_REGISTRY", server.host)
    return server


class Done:
    """What a command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"<{self.code} out={self.out!r} err={self.err!r}>"


Ullage = Callable[..., Done]


@pytest.fixture
def ullage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ullage:
    """`ullage …` in this process; no terminal anywhere."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def invocation(*arguments: str) -> Done:
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return invocation
