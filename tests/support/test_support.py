"""The helpers keep their promises: a suite that stands on them proves nothing otherwise."""

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support import require
from tests.support.clock import NEW_YEAR, FakeClock
from tests.support.postgres import PostgresServer
from tests.support.server import UllageServer


def test_the_clock_stands_still_until_it_is_moved(clock: FakeClock) -> None:
    assert clock() == clock() == NEW_YEAR
    clock.advance(90)
    assert clock() - NEW_YEAR == timedelta(seconds=90)


def test_a_missing_program_skips_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ULLAGE_REQUIRE_CLIENTS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        require.require_command("no-such-program")


def test_a_missing_program_fails_where_clients_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ULLAGE_REQUIRE_CLIENTS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        require.require_command("no-such-program")


def test_the_server_counts_regular_files_only(tmp_path: Path) -> None:
    server = UllageServer(tmp_path / "data")
    assert server.disk_bytes() == 0
    for path, content in {"blobs/ab/cd/x": b"12345", "uploads/y": b"67", "ballast": b"8"}.items():
        (server.data / path).parent.mkdir(parents=True, exist_ok=True)
        (server.data / path).write_bytes(content)
    (server.data / "blobs/link").symlink_to(server.data / "ballast")
    assert server.disk_bytes() == 7


@pytest.mark.parametrize(
    "line", ['"GET /v2/ HTTP/1.1" 500 12', "Traceback (most recent call last):"]
)
def test_a_500_in_the_log_is_a_failure(tmp_path: Path, line: str) -> None:
    server = UllageServer(tmp_path / "data")
    server.log_path.write_text('"GET /v2/a/blobs/b HTTP/1.1" 200 500 0.1\n')
    server.assert_no_500()
    server.log_path.write_text(f"{server.log}{line}\n")
    with pytest.raises(AssertionError):
        server.assert_no_500()


@pytest.mark.postgresql
def test_each_database_is_empty_and_dropped_even_when_in_use(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.fresh_database() as url:
        connection = psycopg.connect(url)
        connection.execute("CREATE TABLE left_behind (id int)")
        connection.commit()
        with postgres_server.fresh_database() as other, psycopg.connect(other) as second:
            tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
            assert second.execute(tables).fetchone() == (0,)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.mark.postgresql
def test_postgresql_is_durable_and_sorts_unlike_bytes(postgres_url: str) -> None:
    """Names must sort by their bytes ("B" < "a") because we say so, not because the server does."""
    with psycopg.connect(postgres_url) as connection:

        def ask(query: str) -> object:
            return connection.execute(query).fetchone()

        assert ask("SHOW fsync") == ask("SHOW full_page_writes") == ("on",)
        assert ask("SHOW server_encoding") == ("UTF8",)
        assert ask("SELECT 'B' < 'a' COLLATE \"C\"") == (True,)
        assert ask("SELECT 'B' < 'a'") == (False,)
