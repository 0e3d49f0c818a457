"""PostgreSQL with many sessions: lost races are run again, waiting is bounded, faults are named."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from tests.database.test_transaction import insert, keys
from tests.support.actors import Actor, observing
from ullage.database import postgresql
from ullage.database.errors import (
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFull,
    DatabaseUnreachable,
    DatabaseUnusable,
)
from ullage.database.opening import open_database
from ullage.database.postgresql import MAX_ATTEMPTS, PostgresDatabase
from ullage.database.schema import space
from ullage.database.statements import Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import (
    Ask,
    Database,
    Question,
    Transaction,
    Work,
    database_time,
)

pytestmark = pytest.mark.postgresql


@contextmanager
def opened(url: str) -> Iterator[PostgresDatabase]:
    db = PostgresDatabase(sa.make_url(url))
    try:
        yield db
    finally:
        db.close()


class Raising:
    """Work that adds a row, and that the server then refuses with `state`, as often as told."""

    def __init__(self, state: str, times: int) -> None:
        self._state, self._times = state, times
        self.calls = 0
        self.told: list[str] = []

    def __call__(self, tx: Transaction) -> None:
        self.calls += 1
        tx.after_commit(lambda: self.told.append("committed"))
        tx.at_end(lambda: self.told.append("ended"))
        insert("a")(tx)
        if self.calls <= self._times:
            raising = (
                f"DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{self._state}'; END $$"
            )
            tx.execute_directly(sa.text(raising))


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ("40001", "serialization failure"),
        ("40P01", "deadlock"),
        ("23503", "foreign key: a row that this one needs was just removed"),
        ("23505", "unique key: the same row was just made"),
    ],
)
def test_a_lost_race_is_run_again(postgres_db: Database, state: str, what: str) -> None:
    """reliability.md F24."""
    work = Raising(state, times=2)
    postgres_db.write(work)
    assert work.calls == 3
    assert work.told == ["ended", "ended", "committed", "ended"]
    assert postgres_db.read(keys) == ["a"]


def test_who_loses_every_race_is_told_to_come_back(postgres_db: Database) -> None:
    work = Raising("40001", times=99)
    with pytest.raises(DatabaseBusy, match="refused"):
        postgres_db.write(work)
    assert work.calls == MAX_ATTEMPTS
    assert postgres_db.read(keys) == []


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("53100", DatabaseFull),  # disk_full
        ("53200", DatabaseFull),  # out_of_memory
        ("53300", DatabaseBusy),  # too_many_connections
        ("55P03", DatabaseBusy),  # lock_not_available
        ("57014", DatabaseBusy),  # query_canceled: the statement timeout
        ("57P01", DatabaseUnreachable),  # admin_shutdown
        ("57P03", DatabaseUnreachable),  # cannot_connect_now
        ("08006", DatabaseUnreachable),  # connection_failure
    ],
)
def test_the_server_s_troubles_are_told_in_our_words(
    postgres_db: Database, state: str, expected: type[Exception]
) -> None:
    work = Raising(state, times=1)
    with pytest.raises(expected) as caught:
        postgres_db.write(work)
    assert caught.type is expected
    assert work.calls == 1
    assert postgres_db.read(keys) == []


def test_our_own_mistakes_are_not_hidden(postgres_db: Database) -> None:
    with pytest.raises(sa.exc.ProgrammingError):
        postgres_db.write(lambda tx: tx.execute_directly(sa.text("SELECT nonsense")))


def test_a_deadlock_ends_with_both_done(postgres_db: Database, emptied_postgres_url: str) -> None:
    """Two transactions that want the same two rows in opposite orders, step by step."""
    postgres_db.write(insert("a"))
    postgres_db.write(insert("b"))

    def add_to(first: str, second: str, size: int) -> None:
        def work(tx: Transaction) -> None:
            for key in (first, second):
                row = space.tombstones.c.storage_key == key
                added = space.tombstones.c.size + size
                tx.execute_directly(space.tombstones.update().where(row).values(size=added))

        postgres_db.write(work)

    with observing(emptied_postgres_url) as observer:
        one = Actor(lambda: add_to("a", "b", 10), stop_at=1)
        assert one.wait_until_stopped()
        other = Actor(lambda: add_to("b", "a", 100))
        assert other.wait_until_blocked(observer)
        one.go_on()
        one.result()
        other.result()
    sizes = postgres_db.read(
        lambda tx: tx.execute_directly(sa.select(space.tombstones.c.size)).scalars().all()
    )
    assert list(sizes) == [111, 111]


def test_waiting_for_a_lock_is_bounded(
    emptied_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reliability.md F23, R26: then the client is told to come back, and nothing has happened."""
    monkeypatch.setattr(postgresql, "LOCK_TIMEOUT_MS", 100)
    with opened(emptied_postgres_url) as db, psycopg.connect(emptied_postgres_url) as other:
        db.write(insert("a"))
        other.execute("SELECT * FROM tombstones FOR UPDATE")
        with pytest.raises(DatabaseBusy, match="lock timeout"):
            db.write(lambda tx: tx.execute_directly(space.tombstones.delete()))
        other.rollback()
        assert db.read(keys) == ["a"]


def _terminate(url: str, backend: int) -> None:
    with psycopg.connect(url, autocommit=True) as administrator:
        administrator.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])


def _backend(tx: Transaction) -> int:
    return int(tx.execute_directly(sa.text("SELECT pg_backend_pid()")).scalar_one())


def test_a_lost_connection_is_replaced(emptied_postgres_url: str) -> None:
    """reliability.md F14, F25: whoever was on it is told to come back, the next one is served."""
    with opened(emptied_postgres_url) as db:
        _terminate(emptied_postgres_url, db.write(_backend))
        with pytest.raises(DatabaseBusy):
            db.write(insert("a"))
        db.write(insert("b"))
        assert db.read(keys) == ["b"]


_BUILT = Statement(sa.select(space.tombstones.c.storage_key))
_READS: dict[str, Work[object]] = {
    "built": lambda tx: tx.values(_BUILT),
    "by SQLAlchemy": lambda tx: tx.execute_directly(
        sa.select(space.tombstones.c.storage_key)
    ).all(),
}


@pytest.mark.parametrize("kind", _READS)
def test_connections_lost_together_are_all_replaced(emptied_postgres_url: str, kind: str) -> None:
    """reliability.md F14: the server restarts, and one is told, not one for each in the pool."""
    count = 4
    together = threading.Barrier(count)

    def backend(tx: Transaction) -> int:
        together.wait(30)
        return _backend(tx)

    with opened(emptied_postgres_url) as db:
        with ThreadPoolExecutor(count) as pool:
            asked = [pool.submit(db.write, backend) for _ in range(count)]
            backends = {each.result() for each in asked}
        assert len(backends) == count
        for each in backends:
            _terminate(emptied_postgres_url, each)
        with pytest.raises(DatabaseBusy):
            db.read(_READS[kind])
        for _ in range(count):
            assert db.read(_READS[kind]) == []


def test_a_connection_lost_in_the_middle_loses_the_whole_transaction(
    emptied_postgres_url: str,
) -> None:
    def work(tx: Transaction) -> None:
        insert("a")(tx)
        _terminate(emptied_postgres_url, _backend(tx))
        insert("b")(tx)

    with opened(emptied_postgres_url) as db:
        with pytest.raises(DatabaseBusy):
            db.write(work)
        assert db.read(keys) == []


def test_commits_wait_for_the_disk(postgres_db: Database) -> None:
    def ask(tx: Transaction) -> list[object]:
        settings = ("fsync", "synchronous_commit", "full_page_writes")
        return [tx.execute_directly(sa.text(f"SHOW {name}")).scalar() for name in settings]

    assert postgres_db.write(ask) == ["on", "on", "on"]


# A sum over whatever tags lead to, as the bill has it: without statistics, which a database that is
# new or nearly empty does not have, the server expects hundreds of thousands of rows.
_EXPECTED_TO_BE_LARGE = Statement.text(
    """
    EXPLAIN (ANALYZE) WITH RECURSIVE held(id) AS (
        SELECT manifest_id FROM tags
        UNION SELECT child_id FROM held CROSS JOIN manifest_children WHERE parent_id = held.id
    ) SELECT sum(length(raw)) FROM manifests CROSS JOIN held a CROSS JOIN held b
    """
)


@pytest.mark.parametrize("way", ["read", "snapshot", "write"])
def test_no_statement_waits_for_a_compiler(postgres_db: Database, way: str) -> None:
    """PostgreSQL compiled the bill of four images for 2 s, and then ran it in 0.03 s."""

    told = getattr(postgres_db, way)(lambda tx: tx.values(_EXPECTED_TO_BE_LARGE))
    assert not [line for line in told if "JIT" in line]


def test_all_processes_go_by_the_server_s_clock(postgres_db: Database) -> None:
    """Whatever time zone the server shows; in microseconds, as they are stored."""
    query = sa.text("SELECT CAST(extract(epoch FROM now()) * 1000000 AS bigint)")
    before = postgres_db.read(lambda tx: tx.execute_directly(query).scalar_one())
    told = to_micros(database_time(postgres_db))
    assert before <= told <= postgres_db.read(lambda tx: tx.execute_directly(query).scalar_one())


def test_postgresql_without_its_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and what to install; no password in it."""
    monkeypatch.delitem(sys.modules, "ullage.database.postgresql")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUnusable) as refused:
        open_database("postgresql://ada:secret@127.0.0.1/registry")
    message = str(refused.value)
    assert "ullage[postgres]" in message
    assert "secret" not in message
    assert "\n" not in message


BROKEN = """
    CREATE FUNCTION broken() RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'invalid page' USING ERRCODE = 'XX001'; END $$
"""


def test_damage_that_an_event_loop_s_connection_meets_is_told_as_damage(
    postgres_db: Database, emptied_postgres_url: str
) -> None:
    """As what any other reader meets, and the connection is used again."""
    connection = postgres_db.loop_connection()
    assert connection is not None

    def ask(sql: str) -> Question[int]:
        [row] = yield Ask(Statement.text(f"SELECT {sql}"), {})
        number: int = row[0]
        return number

    async def run() -> None:
        with pytest.raises(DatabaseDamaged, match="invalid page"):
            await connection.answer(lambda: ask("broken()"))
        assert await connection.answer(lambda: ask("3")) == 3

    with psycopg.connect(emptied_postgres_url, autocommit=True) as other:
        other.execute(BROKEN.encode())
        try:
            asyncio.run(run())
        finally:
            other.execute("DROP FUNCTION broken")
    assert postgres_db.damage is not None
    assert postgres_db.damage.startswith("invalid page")
