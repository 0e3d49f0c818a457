"""What is remembered between commands, and who may read it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Ullage
from tests.support.require import require_command
from tests.support.server import UllageServer
from ullage.cli.client import keyring, saved
from ullage.cli.client.saved import Login, SavedLogin
from ullage.cli.shell.errors import Failure

LOGIN = SavedLogin(Login("ci", "s3cret ü"), "https://r.example.com", None)


def test_config_sets_shows_and_takes_away(ullage: Ullage, at_home: Path) -> None:
    assert ullage("config", "list").out == "{}\n"
    pairs = ("registries.myregistry=https://r.example.com", "registry=myregistry", "output=tsv")
    assert ullage("config", "set", *pairs).code == 0
    assert ullage("config", "list", "-o", "json").out == (
        '{\n  "output": "tsv",\n  "registries.myregistry": "https://r.example.com",\n'
        '  "registry": "myregistry"\n}\n'
    )
    assert ullage("config", "get", "registry").out == "myregistry\n"
    assert ullage("config", "unset", "registry", "output").code == 0
    assert ullage("config", "get", "registry").code == 3
    assert ullage("config", "get", "registries.myregistry").out == '"https://r.example.com"\n'
    assert "Key                    Value\n" in ullage("config", "list", "-o", "table").out


def test_a_saved_name_and_the_default_registry_are_used(
    ullage: Ullage, server: UllageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The article's commands say --name myregistry; ULLAGE_REGISTRY comes before `config`."""
    ullage("config", "set", f"registries.myregistry={server.url}", "registry=http://127.0.0.1:1")
    assert ullage("repository", "list", "--name", "myregistry").code == 0
    assert ullage("manifest", "list", "-r", "myregistry", "-n", "none").err.startswith(
        "ERROR: Error: "
    )
    assert ullage("repository", "list").code == 1
    monkeypatch.setenv("ULLAGE_REGISTRY", "myregistry")
    assert ullage("repository", "list").code == 0


@pytest.mark.parametrize("value", ["not json", "[]", '"text"'])
def test_a_broken_file_is_told_by_its_name(ullage: Ullage, at_home: Path, value: str) -> None:
    saved.client_path().parent.mkdir(parents=True)
    saved.client_path().write_text(value)
    done = ullage("config", "list")
    assert done.code == 1
    assert done.err.startswith(f"ERROR: {saved.client_path()}: ")


def test_without_a_keyring_the_password_is_in_a_file_that_only_its_owner_may_read(
    at_home: Path,
) -> None:
    umask = os.umask(0)
    try:
        assert saved.save_login("r.example.com", LOGIN) == str(saved.credentials_path())
    finally:
        os.umask(umask)
    for path, mode in ((saved.credentials_path(), 0o600), (saved.folder(), 0o700)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert saved.login_of("r.example.com") == LOGIN
    assert saved.login_of("other.example.com") is None
    assert saved.forget_login("r.example.com")
    assert not saved.forget_login("r.example.com")
    assert "s3cret" not in saved.credentials_path().read_text()


def test_a_relative_xdg_folder_is_ignored(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG Base Directory Specification: "All paths … must be absolute"."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "conf")
    assert saved.folder() == at_home / ".config" / "ullage"


def test_without_a_session_there_is_no_keyring(at_home: Path) -> None:
    """secret-tool would start a bus of its own, and a keyring that is gone with it."""
    assert not keyring.put("r.example.com", "ci", "x")
    assert keyring.get("r.example.com", "ci") is None


IN_A_SESSION = """
import json, subprocess, sys
from ullage.cli.client import saved
from ullage.cli.client.saved import Login, SavedLogin
subprocess.run(["gnome-keyring-daemon", "--unlock", "--components=secrets"], input=b"pin",
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
login = SavedLogin(Login("ci", "s3cret ü"), "https://r.example.com", None)
where = saved.save_login("r.example.com", login)
found = saved.login_of("r.example.com") == login
file = saved.credentials_path().read_text()
saved.forget_login("r.example.com")
from ullage.cli.client import keyring
print(json.dumps([where, found, "s3cret" in file, keyring.get("r.example.com", "ci")]))
"""


@pytest.mark.client
def test_where_there_is_a_keyring_the_password_is_in_it_alone(at_home: Path) -> None:
    """A real Secret Service, in a session of its own."""
    for program in ("secret-tool", "gnome-keyring-daemon"):
        require_command(program)
    command = [require_command("dbus-run-session"), "--", sys.executable, "-c", IN_A_SESSION]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["", True, False, None]


def test_a_keyring_that_lost_a_password_is_told(at_home: Path) -> None:
    saved.credentials_path().parent.mkdir(parents=True)
    saved.credentials_path().write_text('{"r.example.com": {"username": "ci", "url": "x"}}')
    with pytest.raises(Failure, match="The keyring does not give the password of 'ci'"):
        saved.login_of("r.example.com")
