"""New databases and migrated ones have exactly the tables of the schema, on both engines."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.support.server import command_environment
from ullage.database import migrations
from ullage.database.migrations.upgrade import NEWEST, upgrade
from ullage.database.opening import open_database
from ullage.database.schema import base, content


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
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


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
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [NEWEST]


@pytest.mark.parametrize("new", [True, False])
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
        assert set(connection.execute(sa.text(query)).scalars()) == {"leases", "lease_memory"}


def test_opening_again_changes_nothing(new_url: str) -> None:
    with connected(new_url) as connection:
        before = _definitions(connection)
    open_database(new_url).close()
    with connected(new_url) as connection:
        assert _definitions(connection) == before


# Dies before the CREATE statement number `sys.argv[2]`, as at a power cut.
_DIES_MIGRATING = """
import os, signal, sys
import sqlalchemy as sa
from ullage.database.opening import open_database

left = int(sys.argv[2])

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def die(connection, cursor, statement, *_):
    global left
    left -= "CREATE " in statement
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

open_database(sys.argv[1])
"""


@pytest.mark.parametrize("revision", [None, "0001"])
@pytest.mark.parametrize("statement", [2, 9])
def test_a_kill_while_tables_are_made_or_migrated_leaves_nothing_or_everything(
    database_url: str, revision: str | None, statement: int
) -> None:
    """reliability.md F6: never half a schema."""
    if revision is not None:
        _at_revision(database_url, revision)
    done = subprocess.run(
        [sys.executable, "-c", _DIES_MIGRATING, database_url, str(statement)],
        env=command_environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()
    db = open_database(database_url)
    try:
        assert db.integrity_problems() == []
    finally:
        db.close()
    with connected(database_url) as connection:
        assert compare_metadata(MigrationContext.configure(connection), base.metadata) == []


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


_CONFIG = "application/vnd.oci.image.config.v1+json"
_OCI = "application/vnd.oci.image.manifest.v1+json"


def _image(config: bytes, layers: list[int]) -> bytes:
    digest = "sha256:" + "0123456789abcdef" * 4
    digests = [digest[:-2] + f"{n:02}" for n in range(len(layers) + 1)]
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _OCI,
            "config": {"mediaType": _CONFIG, "digest": digests[-1], "size": len(config)},
            "layers": [
                {"mediaType": "application/x", "digest": digest, "size": size}
                for digest, size in zip(digests, layers, strict=False)
            ],
        }
    ).encode()


# At revision 0002: repositories, manifests and tags with the times 5 to 40.
_MANIFESTS = "INSERT INTO manifests (id, repository_id, digest, media_type, size, pushed_at, raw) "
_TAGS = "INSERT INTO tags (repository_id, name, manifest_id, created_at, updated_at) "
_BEFORE = (
    "INSERT INTO repositories (id, name, created_at) VALUES (1, 'app', 10), (2, 'empty', 11)",
    _MANIFESTS + "VALUES (1, 1, 'd1', :type, 9, 20, :raw), (2, 1, 'd2', :type, 9, 30, :raw)",
    _MANIFESTS + "VALUES (3, 1, 'd3', :type, 9, 5, :no)",
    _TAGS + "VALUES (1, 'v1', 1, 20, 40), (1, 'v2', 1, 20, 25)",
)


def test_attributes_come_to_what_was_there_before(database_url: str) -> None:
    """Nothing is locked or hidden, times of update and sizes are what they would be."""
    _at_revision(database_url, "0002")
    image = _image(b"{}", [100, 20])
    with connected(database_url) as connection, connection.begin():
        for statement in _BEFORE:
            connection.execute(sa.text(statement), {"type": _OCI, "raw": image, "no": b"manifest"})
    open_database(database_url).close()
    with connected(database_url) as connection:
        manifests = connection.execute(
            sa.text(
                "SELECT id, updated_at, image_size, config_media_type, architecture,"
                " delete_enabled, write_enabled, read_enabled, list_enabled FROM manifests"
                " ORDER BY id"
            )
        ).all()
        repositories = connection.execute(
            sa.text("SELECT name, updated_at, list_enabled FROM repositories ORDER BY id")
        ).all()
        hidden = connection.execute(
            sa.select(content.tags.c.name).where(~content.tags.c.list_enabled)
        ).all()
    on = (True, True, True, True)
    assert [tuple(row) for row in manifests] == [
        (1, 40, 122, _CONFIG, None, *on),
        (2, 30, 122, _CONFIG, None, *on),
        (3, 5, 0, None, None, *on),
    ]
    assert [tuple(row) for row in repositories] == [("app", 40, True), ("empty", 11, True)]
    assert hidden == []
