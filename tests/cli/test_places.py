"""Commands that manage a registry: on this machine's files, or over HTTP; and saying which.

faults of 29 November 2026: such a command showed the audit log of another registry than was meant.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.house import House
from tests.cli.conftest import Done, Ullage, line_of
from tests.support.server import UllageServer, run_ullage
from ullage.accounts.passwords import new_password
from ullage.cli import table
from ullage.cli.local.places import PLACE
from ullage.cli.shell.commands import Command
from ullage.config.loading import load_settings
from ullage.wiring.opening import open_registry

pytestmark = pytest.mark.thorough

MANAGING = [each for each in table.local() if set(PLACE) <= set(each.flags)]


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Opening a registry sets it, for the process that serves."""
    umask = os.umask(0o077)
    yield
    os.umask(umask)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house") / "data") as house:
        yield house


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of this machine, in the folder that is the default."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "ullage-data"
    with open_registry(load_settings({"data": str(data)}, {})):
        pass
    return data


@pytest.fixture
def as_admin(house: House) -> tuple[str, ...]:
    return ("-u", "admin", "-p", house.ADMIN_PASSWORD)


def names(done: Done) -> list[str]:
    assert done.code == 0, done
    return [each["name"] for each in json.loads(done.out)]


def test_each_command_is_about_the_registry_that_was_named_and_says_which(
    ullage: Ullage,
    house: House,
    ours: Path,
    as_admin: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flag, then the variable, then the folder that is here."""
    here = ullage("user", "list")
    assert (names(here), here.err) == ([], "registry: ./ullage-data on this machine\n")
    there = ullage("user", "list", "--registry", house.server.url, *as_admin)
    assert (names(there), there.err) == (["admin"], f"registry: {house.server.url}\n")
    monkeypatch.setenv("ULLAGE_REGISTRY", house.server.host)
    there = ullage("user", "list", *as_admin)
    assert (names(there), there.err) == (["admin"], f"registry: {house.server.host}\n")
    for flags in (
        ("--data", str(ours)),
        ("--database", f"sqlite:///{ours}/ullage.db"),
    ):
        here = ullage("user", "list", *flags)
        assert names(here) == []
        assert here.err.startswith("registry: ./ullage-data")
        assert here.err.endswith(" on this machine\n")
    quiet = ullage("user", "list", *as_admin, "--only-show-errors")
    assert quiet.err == ""


def test_the_default_of_config_is_asked_where_no_folder_is(
    ullage: Ullage, house: House, as_admin: tuple[str, ...], tmp_path: Path, ours: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ullage("config", "set", f"registry={house.server.url}")
    assert names(ullage("user", "list")) == []
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert names(ullage("user", "list", *as_admin)) == ["admin"]


@pytest.mark.parametrize("command", MANAGING, ids=lambda each: each.name)
def test_two_registries_in_one_line_are_an_error_of_one_line(
    ullage: Ullage, command: Command, tmp_path: Path
) -> None:
    both = ("--registry", "127.0.0.1:1", "--data", str(tmp_path))
    done = ullage(*line_of(command, *both))
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "ERROR: --data means files of this machine, --registry a registry that is asked over "
        "HTTP: give one of the two\n"
    )


def test_there_are_as_many_of_these_commands_as_there_should_be() -> None:
    assert len(MANAGING) == 26


def test_a_login_for_files_and_no_registry_at_all_are_told_what_to_name(
    ullage: Ullage, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ullage("user", "create", "-n", "anna", "--password", "a long secret")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "ERROR: --password is for a registry that is asked over HTTP: add --registry\n"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = ullage("user", "list")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"ERROR: there is no registry in {tmp_path}/elsewhere/ullage-data; name its folder with "
        "--data, or one to ask over HTTP with --registry\n"
    )


# --- the same commands, the same output -----------------------------------------------------------

# What differs from one registry to the next, and from one run to the next.
SESSION = (
    "user create -n anna --admin",
    "user list",
    "user update -n anna --no-admin",
    "user password -n anna",
    "user show -n anna",
    "scope-map create -n readers --repository team/* content/read --description those",
    "scope-map update -n readers --add-repository b content/read",
    "user update -n anna --scope-map readers",
    "scope-map list",
    "scope-map show -n readers",
    "token create -n ci --scope-map readers --expiration-in-days 3",
    "token create -n own --repository team/app content/read content/write --no-passwords",
    "token update -n ci --status disabled",
    "token credential generate -n ci --password1",
    "token credential delete -n ci --password2",
    "token list",
    "token show -n ci",
    "token delete -n own",
    "token delete -n ci",
    "user delete -n anna",
    "scope-map delete -n readers",
    "user show -n anna",
    "key rotate",
    "key rotate --revoke",
    "key list",
    "upload list",
    "upload cancel --account anna",
    "upload cancel 0123",
    "audit list --action user.create --top 1",
    "audit list --since 1h --top 3 --repository none",
)


@pytest.mark.thorough
def test_a_command_does_and_prints_the_same_here_and_there(
    ullage: Ullage, house: House, as_admin: tuple[str, ...]
) -> None:
    """One implementation, one table; only who did it and from where differ."""
    here = ("--data", str(house.server.data))
    there = ("--registry", house.server.url, *as_admin)
    for line in SESSION:
        words = line.split()
        results = []
        for place in (here, there):
            # What was made here is made away with here, before it is made there.
            done = ullage(*words, *place, "-o", "table")
            results.append((done.code, shape(done.out)))
            if done.code and "no user" not in done.err and "no such upload" not in done.err:
                pytest.fail(f"{line}: {done}")
            undo(ullage, words, here if place is here else ())
        assert results[0] == results[1], line


def shape(text: str) -> list[list[str]]:
    """A table's header and the words of its rows that are no secret, time or id.

    A secret is told by its length: one password in a hundred has letters only.
    """
    lines = [line.split() for line in text.splitlines() if not line.startswith("---")]
    return (
        [lines[0], *([word for word in row if is_plain(word)] for row in lines[1:])]
        if lines
        else []
    )


def is_plain(word: str) -> bool:
    return word.isalpha() and len(word) < len(new_password())


def undo(ullage: Ullage, words: list[str], here: tuple[str, ...]) -> None:
    """Of a thing that can be made or deleted once: ready for the other way."""
    if not here:
        return
    what, verb, *_ = words
    name = words[words.index("-n") + 1] if "-n" in words else ""
    if verb == "create":
        assert ullage(what, "delete", "-n", name, *here).code == 0
    elif verb == "delete" and what == "user":
        assert ullage(what, "create", "-n", name, *here).code == 0
    elif verb == "delete" and what in ("token", "scope-map"):
        rights = ("--repository", "team/app", "content/read")
        assert ullage(what, "create", "-n", name, *rights, *here).code == 0


def test_a_check_is_the_same_here_and_there(
    ullage: Ullage, house: House, as_admin: tuple[str, ...]
) -> None:
    there = ("--registry", house.server.url, *as_admin)
    reports = [
        ullage("check", "--json", *place) for place in (("--data", str(house.server.data)), there)
    ]
    here, remote = ({**json.loads(each.out), "seconds": 0} for each in reports)
    assert here == remote
    assert [each.code for each in reports] == [0, 0]
    for line, code in (
        (("--registry", house.server.url, "-u", "admin", "-p", "wrong"), 3),
        (("--registry", "127.0.0.1:1"), 3),
        (("--registry", "no registry"), 3),
        (("--registry", house.server.url, "--storage", "file:/x"), 2),
    ):
        done = ullage("check", *line)
        assert (done.code, done.out) == (code, ""), done


def test_audit_entries_come_page_by_page(
    ullage: Ullage, house: House, as_admin: tuple[str, ...]
) -> None:
    for _ in range(60):
        house.manage("user create", name="often", password="long enough")
        house.manage("user delete", name="often")
    there = ("--registry", house.server.url, *as_admin)
    found = [
        json.loads(ullage("audit", "list", *place, "--top", "115").out)
        for place in (("--data", str(house.server.data)), there)
    ]
    assert len(found[0]) == 115
    assert found[0] == found[1]


@pytest.mark.thorough
@pytest.mark.parametrize("line", ["audit list", "user list", "key list", "check"])
def test_a_login_without_the_right_is_told_that_it_takes_an_administrator(
    ullage: Ullage, house: House, line: str
) -> None:
    """Logging in again would not help."""
    house.manage("user create", name="plain", password="a long secret")
    try:
        login = ("--registry", house.server.url, "-u", "plain", "-p", "a long secret")
        done = ullage(*line.split(), *login)
    finally:
        house.manage("user delete", name="plain")
    assert (done.code, done.out) == (3 if line == "check" else 1, "")
    assert done.err == (
        f"registry: {house.server.url}\n"
        "ERROR: this takes an administrator; the login that was used is none\n"
    )


def test_the_real_command_leaves_stdout_to_the_result(house: House, tmp_path: Path) -> None:
    done = run_ullage(
        *("user", "list", "-u", "admin", "-p", house.ADMIN_PASSWORD, "-o", "tsv"),
        *("--query", "[].name"),
        env={"ULLAGE_REGISTRY": house.server.host, "XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert (done.stdout, done.stderr) == ("admin\n", f"registry: {house.server.host}\n")


def test_a_registry_without_accounts_says_why_it_makes_none(
    ullage: Ullage, here: UllageServer
) -> None:
    done = ullage("user", "create", "-n", "anna")
    assert done.code == 1
    assert "this registry asks for no accounts" in done.err
    assert ullage("user", "list").out == "[]\n"
