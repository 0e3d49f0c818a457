"""Commands on this machine: what they explain, what they refuse, and with which exit code."""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import Ullage
from tests.support.server import run_ullage
from ullage import __version__
from ullage.cli.client import saved
from ullage.config.loading import load_settings
from ullage.config.settings import SETTINGS
from ullage.wiring.opening import CannotStart, open_registry

pytestmark = pytest.mark.thorough

# --- help -----------------------------------------------------------------------------------------


def test_help_on_serve_explains_every_setting(ullage: Ullage) -> None:
    done = ullage("serve", "--help")
    page = " ".join(done.out.split())
    assert (
        "Settings come from these flags, ULLAGE_* variables or a TOML file, in that order" in page
    )
    for setting in SETTINGS:
        default = f" [default: {setting.default}]" if setting.default else ""
        expected = f"{setting.flag} {setting.kind} {setting.help}{default} [{setting.variable}]"
        assert expected in page
    assert "--config FILE TOML file with settings. [ULLAGE_CONFIG]" in page
    assert "--output" not in page


def test_no_line_is_wider_than_the_terminal(
    ullage: Ullage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ([], ["serve"], ["check"], ["token", "create"]):
        lines = ullage(*command, "--help").out.partition("Examples:")[0].splitlines()
        assert max(map(len, lines)) <= 80


# --- usage ----------------------------------------------------------------------------------------


def test_the_version(ullage: Ullage) -> None:
    for line in ("version", "--version"):
        assert (ullage(line).out, ullage(line).code) == (f"{__version__}\n", 0)
    assert run_ullage("version").stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        ("nonsense", 2, "'nonsense' is misspelled or not recognized by the system."),
        ("serv", 2, "Did you mean 'serve'?"),
        ("token creat", 2, "Did you mean 'create'?"),
        ("serve --nonsense", 2, "unrecognized arguments: --nonsense"),
        ("serve extra", 2, "unrecognized arguments: extra"),
        ("serve --data", 2, "argument --data: expected one argument"),
        ("serve --auth perhaps", 2, "'perhaps' is not a valid value for '--auth'."),
        ("check --listen 127.0.0.1:1", 2, "unrecognized arguments: --listen 127.0.0.1:1"),
        ("serve --threads many", 2, "--threads: 'many' - expected a whole number"),
        ("serve --data=", 2, "--data: '' - expected a folder"),
        ("check --data=", 2, "--data: '' - expected a folder"),
        ("serve --config missing.toml", 2, "configuration file missing.toml"),
        ("check --fast --deep", 3, "--fast and --deep exclude each other"),
        ("check --data missing", 3, "there is no registry in"),
        ("user create", 2, "the following arguments are required: --name/-n"),
        ("user update --name anna --admin --no-admin", 2, "exclude each other"),
        ("token update --name ci --status maybe", 2, "Allowed values: enabled, disabled."),
        ("token list --data missing", 1, "there is no registry in"),
    ],
)
def test_wrong_usage_is_explained(
    ullage: Ullage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    code: int,
    expected: str,
) -> None:
    """Exit codes as az's: 2 for usage; `check` has its own 3 for "could not"."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    done = ullage(*line.split())
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("ERROR: ")
    assert expected in done.err
    assert list(folder.iterdir()) == []


def test_a_wrong_variable_is_called_by_its_name(
    ullage: Ullage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by that of the flag, which was not given."""
    monkeypatch.setenv("ULLAGE_THREADS", "many")
    for command in ("serve", "check"):
        done = ullage(command)
        assert done.code == 2
        assert done.err == "ERROR: ULLAGE_THREADS: 'many' - expected a whole number\n"


# --- what may not be read -------------------------------------------------------------------------

ON_FILES = ("check", "user list", "migrate")


@contextmanager
def as_another_user() -> Iterator[None]:
    """With the rights of a user that owns nothing; of us, if we are no administrator."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("line", ON_FILES)
def test_a_folder_that_may_not_be_read_is_not_said_to_have_no_registry(
    ullage: Ullage, data: Path, line: str
) -> None:
    """Nobody looks for another folder where the user is the wrong one."""
    # What is imported late is here then.
    assert ullage(*line.split(), "--data", str(data)).code == 0
    data.chmod(0)
    try:
        with as_another_user():
            done = ullage(*line.split(), "--data", str(data))
    finally:
        data.chmod(0o700)
    assert done.code == (3 if line == "check" else 1)
    assert done.err == f"ERROR: cannot read {data}: Permission denied\n"


@pytest.mark.parametrize("line", ON_FILES)
def test_work_on_this_machine_needs_no_configuration_of_clients(
    ullage: Ullage, data: Path, line: str
) -> None:
    """A server may be run with the home of a user whose files it may not read."""
    path = saved.client_path()
    path.parent.mkdir(parents=True)
    path.write_text("{}")

    def refused(self: Path, *_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "read_text", refused)
        assert ullage(*line.split(), "--data", str(data)).code == 0
        done = ullage("repository", "list")
    assert (done.code, done.err) == (1, f"ERROR: {path}: Permission denied\n")


# --- accounts -------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of a registry that is not served."""
    folder = tmp_path / "data"
    with open_registry(load_settings({"data": str(folder)}, {})):
        pass
    return folder


def answer(ullage: Ullage, *line: str | Path) -> object:
    done = ullage(*map(str, line))
    assert done.code == 0, done
    return json.loads(done.out) if done.out else None


@pytest.mark.parametrize(
    "given",
    [
        ["--repository", "team/*", "content/read", "metadata/read"],
        ["--repository", "team/*=content/read,metadata/read"],
        ["--repository", "team/*", "content/read", "--repository", "team/*", "metadata/read"],
        ["--repository=team/*=content/read", "--repository", "team/*", "metadata/read"],
    ],
)
def test_rights_are_given_as_az_takes_them(ullage: Ullage, data: Path, given: list[str]) -> None:
    """A list behind one flag, any number of times; or in one word."""
    made = answer(ullage, "scope-map", "create", "--name", "readers", *given, "--data", data)
    expected = ["repositories/team/*/content/read", "repositories/team/*/metadata/read"]
    assert isinstance(made, dict)
    assert made["actions"] == expected
    answer(
        ullage, "scope-map", "update", "-n", "readers", "--data", data,
        "--add-repository", "b", "content/read", "--remove-repository", "team/*", "metadata/read",
    )  # fmt: skip
    shown = answer(ullage, "scope-map", "show", "--name", "readers", "--data", data)
    assert isinstance(shown, dict)
    assert set(shown["actions"]) == {expected[0], "repositories/b/content/read"}


def test_only_what_is_said_is_changed(ullage: Ullage, data: Path) -> None:
    answer(ullage, "user", "create", "--name", "root", "--admin", "--data", data)
    made = answer(ullage, "user", "create", "--name", "anna", "--admin", "--data", data)
    assert isinstance(made, dict)
    for change, expected in (
        (("--status", "disabled"), {"status": "disabled", "admin": True}),
        (("--no-admin",), {"status": "disabled", "admin": False}),
        (("--status", "ENABLED", "--admin"), {"status": "enabled", "admin": True}),
    ):
        shown = answer(ullage, "user", "update", "--name", "anna", *change, "--data", data)
        assert isinstance(shown, dict)
        assert shown.items() >= expected.items()
    assert answer(ullage, "user", "delete", "--name", "anna", "--data", data) is None
    gone = ullage("user", "show", "--name", "anna", "--data", str(data))
    assert (gone.code, gone.out) == (3, "")
    assert gone.err.splitlines()[1:] == ["ERROR: there is no user called anna"]


def test_results_are_queried_and_formatted_as_everywhere(ullage: Ullage, data: Path) -> None:
    rights = ("--repository", "team/app", "content/read")
    answer(ullage, "token", "create", "--name", "ci", *rights, "--data", data)
    query = "[].credentials.passwords[].name"
    listed = ullage("token", "list", "--data", str(data), "--query", query, "-o", "tsv")
    assert listed.out == "password1\npassword2\n"


def test_passwords_that_were_just_made_are_in_the_table(data: Path, ullage: Ullage) -> None:
    """On a terminal it is a table, and they cannot be looked up later."""
    rights = ("--repository", "team/app", "content/read")
    made = ullage("token", "create", "-n", "ci", *rights, "--data", str(data), "-o", "table")
    header, _, *rows = made.out.splitlines()
    assert header.split() == ["Token", "Password", "Value", "Expiry"]
    assert [row.split()[:2] for row in rows] == [["ci", "password1"], ["ci", "password2"]]
    again = ullage(
        "token", "credential", "generate", "-n", "ci", "--password2", "--data", str(data),
        "-o", "table", "--expiration-in-days", "3",
    )  # fmt: skip
    (row,) = again.out.splitlines()[2:]
    assert row.split()[:2] == ["ci", "password2"]
    assert rows[1].split()[2] not in again.out
    shown = ullage("token", "list", "--data", str(data), "-o", "table")
    assert shown.out.splitlines()[2].split()[:4] == ["ci", "enabled", "ci-scope-map", "password1,"]
    user = ullage("user", "create", "-n", "anna", "--admin", "--data", str(data), "-o", "table")
    assert user.out.splitlines()[0].split()[:2] == ["Name", "Password"]
    listed = ullage("user", "list", "--data", str(data), "-o", "table")
    assert "Password" not in listed.out


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
        ({"data": "{tmp}/a-file"}, "data: {tmp}/a-file is a file"),
        (
            {"database": "sqlite:///{tmp}/a-file"},
            "database: {tmp}/a-file is no SQLite database - put it back from a backup if it was ",
        ),
        ({"database": "sqlite:///{tmp}"}, "database: {tmp} is a folder - name another file with "),
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


def _of_another_program() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
        return connection.serialize()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x", "is no SQLite database"),
        (b"a text that is longer than the header of a database\n", "is no SQLite database"),
        (_of_another_program(), "has tables of another program (recipes)"),
    ],
    ids=["one byte", "a text", "another program's"],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(
    tmp_path: Path, ullage: Ullage, content: bytes, expected: str
) -> None:
    (tmp_path / "data").mkdir()
    folder = tmp_path / "theirs"
    folder.mkdir()
    file = folder / "notes"
    file.write_bytes(content)
    place = ("--data", str(tmp_path / "data"), "--database", f"sqlite:///{file}")
    for command, code in (
        (("serve", "--listen", "127.0.0.1:0"), 1),
        (("migrate",), 1),
        (("check",), 3),
        (("user", "list"), 1),
    ):
        done = ullage(*command, *place)
        last = done.err.splitlines()[-1]
        assert last.startswith(f"ERROR: database: {file} {expected}"), command
        assert last.endswith("name another file with --data or --database")
        assert "Traceback" not in done.err
        assert (done.code, done.out) == (code, ""), command
        assert file.read_bytes() == content
        assert list(folder.iterdir()) == [file], command


@pytest.mark.postgresql
def test_a_database_server_that_is_away_is_said_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://nobody:secret@127.0.0.1:1/nothing"
    settings = load_settings({"data": str(tmp_path / "data"), "database": url}, {})
    with pytest.raises(CannotStart) as caught, open_registry(settings):
        pass
    assert str(caught.value).startswith("database: ")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
