"""What operators get wrong: each ends in one line that says what to change, and changes nothing.

The real command each time. Which settings make no sense together is in tests/test_config.py.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.postgres import PostgresServer
from tests.support.registry import push_image
from tests.support.require import require_command
from tests.support.server import UllageServer, run_ullage
from ullage.config.loading import load_settings
from ullage.database.migrations.upgrade import NEWEST
from ullage.wiring.opening import open_registry

pytestmark = pytest.mark.thorough


@dataclass(frozen=True)
class Ground:
    """A folder with everything that can be mistaken for something else."""

    folder: Path
    # A port that is taken.
    port: int

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def stocked(self, name: str) -> Path:
        """The data folder of a registry of its own, with an image."""
        data = self.folder / name
        with open_registry(load_settings({"data": str(data)}, {})) as (registry, _):
            push_image(registry, "team/app", "v1", [name.encode()])
        return data

    def certificate(self, name: str) -> tuple[Path, Path]:
        key, certificate = self / f"{name}.key", self / f"{name}.pem"
        subprocess.run(
            [
                *(require_command("openssl"), "req", "-x509", "-newkey", "ec"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
                *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
            ],
            check=True,
            capture_output=True,
        )
        return certificate, key


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    umask = os.umask(0o077)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield Ground(tmp_path, taken.getsockname()[1])
    os.umask(umask)


# --- the mistakes: each makes what is wrong, and is the flags that would be given -----------------


def a_file_for_the_folder(ground: Ground) -> list[str]:
    (ground / "file").write_text("x")
    return ["--data", str(ground / "file")]


def a_folder_below_a_file(ground: Ground) -> list[str]:
    return [*a_file_for_the_folder(ground)[:1], str(ground / "file" / "data")]


def a_folder_that_cannot_be_written(ground: Ground) -> list[str]:
    # The superuser may write everywhere else.
    return ["--data", "/proc/ullage-data"]


def the_folder_of_another_program(ground: Ground) -> list[str]:
    (ground / "site").mkdir()
    (ground / "site" / "package.json").write_text("{}")
    return ["--data", str(ground / "site")]


def the_database_of_another_registry(ground: Ground) -> list[str]:
    mine, theirs = ground.stocked("mine"), ground.stocked("theirs")
    return ["--data", str(mine), "--database", f"sqlite:///{theirs}/ullage.db"]


def a_newer_database(ground: Ground) -> list[str]:
    data = ground.stocked("data")
    engine = sa.create_engine(f"sqlite:///{data}/ullage.db")
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'b9999'"))
    engine.dispose()
    return ["--data", str(data)]


def an_empty_database(ground: Ground) -> list[str]:
    data = ground.stocked("data")
    (data / "ullage.db").write_bytes(b"")
    for name in ("ullage.db-wal", "ullage.db-shm"):
        (data / name).unlink(missing_ok=True)
    return ["--data", str(data)]


def a_misspelt_setting(ground: Ground) -> list[str]:
    (ground / "ullage.toml").write_text('lisen = "127.0.0.1:0"\n')
    return ["--config", str(ground / "ullage.toml")]


def a_folder_for_the_settings(ground: Ground) -> list[str]:
    return ["--config", str(ground.folder)]


def a_port_that_is_taken(ground: Ground) -> list[str]:
    return ["--data", str(ground / "data"), "--listen", f"127.0.0.1:{ground.port}"]


def the_key_of_another_certificate(ground: Ground) -> list[str]:
    certificate, key = ground.certificate("one")[0], ground.certificate("other")[1]
    place = ["--data", str(ground / "data")]
    return [*place, "--tls-cert", str(certificate), "--tls-key", str(key)]


def a_database_server_that_is_away(ground: Ground) -> list[str]:
    return ["--data", str(ground / "data"), "--database", "postgresql://ada:secret@127.0.0.1:1/x"]


def a_database_url_without_sense(ground: Ground) -> list[str]:
    return ["--data", str(ground / "data"), "--database", "postgresql://ada:secret@db:port/x"]


def a_missing_blobs_folder(ground: Ground) -> list[str]:
    data = ground.stocked("data")
    shutil.rmtree(data / "blobs")
    return ["--data", str(data)]


Mistake = Callable[[Ground], list[str]]
# What `serve` says of each, and whether a command that only looks meets it, too.
SERVE: list[tuple[Mistake, str, bool]] = [
    (a_file_for_the_folder, "data: {ground}/file is a file - name a folder with --data", False),
    (a_folder_below_a_file, "data: {ground}/file is a file - name a folder with --data", False),
    (
        a_folder_that_cannot_be_written,
        "No such file or directory - name another folder with --data, or mend its permissions",
        False,
    ),
    (
        the_folder_of_another_program,
        "{ground}/site holds files of another program (package.json) - name a new or an empty",
        False,
    ),
    (
        the_database_of_another_registry,
        "name the database and the storage that belong together, or start once with",
        True,
    ),
    (a_newer_database, f"newer version (b9999), this is {NEWEST} - start the version", True),
    (an_empty_database, "the database {ground}/data/ullage.db is empty, but {ground}/data", True),
    (
        a_misspelt_setting,
        "lisen in {ground}/ullage.toml: no such setting; did you mean listen?",
        True,
    ),
    (
        a_folder_for_the_settings,
        "configuration file {ground}: Is a directory - name another one with --config",
        True,
    ),
    (a_port_that_is_taken, "choose another address with --listen", False),
    (
        the_key_of_another_certificate,
        "tls_key: {ground}/other.key does not belong to the certificate in {ground}/one.pem",
        False,
    ),
    (
        a_database_server_that_is_away,
        "Connection refused - start its server, or correct user, password, address or name in",
        True,
    ),
    (
        a_database_url_without_sense,
        "database: 'postgresql://ada:***@db:port/x' - expected sqlite:///path or postgresql://",
        True,
    ),
    (
        a_missing_blobs_folder,
        "but {ground}/data is empty - mount or name the right storage, or start once with",
        True,
    ),
]


def name(case: object) -> str:
    return getattr(case, "__name__", "")


@pytest.mark.parametrize(("mistake", "expected", "looks"), SERVE, ids=name)
@pytest.mark.postgresql
def test_a_mistake_is_one_line_that_says_what_to_change(
    ground: Ground, mistake: Mistake, expected: str, looks: bool
) -> None:
    flags = mistake(ground)
    before = sorted(ground.folder.rglob("*"))
    listen = [] if "--listen" in flags or "--config" in flags else ["--listen", "127.0.0.1:0"]
    done = run_ullage("serve", *listen, *flags)
    [line] = done.stderr.splitlines()
    assert line.startswith("ERROR: ")
    assert expected.format(ground=ground.folder) in line
    assert "secret" not in line
    assert (done.returncode, done.stdout) == (2 if "--config" in flags else 1, "")
    if looks:
        _look(flags)
    made = {path.name for path in set(ground.folder.rglob("*")) - set(before)}
    assert not made & {"ullage.db", "tls", "control.sock"}


def _look(flags: list[str]) -> None:
    """The same mistake at a command that looks: a line more, about which registry it speaks to."""
    done = run_ullage("check", *flags)
    *said, last = done.stderr.splitlines()
    assert all(line.startswith("registry: ") for line in said), done.stderr
    assert len(said) <= 1
    assert last.startswith("ERROR: ")
    assert "secret" not in done.stderr
    assert (done.returncode, done.stdout) == (2 if "--config" in flags else 3, "")


@pytest.fixture
def with_password(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an account of PostgreSQL that is asked for its password, which is "right"."""
    rules = Path(_ask(postgres_server, "SHOW hba_file"))
    before = rules.read_text()
    rules.write_text("host all ada 127.0.0.1/32 scram-sha-256\n" + before)
    _ask(postgres_server, "SELECT 'done' FROM pg_reload_conf()")
    _ask(
        postgres_server,
        "DROP ROLE IF EXISTS ada; CREATE ROLE ada LOGIN PASSWORD 'right'; SELECT ''",
    )
    url = f"postgresql://ada:{{}}@127.0.0.1:{postgres_server.port}/postgres"
    deadline = time.monotonic() + 10
    while _lets_in(url.format("wrong")):
        assert time.monotonic() < deadline, "the rules were not read again"
    yield url
    rules.write_text(before)
    _ask(postgres_server, "DROP ROLE ada; SELECT 'done' FROM pg_reload_conf()")


def _ask(server: PostgresServer, statement: str) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        while cursor.nextset():
            pass
        return str((cursor.fetchone() or [""])[0])


def _lets_in(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.mark.postgresql
def test_a_wrong_password_for_postgresql_is_one_line(ground: Ground, with_password: str) -> None:
    assert _lets_in(with_password.format("right"))
    flags = ["--data", str(ground / "data"), "--database", with_password.format("secret")]
    done = run_ullage("serve", "--listen", "127.0.0.1:0", *flags)
    [line] = done.stderr.splitlines()
    assert 'password authentication failed for user "ada" - ' in line
    assert line.endswith("correct user, password, address or name in --database")
    assert "secret" not in line
    assert (done.returncode, done.stdout) == (1, "")
    _look(flags)


def test_a_second_server_on_one_folder_is_told_who_has_it(ground: Ground) -> None:
    with UllageServer(ground / "data") as server:
        done = run_ullage("serve", "--listen", "127.0.0.1:0", "--data", server.data)
        [line] = done.stderr.splitlines()
        assert f"is in use by process {server.pid} - one process owns a SQLite database" in line
        assert (done.returncode, done.stdout) == (1, "")
        assert run_ullage("user", "list", "--data", server.data).returncode == 0
