"""The command line: what it explains, what it refuses, and with which exit code."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.server import run_ullage
from ullage import __version__
from ullage.cli.commands import app
from ullage.config import SETTINGS, load_settings
from ullage.wiring import CannotStart, open_registry


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A terminal 100 columns wide, without anybody's settings in its environment."""
    for name in [name for name in os.environ if name.startswith("ULLAGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    return CliRunner()


def shown(text: str) -> str:
    """The words of a help page, without its frame and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


# --- help -----------------------------------------------------------------------------------------


def test_help_says_what_there_is(terminal: CliRunner) -> None:
    for arguments in (["--help"], ["-h"], []):
        page = shown(terminal.invoke(app, arguments).output)
        assert "A container registry that gives space back." in page
        assert "serve Run the registry." in page
        assert "check Prove that what the database says and what the disk holds agree" in page
        assert "version Print the version." in page


def test_help_on_serve_explains_every_setting(terminal: CliRunner) -> None:
    result = terminal.invoke(app, ["serve", "--help"])
    assert result.exit_code == 0
    page = shown(result.output)
    assert (
        "Settings come from these flags, ULLAGE_* variables or a TOML file, in that order" in page
    )
    for setting in SETTINGS:
        default = f" [default: {setting.default}]" if setting.default else ""
        kind = "<bool>" if setting.switch else setting.kind
        expected = f"{setting.flag} {kind} {setting.help}{default} [{setting.variable}]"
        assert expected in page
    assert "--config <path> TOML file with settings. [env var: ULLAGE_CONFIG]" in page


def test_help_on_check_explains_its_exit_codes(terminal: CliRunner) -> None:
    page = shown(terminal.invoke(app, ["check", "--help"]).output)
    assert "0 clean, 1 leak or wrong count (repairable), 2 damage, 3 could not check" in page
    for flag in ("--fast", "--deep", "--repair", "--json", "--data", "--database", "--storage"):
        assert f" {flag} " in page
    assert "--listen" not in page


def test_no_line_is_wider_than_the_terminal(
    terminal: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ([], ["serve"], ["check"], ["version"]):
        lines = terminal.invoke(app, [*command, "--help"]).output.splitlines()
        assert max(map(len, lines)) <= 80


# --- usage ----------------------------------------------------------------------------------------


def test_the_version(terminal: CliRunner) -> None:
    result = terminal.invoke(app, ["version"])
    assert (result.exit_code, result.output) == (0, f"{__version__}\n")
    assert run_ullage("version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["serve", "--nonsense"], 2, "No such option: --nonsense"),
        (["serve", "extra"], 2, "unexpected extra argument"),
        (["serve", "--data"], 2, "requires an argument"),
        (["check", "--listen", "127.0.0.1:1"], 2, "No such option: --listen"),
        (["serve", "--threads", "many"], 2, "ullage: --threads: 'many' - expected a whole number"),
        (["serve", "--data", ""], 2, "ullage: --data: '' - expected a folder"),
        (["check", "--data", ""], 2, "ullage: --data: '' - expected a folder"),
        (["serve", "--config", "missing.toml"], 2, "ullage: configuration file missing.toml"),
        (["check", "--fast", "--deep"], 3, "ullage: --fast and --deep exclude each other"),
        (["check", "--data", "missing"], 3, "ullage: there is no registry in"),
    ],
)
def test_wrong_usage_is_explained(
    terminal: CliRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    expected: str,
) -> None:
    """Exit codes as az's: 2 for usage; `check` has its own 3 for "could not"."""
    monkeypatch.chdir(tmp_path)
    result = terminal.invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert expected in shown(result.output)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_variable_is_called_by_its_name(
    terminal: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by that of the flag, which nobody gave."""
    monkeypatch.setenv("ULLAGE_THREADS", "many")
    for command in ("serve", "check"):
        result = terminal.invoke(app, [command])
        assert result.exit_code == 2
        assert result.output == "ullage: ULLAGE_THREADS: 'many' - expected a whole number\n"


# --- what cannot be opened ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Opening a registry sets it, for the process that serves."""
    umask = os.umask(0o077)
    yield
    os.umask(umask)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"storage": "ftp://x"}, "storage: 'ftp://x' "),
        ({"storage": "file:{tmp}/a-file"}, "storage: "),
        (
            {"database": "mysql://x/y"},
            "database: 'mysql://x/y' - expected sqlite:///path or postgres",
        ),
        ({"database": "nonsense"}, "database: 'nonsense' - expected sqlite:///path or postgresql:"),
        (
            {"database": "sqlite://"},
            "database: 'sqlite://' - expected sqlite:///path or postgresql:",
        ),
        ({"data": "{tmp}/a-file"}, "database: cannot write in {tmp}/a-file"),
        ({"database": "sqlite:///{tmp}/a-file"}, "database: "),
    ],
)
def test_what_cannot_be_opened_is_said_with_what_to_change(
    tmp_path: Path, flags: dict[str, str], expected: str
) -> None:
    (tmp_path / "a-file").write_text("neither a folder nor a database")
    given = {"data": str(tmp_path / "data"), **flags}
    settings = load_settings({k: v.format(tmp=tmp_path) for k, v in given.items()}, {})
    with pytest.raises(CannotStart) as caught, open_registry(settings):
        pass
    assert str(caught.value).startswith(expected.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)
    # Nothing is left locked.
    (tmp_path / "a-file").unlink()
    with open_registry(load_settings({"data": str(tmp_path / "data")}, {})):
        pass


@pytest.mark.postgresql
def test_a_database_server_that_is_away_is_said_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://nobody:secret@127.0.0.1:1/nothing"
    settings = load_settings({"data": str(tmp_path), "database": url}, {})
    with pytest.raises(CannotStart) as caught, open_registry(settings):
        pass
    assert str(caught.value).startswith("database: ")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
