"""What `ullage serve` says when it starts: commands that work when they are pasted."""

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import bcrypt
import pytest

from tests.clients.programs import RUN_SECONDS
from tests.support.require import require_command
from tests.support.server import UllageServer, command_environment
from ullage.tls import self_signed

pytestmark = pytest.mark.client

PASSWORD = "a password that is long"
SELF_SIGNED = ("--tls", "self-signed")


def told(server: UllageServer, words: str) -> str:
    """The one line that is for pasting and has these words."""
    lines = [line.strip() for line in server.log.splitlines() if line.startswith("  ")]
    (found,) = (line for line in lines if words in line)
    return found


def paste(*lines: str, password: str = "", env: dict[str, str] | None = None) -> str:
    """What the lines print, for somebody who types the password when asked for it."""
    require_command("curl")
    # The command is on nobody's PATH where these tests run.
    python = shlex.quote(sys.executable)
    script = "\n".join([f'ullage() {{ {python} -m ullage "$@"; }}', "set -e", *lines])
    # Whom else this machine was told to trust must not decide.
    plain = {k: v for k, v in command_environment().items() if "CERT" not in k and "CA_" not in k}
    done = subprocess.run(
        [require_command("bash"), "-c", script],
        input=f"{password}\n",
        env=plain | (env or {}),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        # Where there is no terminal curl reads the password from its standard input.
        start_new_session=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def admin_password(server: UllageServer) -> str:
    (found,) = (line for line in server.log.splitlines() if line.startswith("Made the account"))
    return found.rpartition(" ")[2]


@pytest.mark.parametrize(
    "flags",
    [
        ("--auth",),
        ("--auth", *SELF_SIGNED),
        ("--auth", *SELF_SIGNED, "--listen", "0.0.0.0:0"),
        SELF_SIGNED,
    ],
    ids=" ".join,
)
def test_what_it_says_to_try_next_works(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Also in a folder whose name has to be quoted."""
    folder = tmp_path / "a folder; 'quoted'"
    folder.mkdir()
    with UllageServer(folder / "data", *flags) as server:
        password = admin_password(server) if "--auth" in flags else ""
        catalog = told(server, "_catalog")
        assert json.loads(paste(catalog, password=password)) == {"repositories": []}
        paste(told(server, " check "))
        if "--tls" in flags:
            # As a client that reads the variables, without being told of the authority.
            bare = f"curl -sf -u admin {catalog.split()[-1]}"
            paste(told(server, "export "), bare, password=password)
        if "--auth" in flags:
            host = catalog.split("//")[1].partition("/")[0]
            assert told(server, "docker login") == f"docker login -u admin {host}"
            (another,) = (line for line in server.log.splitlines() if "not shown again" in line)
            made = json.loads(paste(another.split("`")[1]))
            assert json.loads(paste(catalog, password=made["password"]))
        # After a restart nothing is shown again, and the same lines are still true.
        server.restart()
        assert server.log.count("Made the account") == ("--auth" in flags)


def test_it_names_an_account_of_the_htpasswd_file(tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    accounts = tmp_path / "htpasswd"
    accounts.write_text(f"ada:{hashed}\nbob:{hashed}\n")
    with UllageServer(tmp_path / "data", "--htpasswd", accounts) as server:
        assert told(server, "docker login").startswith("docker login -u ada ")
        assert json.loads(paste(told(server, "_catalog"), password=PASSWORD))


def test_it_goes_by_the_name_that_its_certificate_has(tmp_path: Path) -> None:
    """Whatever it listens on: a client that checks the certificate asks for that name."""
    made = self_signed(tmp_path / "tls", (), datetime.now(UTC))
    flags = ("--tls-cert", made.certificate, "--tls-key", made.key)
    with UllageServer(tmp_path / "data", *flags) as server:
        catalog = told(server, "_catalog")
        assert catalog.startswith("curl https://localhost:")
        assert json.loads(paste(catalog, env={"CURL_CA_BUNDLE": str(made.authority)}))


def test_a_password_of_the_database_is_not_shown(tmp_path: Path, postgres_url: str) -> None:
    """It goes where the lines say: into the environment."""
    user, _, rest = postgres_url.partition("://")[2].partition("@")
    with_password = f"postgresql://{user}:hunter2@{rest}"
    with UllageServer(tmp_path / "data", "--database", with_password) as server:
        assert "hunter2" not in server.log
        paste(told(server, " check "), env={"ULLAGE_DATABASE": with_password})
