"""The command line against a real server, with settings of its own."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.server import UllageServer
from tests.support.shared_server import client, name, server
from ullage.cli import table
from ullage.cli.main import run
from ullage.cli.shell.commands import Command

__all__ = ["client", "name", "server"]

pytest.register_assert_rewrite("tests.cli.terminal")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of this test's own, and no variable of the caller."""
    for variable in list(os.environ):
        lower = variable.lower()
        if lower.startswith(("ullage_", "xdg_", "dbus_")) or lower.endswith("_proxy"):
            monkeypatch.delenv(variable)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "conf"))
    return home


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


def command_of(line: Sequence[str]) -> Command | None:
    """The command that a line is about; None for help about several."""
    found = (table.find(tuple(line[:length])) for length in range(len(line), 0, -1))
    return next(filter(None, found), None)


def line_of(command: Command, *more: str) -> list[str]:
    """The shortest line that can be parsed as this command."""
    words = [*command.words]
    for flag in command.flags:
        if flag.required:
            words += [flag.names[0]] * (not flag.positional)
            words += ["team/app", "content/read"] if flag.several else ["x"]
    return [*words, *more]


Ullage = Callable[..., Done]


@pytest.fixture
def ullage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ullage:
    """`ullage …` in this process; no terminal anywhere. The exit code is one that its help has."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def invoke(*arguments: str) -> Done:
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        command = command_of(arguments)
        assert command is None or code in command.exit_status, (arguments, code)
        return Done(code, printed.out, printed.err)

    return invoke
