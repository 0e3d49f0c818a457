"""New databases and migrated ones have exactly the tables of the schema, on both engines."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.support.server import command_environment, run_ullage
from ullage.database.errors import DatabaseUnusable
from ullage.database.migrations.upgrade import BEFORE_THE_FIRST_RELEASE, NEWEST, SCRIPTS, upgrade
from ullage.database.opening import open_database
from ullage.database.schema import base

pytestmark = pytest.mark.thorough


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """A connection of our own, beside the registry's."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _at_revision(url: str, revision: str) -> None:
    with connected(url) as connection, connection.begin():
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _stamp(url: str, revision: str) -> None:
    """Make it a database of another version."""
    with connected(url) as connection, connection.begin():
        connection.execute(
            sa.text("UPDATE alembic_version SET version_num = :to"), {"to": revision}
        )


@pytest.fixture
def migrated_url(database_url: str) -> str:
    """A database that has grown up: every migration, one after the other."""
    _at_revision(database_url, "head")
    return database_url


@pytest.fixture
def new_url(database_url: str) -> str:
    open_database(database_url).close()
    return database_url


def test_migrations_make_the_tables_of_the_schema(migrated_url: str) -> None:
    with connected(migrated_url) as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, base.metadata) == []


def test_the_newest_migration_is_the_one_that_a_start_looks_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.thorough
def test_a_database_that_is_new_or_up_to_date_needs_no_alembic(
    database_url: str, new: bool
) -> None:
    """It takes longer to import than the registry to open its database, and ten megabytes."""
    if not new:
        open_database(database_url).close()
    program = (
        "import sys; from ullage.database.opening import open_database;"
        "open_database(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", program, database_url], env=command_environment(), check=True
    )


def test_migrations_make_the_same_keys_checks_and_options_as_the_schema(
    migrated_url: str,
) -> None:
    """What Alembic does not compare: primary keys, collations, WITHOUT ROWID, AUTOINCREMENT.

    Also its own table, which rows an index has, and what a crash of the server may empty.
    """
    with connected(migrated_url) as connection, connection.begin():
        migrated = _definitions(connection)
        base.metadata.drop_all(connection)
        connection.execute(sa.text("DROP TABLE alembic_version"))
        upgrade(connection)
        assert migrated == _definitions(connection)


def _definitions(connection: sa.Connection) -> dict[str, object]:
    """Each table's columns and constraints as the engine itself describes them."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master"
        # The order of columns and constraints says nothing, nor how they are laid out.
        return {name: _parts(sql or "") for name, sql in connection.execute(sa.text(query))}
    columns = connection.execute(
        sa.text(
            "SELECT table_name, column_name, data_type, is_nullable, collation_name, column_default"
            " FROM information_schema.columns WHERE table_schema = 'public'"
        )
    )
    constraints = connection.execute(
        sa.text(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
        )
    )
    kept = connection.execute(
        sa.text(
            "SELECT relname, relkind, relpersistence, reloptions FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace"
        )
    )
    indexes = connection.execute(
        sa.text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    )
    return {
        "indexes": sorted(map(tuple, indexes)),
        "columns": sorted(map(tuple, columns), key=repr),
        "constraints": sorted(map(tuple, constraints)),
        "kept": sorted(map(tuple, kept), key=repr),
    }


def _parts(definition: str) -> list[str]:
    """What a CREATE statement lists between its outermost parentheses, and what is around them."""
    parts, depth = [""], 0
    for character in " ".join(definition.split()):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if (character, depth) in ((",", 1), ("(", 1), (")", 0)):
            parts.append("")
        else:
            parts[-1] += character
    return sorted(part.strip() for part in parts)


@pytest.mark.postgresql
def test_only_promises_are_unlogged(postgres_url: str) -> None:
    """deletion.md section 3: leases need not be durable, everything else has to be."""
    open_database(postgres_url).close()
    with connected(postgres_url) as connection:
        query = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u'"
        assert set(connection.execute(sa.text(query)).scalars()) == {
            "leases",
            "lease_memory",
            "login_failures",
            "processes",
            "signed_memory",
            "signed_reads",
        }


def test_opening_again_changes_nothing(new_url: str) -> None:
    with connected(new_url) as connection:
        before = _definitions(connection)
    open_database(new_url).close()
    with connected(new_url) as connection:
        assert _definitions(connection) == before


# --- what there is no way from --------------------------------------------------------------------


def _everything(url: str) -> object:
    """All that is in a database: its definitions, its version, and on SQLite its file's bytes."""
    if url.startswith("sqlite"):
        return Path(url.removeprefix("sqlite:///")).read_bytes()
    with connected(url) as connection:
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).all()
        return _definitions(connection), version


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (
            "0008",
            """database: it is of a version before the first release (0008), and there is no way
            from there - start with an empty data folder or database; images can be copied over
            with skopeo sync or crane while the old version still serves""",
        ),
        (
            "b9999",
            f"""database: it is of a newer version (b9999), this is {NEWEST} - start the version of
            Ullage that used it last, or a later one""",
        ),
    ],
)
@pytest.mark.thorough
def test_a_database_that_no_migration_leads_from_is_refused_in_one_line_and_left_alone(
    new_url: str, version: str, expected: str, tmp_path: Path
) -> None:
    _stamp(new_url, version)
    before = _everything(new_url)
    with pytest.raises(DatabaseUnusable) as caught:
        open_database(new_url)
    line = " ".join(expected.split())
    assert str(caught.value) == line
    done = run_ullage("serve", "--data", tmp_path / "data", "--database", new_url)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"ERROR: {line}\n")
    assert _everything(new_url) == before


def test_a_migration_that_finds_something_in_its_way_changes_nothing(database_url: str) -> None:
    """Made by hand, or by another program: said in one line, and the rest is left alone."""
    _at_revision(database_url, "b0003")
    with connected(database_url) as connection, connection.begin():
        connection.execute(sa.text("CREATE TABLE login_failures (key TEXT)"))
        before = _definitions(connection)
    with pytest.raises(DatabaseUnusable) as caught:
        open_database(database_url)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"database: it could not be migrated from schema b0003 to {NEWEST}: ")
    assert "login_failures" in line
    with connected(database_url) as connection:
        assert _definitions(connection) == before
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).all() == [
            ("b0003",)
        ]


def test_every_version_before_the_first_release_is_told_apart(new_url: str) -> None:
    """Their numbers and the baseline's never meet, so that none is taken for a newer one."""
    assert {"0001", "0010"} <= BEFORE_THE_FIRST_RELEASE
    assert NEWEST not in BEFORE_THE_FIRST_RELEASE
    for version in BEFORE_THE_FIRST_RELEASE:
        _stamp(new_url, version)
        with pytest.raises(DatabaseUnusable, match=rf"before the first release \({version}\)"):
            open_database(new_url)


def test_tables_of_another_program_are_left_alone(database_url: str) -> None:
    with connected(database_url) as connection, connection.begin():
        connection.execute(sa.text("CREATE TABLE users (id INTEGER)"))
        connection.execute(sa.text("CREATE TABLE theirs (id INTEGER)"))
        before = _definitions(connection)
    with pytest.raises(DatabaseUnusable, match=r"tables of another program \(.*users\)"):
        open_database(database_url)
    with connected(database_url) as connection, connection.begin():
        assert _definitions(connection) == before
        connection.execute(sa.text("DROP TABLE users"))
    if database_url.startswith("sqlite"):
        # A file has one owner, whatever its tables are named.
        with pytest.raises(DatabaseUnusable, match=r"tables of another program \(theirs\)"):
            open_database(database_url)
    else:
        # One whose names are none of ours is a neighbour.
        open_database(database_url).close()


@pytest.mark.thorough
def test_tables_of_another_program_that_are_in_a_log_are_found_too(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("PRAGMA journal_mode = WAL")
        theirs.execute("CREATE TABLE recipes (name TEXT)")
        with pytest.raises(DatabaseUnusable, match=r"tables of another program \(recipes\)"):
            open_database(f"sqlite:///{path}")


# --- the way from the baseline --------------------------------------------------------------------

# As a later version may have it: a table, a column with what it comes to, an index.
_PLANTED = f"""
import sqlalchemy as sa
from alembic import op

revision = "b9999"
down_revision = "{NEWEST}"

def upgrade():
    op.create_table("planted", sa.Column("id", sa.Integer(), primary_key=True))
    op.add_column("repositories", sa.Column("length", sa.Integer()))
    op.execute("UPDATE repositories SET length = length(name)")
    op.create_index("ix_planted_length", "repositories", ["length"])
"""

# Opens a database as the version with `sys.argv[3]` as its newest migration and `sys.argv[4]` as
# its scripts; dies before the changing statement number `sys.argv[2]`, as at a power cut.
_OPEN = """
import os, signal, sys
from pathlib import Path
import sqlalchemy as sa
from ullage.database.migrations import upgrade
from ullage.database.opening import open_database

url, left, upgrade.NEWEST = sys.argv[1], int(sys.argv[2]), sys.argv[3]
upgrade.SCRIPTS = Path(sys.argv[4])

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def die(connection, cursor, statement, *_):
    global left
    left -= statement.lstrip().startswith(("CREATE ", "ALTER ", "UPDATE ", "INSERT "))
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

open_database(url).close()
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """The scripts of a version with one migration more."""
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts)
    (scripts / "versions" / "b9999_planted.py").write_text(_PLANTED)
    return scripts


def _open(
    url: str, *, dies_at: int = -1, newest: str = NEWEST, scripts: Path = SCRIPTS
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", _OPEN, url, str(dies_at), newest, str(scripts)],
        env=command_environment(),
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("statement", [2, 9])
@pytest.mark.thorough
def test_a_kill_while_tables_are_made_leaves_nothing_or_everything(
    database_url: str, statement: int
) -> None:
    """reliability.md F6: never half a schema."""
    done = _open(database_url, dies_at=statement)
    assert done.returncode == -9, done.stderr.decode()
    with connected(database_url) as connection:
        assert sa.inspect(connection).get_table_names() == []
    db = open_database(database_url)
    try:
        assert db.integrity_problems() == []
    finally:
        db.close()
    with connected(database_url) as connection:
        assert compare_metadata(MigrationContext.configure(connection), base.metadata) == []


def _planted_parts(connection: sa.Connection) -> tuple[str, bool, bool, bool]:
    """The version, and which parts of the planted migration there are."""
    inspected = sa.inspect(connection)
    columns = {column["name"] for column in inspected.get_columns("repositories")}
    indexes = {index["name"] for index in inspected.get_indexes("repositories")}
    version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    there = inspected.has_table("planted")
    return version, there, "length" in columns, "ix_planted_length" in indexes


# In the middle, and before Alembic's note of the version.
@pytest.mark.parametrize("statement", [2, 5])
@pytest.mark.thorough
def test_a_migration_from_the_baseline_that_is_killed_is_done_by_the_next_start(
    migrated_url: str, planted: Path, statement: int
) -> None:
    """reliability.md F6: what the killed one did is taken back; the next start does all of it."""
    with connected(migrated_url) as connection, connection.begin():
        connection.execute(
            sa.text("INSERT INTO repositories (id, name, created_at) VALUES (7, 'team/app', 1)")
        )
    killed = _open(migrated_url, dies_at=statement, newest="b9999", scripts=planted)
    assert killed.returncode == -9, killed.stderr.decode()
    with connected(migrated_url) as connection:
        assert _planted_parts(connection) == (NEWEST, False, False, False)
    # The version before still opens it, and the newer one finishes and says so.
    said = []
    for newest, scripts in ((NEWEST, SCRIPTS), ("b9999", planted), ("b9999", planted)):
        done = _open(migrated_url, newest=newest, scripts=scripts)
        assert done.returncode == 0, done.stderr.decode()
        said.append(f"migrated from schema {NEWEST} to b9999" in done.stderr.decode())
    assert said == [False, True, False]
    with connected(migrated_url) as connection:
        assert _planted_parts(connection) == ("b9999", True, True, True)
        lengths = connection.execute(sa.text("SELECT id, length FROM repositories")).all()
        assert [tuple(row) for row in lengths] == [(7, 8)]
    with pytest.raises(DatabaseUnusable, match=r"newer version \(b9999\)"):
        open_database(migrated_url)


def test_plans_of_an_older_version_get_pages(database_url: str) -> None:
    """They live for an hour, and those that a job carries out for a week: none is lost."""
    _at_revision(database_url, "b0007")
    named = {"asked": {}, "items": [{"digest": str(number)} for number in range(1500)]}
    chosen: list[list[object]] = [
        [0, "tag", "v1", "d", 7, 17],
        [0, "tag", "v2", "e", 8, 18],
        [0, "manifest", None, "d", 7, 19],
        [0, "along", None, "f", 9, 20, ["v3"], "child", "d"],
    ]
    insert = sa.text("INSERT INTO plans VALUES (:id, '', 1, 2, NULL, :document, NULL)")
    with connected(database_url) as connection, connection.begin():
        for id_, document in (("a", named), ("b", {"items": [], "chosen": chosen})):
            packed = zlib.compress(json.dumps(document).encode())
            connection.execute(insert, {"id": id_, "document": packed})
    open_database(database_url).close()

    def unpacked(query: str) -> list[object]:
        with connected(database_url) as connection:
            rows = connection.execute(sa.text(query)).scalars()
            return [json.loads(zlib.decompress(row)) for row in rows]

    assert unpacked("SELECT document FROM plans ORDER BY id") == [
        {"asked": {}, "item_count": 1500, "items": []},
        {"item_count": 3, "items": [], "chosen": []},
    ]
    first, second, of_filter = unpacked("SELECT document FROM plan_pages ORDER BY plan_id, number")
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert [*first, *second] == named["items"]
    assert len(first) == 1000
    assert of_filter == [
        [0, "manifest", "d", 7, 19, [], [["v1", 17]], "asked", None],
        [0, "along", "f", 9, 20, ["v3"], [], "child", "d"],
        [0, "tag", "e", 8, 0, [], [["v2", 18]], "untagged"],
    ]


@pytest.mark.postgresql
def test_several_processes_starting_at_once_make_the_tables_once(postgres_url: str) -> None:
    program = "import sys; from ullage.database.opening import open_database as o; o(sys.argv[1])"
    command = [sys.executable, "-c", program, postgres_url]
    started = [
        subprocess.Popen(command, env=command_environment(), stderr=subprocess.PIPE)
        for _ in range(os.cpu_count() or 2)
    ]
    for process in started:
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints.decode()
