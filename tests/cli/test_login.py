"""`ullage login`, and commands on a registry with accounts (azure.md section 1)."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli.conftest import Ullage
from tests.cli.terminal import at_terminal
from tests.support.server import UllageServer, run_ullage
from ullage.cli.client import saved

pytestmark = pytest.mark.thorough

PASSWORD = "correct horse"


class Guarded(NamedTuple):
    """A registry with accounts: anna may do everything, reader see what there is in team/app."""

    server: UllageServer
    password: str
    reader: str

    @property
    def host(self) -> str:
        return self.server.host


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """With TLS, and a certificate that is not trusted by default."""
    data = tmp_path_factory.mktemp("guarded") / "data"
    with UllageServer(data, "--auth", "--tls", "self-signed") as server:
        anna = made(data, "user", "create", "--name", "anna", "--admin")
        rights = ("--repository", "team/app=metadata/read")
        reader = made(data, "token", "create", "--name", "reader", *rights)
        yield Guarded(server, anna["password"], reader["credentials"]["passwords"][0]["value"])
        server.assert_no_500()


def made(data: Path, *command: str) -> Any:
    """What `ullage user|token create` answers."""
    done = run_ullage(*command, "--data", data)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def authority(guarded: Guarded) -> str:
    return str(guarded.server.data / "tls" / "ca.pem")


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_login_is_saved_only_if_it_is_right(
    ullage: Ullage, guarded: Guarded, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("login", guarded.host, "-u", "anna", "--password-stdin", "--ca-file", authority)
    typed(monkeypatch, "wrong\n")
    wrong = ullage(*line)
    assert wrong.code == 1
    assert f"Access to registry '{guarded.host}' was denied. Response code: 401." in wrong.err
    assert not saved.credentials_path().exists()
    typed(monkeypatch, f"{guarded.password}\n")
    right = ullage(*line)
    assert (right.code, right.out) == (0, "")
    assert right.err.endswith("Login Succeeded\n")
    # The authority was remembered, too.
    assert ullage("repository", "list", "--name", guarded.host).out == "[]\n"
    assert ullage("logout", guarded.host).code == 0
    gone = ullage("repository", "list", "--name", guarded.host, "--ca-file", authority)
    assert gone.err.startswith(
        "ERROR: Unable to authenticate using AAD or admin login credentials. Please specify both "
        "username and password in non-interactive mode.\n"
    )


def test_login_gives_a_registry_a_name(
    ullage: Ullage, guarded: Guarded, authority: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULLAGE_CA_FILE", authority)
    typed(monkeypatch, f"{guarded.password}\n")
    line = ("login", "myregistry", "--url", guarded.server.url, "-u", "anna", "--password-stdin")
    assert ullage(*line).code == 0
    assert ullage("repository", "list", "--name", "myregistry").out == "[]\n"


def test_a_login_for_https_is_never_shown_over_http(
    ullage: Ullage, server: UllageServer, at_home: Path
) -> None:
    login = saved.SavedLogin(saved.Login("anna", "x"), f"https://{server.host}", None)
    saved.save_login(server.host, login)
    done = ullage("repository", "list", "--name", server.url)
    assert done.code == 0
    assert f"The login saved for https://{server.host} is not used" in done.err


def test_flags_come_before_what_is_saved_and_are_checked(
    ullage: Ullage, guarded: Guarded, authority: str
) -> None:
    line = ("repository", "list", "--name", guarded.host, "--ca-file", authority, "-u", "anna")
    assert ullage(*line, "-p", guarded.password).out == "[]\n"
    wrong = ullage(*line, "-p", "wrong")
    assert wrong.code == 1
    assert f"\nLog in again: ullage login {guarded.host}\n" in wrong.err


def test_too_few_rights_are_an_error_and_no_new_question(
    ullage: Ullage, guarded: Guarded, authority: str
) -> None:
    """azure.md section 2.1: 401 also for what a known account may not do."""
    who = ("--name", guarded.host, "--ca-file", authority, "-u", "reader", "-p")
    done = ullage("repository", "untag", "--image", "team/app:v1", *who, guarded.reader)
    assert done.code == 1
    assert " Error: authentication required, visit https://aka.ms/acr/authorization" in done.err


def test_name_and_password_are_asked_for_at_a_terminal(guarded: Guarded, authority: str) -> None:
    """azure.md section 1.9; the password does not stand on the screen."""
    environment = {"ULLAGE_CA_FILE": authority}
    line = ["repository", "list", "--name", guarded.host, "-o", "json"]
    ended, screen = at_terminal(line, ["anna", guarded.password], environment)
    assert (ended, screen) == (0, "Username: anna\nPassword: \n[]\n")
    ended, screen = at_terminal([*line, "-u", "anna"], [guarded.password], environment)
    assert (ended, screen) == (0, "Password: \n[]\n")


def test_an_unknown_authority_is_told_with_what_to_do(ullage: Ullage, guarded: Guarded) -> None:
    done = ullage("repository", "list", "--name", guarded.host)
    assert done.code == 1
    assert "Its certificate is not trusted here: " in done.err
    assert "--ca-file ullage-data/tls/ca.pem" in done.err
    missing = ullage("repository", "list", "--name", guarded.host, "--ca-file", "missing.pem")
    assert missing.err == (
        "ERROR: missing.pem: there is no such file; name another with --ca-file.\n"
    )


def test_names_below_localhost_are_this_machines(ullage: Ullage, server: UllageServer) -> None:
    """RFC 6761 section 6.3, also where the resolver does not know it."""
    port = server.host.partition(":")[2]
    assert ullage("repository", "list", "--name", f"myregistry.localhost:{port}").code == 0


def test_a_registry_that_asks_nobody_has_no_login(ullage: Ullage, server: UllageServer) -> None:
    done = ullage("login", "open", "--url", server.url)
    assert done.code == 0
    assert done.err == f"{server.url} asks for no credentials: nothing to log in to.\n"
    assert ullage("repository", "list", "--name", "open").code == 0
