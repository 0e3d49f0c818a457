"""Commands on a database of another version: what looks changes nothing, what cannot go on says so.

Every command that opens a database is tried, found by its flags: one that is new is tried, too.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command as alembic
from alembic.config import Config

from tests.cli.conftest import Ullage, line_of
from tests.support.server import UllageServer, run_ullage
from ullage.cli import table
from ullage.cli.shell.commands import Command
from ullage.config.loading import load_settings
from ullage.database.migrations.upgrade import NEWEST, SCRIPTS
from ullage.wiring.opening import open_registry

pytestmark = pytest.mark.thorough

OLDER, NEWER = "b0001", "b9999"
OPENING = [
    each
    for each in table.local()
    if {"--data", "--config"} <= {flag.names[0] for flag in each.flags}
    # It opens no registry, it makes one.
    and each.words != ("restore-backup",)
]
LOOKING = [each for each in OPENING if each.words not in (("serve",), ("migrate",))]


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Opening a registry sets it, for the process that serves."""
    umask = os.umask(0o077)
    yield
    os.umask(umask)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a registry that an older version made."""
    data = tmp_path_factory.mktemp("older") / "data"
    data.mkdir()
    engine = sa.create_engine(f"sqlite:///{data}/ullage.db")
    with engine.connect() as connection, connection.begin():
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        alembic.upgrade(config, OLDER)
    engine.dispose()
    # In the journal mode that a server leaves it in, which is part of the file.
    engine = sa.create_engine(f"sqlite:///{data}/ullage.db")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    engine.dispose()
    return data


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a registry that a newer version used last."""
    data = tmp_path_factory.mktemp("newer") / "data"
    with open_registry(load_settings({"data": str(data)}, {})):
        pass
    engine = sa.create_engine(f"sqlite:///{data}/ullage.db")
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{NEWER}'"))
    engine.dispose()
    return data


def name(command: Command) -> str:
    return command.name


@pytest.mark.parametrize("command", LOOKING, ids=name)
def test_no_command_but_the_server_and_migrate_changes_tables(
    ullage: Ullage, older: Path, command: Command
) -> None:
    """A command that looks, or adds an account, would lock the server's older version out."""
    before = (older / "ullage.db").read_bytes()
    done = ullage(*line_of(command, "--data", str(older)))
    way_on = "start the server, or run `ullage migrate`"
    expected = f"ERROR: database: schema {OLDER}, this is {NEWEST}: {way_on}\n"
    assert done.err.splitlines(keepends=True)[-1:] == [expected]
    assert (done.code, done.out) == (3 if command.words == ("check",) else 1, "")
    assert (older / "ullage.db").read_bytes() == before


def test_a_server_that_may_not_migrate_refuses_to_start(ullage: Ullage, older: Path) -> None:
    before = (older / "ullage.db").read_bytes()
    done = ullage("serve", "--no-migrate", "--listen", "127.0.0.1:0", "--data", str(older))
    way_on = "start without --no-migrate, or run `ullage migrate`"
    expected = f"ERROR: database: schema {OLDER}, this is {NEWEST}: {way_on}\n"
    assert (done.code, done.out, done.err) == (1, "", expected)
    assert (older / "ullage.db").read_bytes() == before


@pytest.mark.thorough
def test_a_server_that_may_not_migrate_makes_a_new_database(tmp_path: Path) -> None:
    with UllageServer(tmp_path / "data", "--no-migrate") as server:
        assert server.terminate() == 0


def test_migrate_says_from_where_to_where(ullage: Ullage, older: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(older, data)
    done = ullage("migrate", "--data", str(data))
    assert done.code == 0, done
    assert done.out == f"Migrated the database from schema {OLDER} to {NEWEST}.\n"
    assert (
        ullage("migrate", "--data", str(data)).out == f"The database has schema {NEWEST} already.\n"
    )
    assert ullage("user", "list", "--data", str(data)).code == 0


def test_migrate_makes_nothing_where_there_is_nothing(ullage: Ullage, tmp_path: Path) -> None:
    for flags in (
        ("--data", str(tmp_path / "missing")),
        ("--database", f"sqlite:///{tmp_path}/missing.db"),
    ):
        done = ullage("migrate", *flags)
        assert (done.code, done.out) == (1, "")
        assert "there is no" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize("command", OPENING, ids=name)
def test_a_database_of_a_newer_version_is_one_line_on_every_command(
    ullage: Ullage, newer: Path, command: Command
) -> None:
    """A hundred lines of traceback say the same, to nobody."""
    more = ("--listen", "127.0.0.1:0") if command.words == ("serve",) else ()
    done = ullage(*line_of(command, "--data", str(newer), *more))
    expected = f"database: it is of a newer version ({NEWER}), this is {NEWEST} - "
    last = done.err.splitlines()[-1]
    assert last.startswith(f"ERROR: {expected}start the version of Ullage that used it last")
    assert "Traceback" not in done.err
    assert (done.code, done.out) == (3 if command.words == ("check",) else 1, "")


@pytest.mark.parametrize("command", OPENING, ids=name)
def test_a_driver_that_is_not_installed_is_one_line_on_every_command(
    ullage: Ullage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Command
) -> None:
    """`pip install ullage` has none for PostgreSQL."""
    monkeypatch.delitem(sys.modules, "ullage.database.postgresql", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    (tmp_path / "data").mkdir()
    place = ("--data", str(tmp_path / "data"), "--database", "postgresql://ada:secret@db/ullage")
    more = ("--listen", "127.0.0.1:0") if command.words == ("serve",) else ()
    done = ullage(*line_of(command, *place, *more))
    last = done.err.splitlines()[-1]
    assert last.startswith("ERROR: database: 'postgresql://ada:***@db/ullage' - PostgreSQL takes ")
    assert last.endswith(": install ullage[postgres]")
    assert "Traceback" not in done.err
    assert "secret" not in done.err
    assert (done.code, done.out) == (3 if command.words == ("check",) else 1, "")


@pytest.mark.thorough
def test_it_is_so_with_the_real_command(newer: Path, older: Path) -> None:
    for data, expected in ((newer, "newer version"), (older, "or run `ullage migrate`")):
        done = run_ullage("audit", "list", "--data", data)
        assert (done.returncode, done.stdout) == (1, "")
        assert expected in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
