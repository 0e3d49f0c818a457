"""`ullage az-env`: azure.md section 1.9. Real az is in tests/clients."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Ullage
from tests.support.require import require_command
from tests.support.server import UllageServer, command_environment
from ullage.cli.commands import az_env

pytestmark = pytest.mark.thorough

HOST = "myregistry.localhost"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    data = tmp_path_factory.mktemp("az") / "ullage-data"
    flags = ("--auth", "--tls", "self-signed", "--tls-names", HOST)
    with UllageServer(data, *flags) as server:
        yield server


def test_evaluating_it_is_all_it_takes(
    ullage: Ullage, secured: UllageServer, monkeypatch: pytest.MonkeyPatch, at_home: Path
) -> None:
    """The folder it was started beside is where the authority is looked for."""
    monkeypatch.chdir(secured.data.parent)
    monkeypatch.setenv("ULLAGE_REGISTRY", secured.host)
    # A bundle of the system's, as many machines set it, knows nothing of our authority.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    done = ullage("az-env", "--name", "MyRegistry")
    assert done.code == 0, done
    assert not (at_home / "conf").exists(), "it changes nothing itself"
    script = 'eval "$1"; env -0; printf "file="; cat "$AZURE_CONFIG_DIR/clouds.config"'
    shell = subprocess.run(
        ["bash", "-euc", script, "bash", done.out],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    *variables, file = shell.stdout.split("\0")
    found = dict(variable.split("=", 1) for variable in variables)
    assert found["REQUESTS_CA_BUNDLE"] == str(secured.data / "tls" / "ca.pem")
    assert found["AZURE_CONFIG_DIR"] == str(at_home / "conf" / "ullage" / "az" / "myregistry")
    assert found["AZURE_CORE_COLLECT_TELEMETRY"] == "0"
    assert found["AZURE_DEFAULTS_ACR"] == "myregistry"
    port = secured.host.partition(":")[2]
    # The suffix begins with a dot and is lower case; az puts the name before it.
    expected = f"[AzureCloud]\nsuffix_acr_login_server_endpoint = .localhost:{port}\n"
    assert file == f"file={expected}"
    assert f"#   127.0.0.1 {HOST}\n" in done.out


def test_a_name_saved_for_a_registry_is_that_registry(
    ullage: Ullage, secured: UllageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ullage("config", "set", f"registries.myregistry=https://{secured.host}")
    monkeypatch.setenv("ULLAGE_DATA", str(secured.data))
    done = ullage("az-env", "--name", "myregistry")
    assert f"# Azure's CLI for https://{HOST}:{secured.host.partition(':')[2]}." in done.out
    elsewhere = ullage("az-env", "--name", "myregistry", "--url", secured.host)
    assert elsewhere.out == done.out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            ["--name", "otherregistry", "--url", "{host}"],
            (
                "The certificate of https://otherregistry.localhost:{port} is not for "
                "otherregistry.localhost. Serve the registry with --tls self-signed --tls-names "
                "otherregistry.localhost\n"
            ),
        ),
        (
            ["--name", "myregistry", "--url", "{plain}"],
            (
                "The registry at myregistry.localhost:{plain_port} does not speak TLS, and Azure's "
                "CLI speaks nothing else. Serve it with --tls self-signed --tls-names "
                "myregistry.localhost\n"
            ),
        ),
        (
            ["--name", "myregistry", "--url", "{host}", "--ca-file", "/etc/ssl/certs/nothing.pem"],
            "/etc/ssl/certs/nothing.pem: there is no such file. Azure's CLI speaks only TLS. ",
        ),
        (
            ["--name", "myregistry", "--url", "https://registry.example.com"],
            "az only finds registries called myregistry.SUFFIX, and https://registry.example.com",
        ),
        (["--name", "my-registry"], "--name: az wants 5 to 50 letters and digits"),
        (["--name", "myregistry", "--url", "127.0.0.1:1"], "Could not connect to the registry"),
    ],
)
def test_what_would_fail_in_az_is_explained_here(
    ullage: Ullage,
    secured: UllageServer,
    server: UllageServer,
    monkeypatch: pytest.MonkeyPatch,
    line: list[str],
    expected: str,
) -> None:
    """az itself says "Could not connect to the registry login server" to all of it."""
    monkeypatch.setenv("ULLAGE_DATA", str(secured.data))
    known = {
        "host": secured.host,
        "port": secured.host.partition(":")[2],
        "plain": server.host,
        "plain_port": server.host.partition(":")[2],
    }
    done = ullage("az-env", *(word.format(**known) for word in line))
    assert done.err.startswith(f"ERROR: {expected.format(**known)}"), done
    assert (done.code in (1, 2), done.out) == (True, az_env.failure_script())


def test_a_registry_that_asks_nobody_is_not_for_az(ullage: Ullage, tmp_path: Path) -> None:
    """azure.md section 0, rule 3: a 200 from /v2/ is an error to az."""
    with UllageServer(tmp_path / "data", "--tls", "self-signed", "--tls-names", HOST) as server:
        line = ("--url", server.host, "--data", str(server.data))
        done = ullage("az-env", "--name", "myregistry", *line)
    assert done.code == 1
    assert done.err.endswith("Serve the registry with --auth.\n")


def test_without_a_url_it_is_the_default_registry(
    ullage: Ullage, secured: UllageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its help says; on a fresh machine that is neither a variable nor a saved one."""
    monkeypatch.setattr(az_env, "DEFAULT", f"http://{secured.host}")
    done = ullage("az-env", "--name", "myregistry", "--data", str(secured.data))
    port = secured.host.partition(":")[2]
    assert done.out.startswith(f"# Azure's CLI for https://{HOST}:{port}."), done


SHELLS = ("bash", "zsh", "dash", "fish")


@pytest.mark.parametrize("line", ["--name myregistry --url 127.0.0.1:1", "--nmae myregistry", ""])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_failure_stops_the_script_that_evaluates_it(
    shell: str, line: str, tmp_path: Path, at_home: Path
) -> None:
    """The next line would be plain az, with the password for a registry somewhere in Azure."""
    script = tmp_path / "script"
    script.write_text(f'eval "$({sys.executable} -m ullage az-env {line})"\necho went on\n')
    done = subprocess.run(
        [require_command(shell), str(script)],
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("ERROR: ")
    config = at_home / "conf" / "ullage" / "az" / "az-env-failed.invalid" / "clouds.config"
    assert "suffix_acr_login_server_endpoint = .az-env-failed.invalid\n" in config.read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_failure_leaves_a_shell_open_that_a_person_uses(shell: str, tmp_path: Path) -> None:
    """It would take the message with it. What keeps az from the internet is there all the same."""
    (tmp_path / "failure").write_text(az_env.failure_script())
    line = f'eval "$(cat {tmp_path}/failure)"; echo "ended with $?" "$AZURE_CONFIG_DIR"\n'
    done = subprocess.run(
        [require_command(shell), "-i"],
        env=command_environment(),
        input=line.replace("; ", "\n"),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert "ended with 1 " in done.stdout, done
    assert "/ullage/az/az-env-failed.invalid" in done.stdout


def test_a_failure_ends_a_function_that_evaluates_it(tmp_path: Path) -> None:
    (tmp_path / "failure").write_text(az_env.failure_script())
    code = f'f() {{ eval "$(cat {tmp_path}/failure)"; echo went on; }}; f; echo "$?"'
    for shell in ("bash", "zsh", "dash"):
        line = [require_command(shell), "-c", code]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.stdout == "1\n", shell


def test_az_reaches_no_registry_after_a_failure(tmp_path: Path, at_home: Path) -> None:
    """The real az: a name that no resolver knows, and not myregistry.azurecr.io."""
    az = require_command("az")
    (tmp_path / "failure").write_text(az_env.failure_script())
    with_account = "repository list --name myregistry -u admin -p PASSWORD"
    code = f"f() {{ . {tmp_path}/failure; }}; f; {az} acr {with_account}"
    done = subprocess.run(
        ["bash", "-c", code], env=command_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "registry login server 'myregistry.az-env-failed.invalid'" in done.stderr
    assert "azurecr.io" not in done.stderr
