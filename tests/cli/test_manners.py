"""Each mistake is a sentence that says the way on (faults B44 to B49)."""

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.cli.conftest import Ullage
from tests.cli.terminal import at_terminal
from tests.server.pushing import encoded, image, index_of, push_image, put_manifest
from tests.support.server import UllageServer, run_ullage
from ullage.cli import table
from ullage.cli.client import saved
from ullage.cli.commands.columns import platform
from ullage.cli.shell.commands import Command
from ullage.oci.digest import digest_of

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A registry with accounts and a certificate that no system trusts."""
    data = tmp_path_factory.mktemp("secured") / "data"
    with UllageServer(data, "--auth", "--tls", "self-signed") as server:
        yield server


def test_another_login_keeps_the_authority_that_login_saved(
    ullage: Ullage, secured: UllageServer
) -> None:
    """B44: and the address; -u and -p are another name and password, no more."""
    made = run_ullage("user", "create", "--name", "anna", "--admin", "--data", secured.data)
    password = json.loads(made.stdout)["password"]
    line = ("login", secured.host, "-u", "anna", "-p", password)
    assert ullage(*line, "--ca-file", str(secured.data / "tls" / "ca.pem")).code == 0
    listing = ("repository", "list", "--name", secured.host)
    assert ullage(*listing, "-u", "anna", "-p", password).out == "[]\n"
    place = saved.place_of(secured.host)
    assert place is not None
    assert place.url == secured.url


def test_a_wrong_password_is_told_in_the_registrys_words(
    ullage: Ullage, secured: UllageServer
) -> None:
    """B45."""
    authority = str(secured.data / "tls" / "ca.pem")
    line = ("login", secured.host, "-u", "nobody", "-p", "wrong", "--ca-file", authority)
    done = ullage(*line)
    (said,) = [row for row in done.err.splitlines() if row.startswith("ERROR")]
    assert f"Access to registry '{secured.host}' was denied. Response code: 401. " in said
    assert len(said.partition("401. ")[2]) > 10


def test_http_where_tls_is_spoken_and_the_other_way_round(
    ullage: Ullage, secured: UllageServer, server: UllageServer
) -> None:
    """B47."""
    done = ullage("repository", "list", "--name", f"http://{secured.host}")
    assert done.code == 1
    assert f"It speaks TLS there: use https://{secured.host}" in done.err
    done = ullage("repository", "list", "--name", f"https://{server.host}")
    assert f": use http://{server.host}" in done.err
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert "TLS" not in ullage("repository", "list", "--name", f"http://{address}").err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "repository list --query [?",
            "'[?': Invalid jmespath expression: Incomplete expression",
        ),
        ("retention set none.yaml", "ERROR: none.yaml: No such file or directory\n"),
        ("retention test none.yaml", "ERROR: none.yaml: No such file or directory\n"),
        ("pullers set none.yaml", "ERROR: none.yaml: No such file or directory\n"),
        (
            "repository list --ca-file none.pem --name https://127.0.0.1:1",
            "none.pem: there is no such file",
        ),
        ("plan --filterr x", "Did you mean --filter?"),
        ("serve --liste x --datta y", "Did you mean --data?"),
    ],
)
def test_what_is_not_there_or_misspelt_is_a_sentence(
    ullage: Ullage, here: UllageServer, line: str, expected: str
) -> None:
    """B47 and B48."""
    done = ullage(*line.split())
    assert done.code in (1, 2)
    assert expected in done.err
    assert "[Errno" not in done.err
    assert len(done.err.splitlines()) <= 2


def test_help_is_a_command_too(ullage: Ullage) -> None:
    """B48."""
    assert ullage("help").out == ullage("--help").out
    assert ullage("help", "job", "list").out == ullage("job", "list", "--help").out
    assert ullage("help", "job").out == ullage("job", "--help").out


@pytest.mark.parametrize("command", table.every(), ids=lambda command: command.name)
def test_the_registrys_short_flags_mean_the_same_everywhere(command: Command) -> None:
    """B48: -r is the registry; so is -n, --name, but where az has it for a thing."""
    for flag in command.flags:
        if "-r" in flag.names:
            assert flag.variable == "registry"
        if "-n" in flag.names:
            assert "--name" in flag.names
            of_a_thing = command.words[0] in ("manifest", "user", "token", "scope-map")
            assert (flag.variable == "registry") is not of_a_thing


def test_no_colour_where_none_is_wanted(here: UllageServer) -> None:
    """B48: no-color.org."""
    line, place = ("config", "list", "-o", "jsonc"), {"ULLAGE_REGISTRY": here.host}
    assert "\x1b[" not in at_terminal(line, (), place | {"NO_COLOR": "1"})[1]


def test_usage_is_twenty_lines_on_a_screen_and_whole_elsewhere(
    ullage: Ullage, here: UllageServer, client: httpx.Client, name: str
) -> None:
    """B48."""
    for number in range(25):
        push_image(client, f"{name}/{number}", "v1", (f"{name} {number}".encode(),))
    entries = json.loads(ullage("usage", "-o", "json").out)["entries"]
    shown = ullage("usage", "-o", "table").out.splitlines()
    assert len(shown) == 2 + 20 + 1 + 1 + 8
    assert shown[22] == f"({len(entries) - 20} more: --top NUMBER)"
    assert len(ullage("usage", "-o", "table", "--top", "3").out.splitlines()) == 2 + 3 + 1 + 1 + 8


def test_a_dry_run_is_marked_in_the_list_of_jobs(
    ullage: Ullage, here: UllageServer, client: httpx.Client, name: str
) -> None:
    """B48."""
    push_image(client, name, "v1", (b"x",))
    assert ullage("purge", "--filter", f"{name}:x", "--ago", "1d", "--dry-run").code == 0
    assert "purge (dry run)" in ullage("job", "list", "-o", "table").out


def test_an_attestation_is_called_one(
    ullage: Ullage, here: UllageServer, client: httpx.Client, name: str
) -> None:
    """B49: BuildKit's have a platform that there is not."""
    assert platform({"os": "unknown", "architecture": "unknown"}) == "attestation"
    assert platform({"os": "linux", "architecture": "arm64"}) == "linux/arm64"


def test_an_indexs_size_is_what_it_holds(
    ullage: Ullage, here: UllageServer, client: httpx.Client, name: str
) -> None:
    """B49: the bytes of all its platforms, each blob once; not those of its manifests."""
    shared, parts = b"shared".ljust(3000), {"amd64": 1000, "arm64": 2000}
    platforms = [
        push_image(client, name, tag, (shared, tag.encode().ljust(count)))
        for tag, count in parts.items()
    ]
    index = index_of(client, name, platforms)
    assert put_manifest(client, name, "multi", index).status_code == 201
    config = image(client, name)["config"]["size"]
    outer = index_of(client, name, [digest_of(encoded(index))])
    assert put_manifest(client, name, "nested", outer).status_code == 201
    rows = json.loads(ullage("manifest", "list-metadata", "--name", name).out)
    sizes = {row["tags"][0]: row.get("contentSize") for row in rows}
    held = config + 3000 + 1000 + 2000
    assert sizes == {"amd64": None, "arm64": None, "multi": held, "nested": held}
    shown = ullage("manifest", "list-metadata", "--name", name, "-o", "table").out.splitlines()
    assert {row.split()[1]: row.split()[3] for row in shown[2:] if "index" in row} == {
        "multi": "5.9",
        "nested": "5.9",
    }
