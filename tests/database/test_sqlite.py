"""SQLite as one process owns it: one writer, shared commits, a full disk, a failing one."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.database.test_transaction import Stumble, insert, keys
from tests.support.actors import wait_until
from tests.support.disks import small_disk
from tests.support.server import command_environment
from tests.support.statements import listened
from ullage.database.errors import (
    DatabaseBroken,
    DatabaseBusy,
    DatabaseFull,
    DatabaseInUse,
    DatabaseUnusable,
)
from ullage.database.schema import space
from ullage.database.sqlite import connection
from ullage.database.sqlite.database import SqliteDatabase
from ullage.database.transaction import Transaction, Work


@contextmanager
def opened(path: Path, *, ballast_bytes: int = 0) -> Iterator[SqliteDatabase]:
    db = SqliteDatabase(path, ballast_bytes=ballast_bytes)
    try:
        yield db
    finally:
        db.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ullage.db"


@pytest.fixture
def db(path: Path) -> Iterator[SqliteDatabase]:
    with opened(path) as db:
        yield db


# --- durability -----------------------------------------------------------------------------------


def test_commits_are_on_the_disk_when_they_are_acknowledged(db: SqliteDatabase) -> None:
    """reliability.md F7: with synchronous=NORMAL a power cut took back 30 of 30 commits."""

    def settings(tx: Transaction) -> tuple[object, ...]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return tuple(tx.execute_directly(sa.text(f"PRAGMA {name}")).scalar() for name in names)

    assert db.write(settings) == ("wal", 2, 1)


def test_readers_only_read(db: SqliteDatabase) -> None:
    """Two connections that write or checkpoint could corrupt the log (SQLite up to 3.51.2)."""
    assert db.read(lambda tx: tx.execute_directly(sa.text("PRAGMA query_only")).scalar()) == 1


def test_reading_does_not_wait_for_a_writer(db: SqliteDatabase) -> None:
    db.write(insert("a"))

    def write_and_look(tx: Transaction) -> list[str]:
        insert("b")(tx)
        with ThreadPoolExecutor(1) as other:
            return other.submit(db.read, keys).result(10)

    assert db.write(write_and_look) == ["a"]


def test_deleted_rows_give_their_pages_back_to_the_disk(db: SqliteDatabase, path: Path) -> None:
    def fill(tx: Transaction) -> None:
        for number in range(200):
            insert(f"{number:2000}")(tx)

    def pages(tx: Transaction) -> int:
        return int(tx.execute_directly(sa.text("PRAGMA page_count")).scalar_one())

    def free_pages(tx: Transaction) -> int:
        return int(tx.execute_directly(sa.text("PRAGMA freelist_count")).scalar_one())

    empty = db.read(pages)
    db.write(fill)
    full = db.read(pages)
    db.write(lambda tx: tx.execute_directly(space.tombstones.delete()))
    while db.read(free_pages):
        db.housekeep()
    assert full > empty + 50
    assert db.read(pages) <= empty + 5


# --- one owner ------------------------------------------------------------------------------------

_OPENS = "import sys; from ullage.database.opening import open_database as o; o(sys.argv[1])"


def _open_in_another_process(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _OPENS, f"sqlite:///{path}"],
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.thorough
def test_a_second_process_is_refused_and_told_who_owns_the_database(path: Path) -> None:
    """reliability.md F51: two registries on one database refuse, with what to do instead."""
    with opened(path):
        refused = _open_in_another_process(path)
        assert refused.returncode != 0
        message = refused.stderr.strip().splitlines()[-1]
        assert "DatabaseInUse" in message
        assert f"in use by process {os.getpid()}" in message
        assert "use PostgreSQL to run several" in message
    assert _open_in_another_process(path).returncode == 0


def test_the_owner_may_not_open_it_twice_either(db: SqliteDatabase, path: Path) -> None:
    with pytest.raises(DatabaseInUse):
        SqliteDatabase(path)
    assert db.read(keys) == []


def test_a_failed_start_lets_go_of_the_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be looked at " * 100)
    with pytest.raises(DatabaseUnusable):
        SqliteDatabase(path)
    path.unlink()
    with opened(path) as db:
        assert db.read(keys) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatabaseUnusable, match="choose another folder with --data"):
        SqliteDatabase(tmp_path / "file" / "ullage.db")


def test_closing_twice_is_closing_once(path: Path) -> None:
    """The number of the owner lock's descriptor may be somebody else's file by then."""
    db = SqliteDatabase(path)
    db.close()
    with path.with_name("another file").open("wb") as taken:
        db.close()
        taken.write(b"still open")
    SqliteDatabase(path).close()


def test_a_closed_database_takes_no_more_work(path: Path) -> None:
    with opened(path) as db:
        pass
    with pytest.raises(DatabaseBusy, match="closing"):
        db.write(insert("a"))


# --- group commit ---------------------------------------------------------------------------------


@pytest.fixture
def statements(db: SqliteDatabase) -> Iterator[list[str]]:
    """What is sent to SQLite."""
    with listened(db) as heard:
        yield heard


def together(db: SqliteDatabase, works: list[Work[Any]]) -> list[Future[Any]]:
    """Submit all works, in this order, while the writer is busy; so that they share a commit."""
    begun, go_on = threading.Event(), threading.Event()

    def keep_busy(_: Transaction) -> None:
        begun.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(len(works) + 1) as clients:
        busy = clients.submit(db.write, keep_busy)
        assert begun.wait(30)
        waiting = []
        queued = db._writer._queue.qsize
        for work in works:
            waiting.append(clients.submit(db.write, work))
            wait_until(lambda: queued() == len(waiting), "the work to be queued")
        go_on.set()
        busy.result(30)
    return waiting


def test_work_that_waits_shares_one_commit(db: SqliteDatabase, statements: list[str]) -> None:
    done = together(db, [insert(f"{number:02}") for number in range(20)])
    assert [future.result() for future in done] == [None] * 20
    assert db.read(keys) == [f"{number:02}" for number in range(20)]
    # One for whoever kept the writer busy, one for all the others.
    assert statements.count("COMMIT") == 2


def test_work_that_fails_undoes_only_itself(db: SqliteDatabase, statements: list[str]) -> None:
    def fails(tx: Transaction) -> None:
        insert("b")(tx)
        raise Stumble

    def violates(tx: Transaction) -> None:
        insert("d")(tx)
        insert("a")(tx)

    done = together(db, [insert("a"), fails, insert("c"), violates, insert("e")])
    failures = [type(future.exception()) for future in done]
    assert failures == [type(None), Stumble, type(None), sa.exc.IntegrityError, type(None)]
    assert db.read(keys) == ["a", "c", "e"]
    assert statements.count("COMMIT") == 2


class Telling:
    """Works that note what they are told, and how often each has run."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.runs: Counter[str] = Counter()

    def work(self, name: str, *, fails: bool = False) -> Work[None]:
        def act(tx: Transaction) -> None:
            self.runs[name] += 1
            tx.after_commit(lambda: self.told.append(f"{name} committed"))
            tx.at_end(lambda: self.told.append(f"{name} ended"))
            assert "committed" not in " ".join(self.told)
            insert(name)(tx)
            if fails:
                raise Stumble

        return act


def test_each_of_a_shared_commit_is_told_its_own_end(db: SqliteDatabase) -> None:
    telling = Telling()
    together(db, [telling.work(name) for name in "abc"])
    assert telling.told == [f"{name} {end}" for name in "abc" for end in ("committed", "ended")]


def test_whoever_fails_in_a_shared_commit_is_told_so_and_the_others_run_once_more(
    db: SqliteDatabase,
) -> None:
    """What they did before was rolled back together with it, of which they are told, too."""
    telling = Telling()
    together(db, [telling.work("a"), telling.work("b", fails=True), telling.work("c")])
    undone = ["a ended", "b ended"]
    # The one that fails is told before the next one runs.
    again = ["b ended", "a committed", "a ended", "c committed", "c ended"]
    assert telling.told == [*undone, *again]
    assert telling.runs == {"a": 2, "b": 2, "c": 1}
    assert db.read(keys) == ["a", "c"]


def test_a_savepoint_is_only_set_where_somebody_failed(
    db: SqliteDatabase, statements: list[str]
) -> None:
    telling, again = Telling(), Telling()
    together(db, [telling.work("a"), telling.work("b")])
    assert not any("SAVEPOINT" in statement for statement in statements)
    together(db, [again.work("c"), again.work("d", fails=True), again.work("e")])
    assert sum("SAVEPOINT" in statement for statement in statements) == 3
    assert db.read(keys) == ["a", "b", "c", "e"]


def _engine_failure(code: int) -> sa.exc.OperationalError:
    """What SQLAlchemy raises when SQLite reports `code`."""
    error = sqlite3.OperationalError(f"SQLite error {code}")
    error.sqlite_errorcode = code
    return sa.exc.OperationalError("a statement", {}, error)


class Faulty:
    """Work that adds a row, and that the engine fails under, as often as told."""

    def __init__(self, key: str, code: int, times: int) -> None:
        self._key, self._code, self._times = key, code, times
        self.calls = 0
        self.told: list[str] = []

    def __call__(self, tx: Transaction) -> None:
        self.calls += 1
        tx.after_commit(lambda: self.told.append("committed"))
        tx.at_end(lambda: self.told.append("ended"))
        insert(self._key)(tx)
        if self.calls <= self._times:
            raise _engine_failure(self._code)


def test_when_the_commit_fails_each_is_tried_alone(db: SqliteDatabase) -> None:
    """A disk that is full for one large piece of work need not be full for the others."""
    full = Faulty("b", sqlite3.SQLITE_FULL, times=9)
    done = together(db, [insert("a"), full, insert("c")])
    assert [type(future.exception()) for future in done] == [
        type(None),
        DatabaseFull,
        type(None),
    ]
    assert db.read(keys) == ["a", "c"]
    assert full.told == ["ended", "ended"]


def test_work_that_is_run_again_is_told_once_that_it_is_committed(db: SqliteDatabase) -> None:
    full = Faulty("b", sqlite3.SQLITE_FULL, times=1)
    db.write(full)
    assert full.told == ["ended", "committed", "ended"]
    assert db.read(keys) == ["b"]


def test_nothing_is_written_after_the_disk_failed(db: SqliteDatabase) -> None:
    """reliability.md F18: fsync is never retried; after EIO no more writing until a restart."""
    db.write(insert("a"))
    failing = Faulty("c", sqlite3.SQLITE_IOERR_FSYNC, times=1)
    done = together(db, [insert("b"), failing, insert("d")])
    assert [type(future.exception()) for future in done] == [DatabaseBroken] * 3
    assert failing.calls == 1
    with pytest.raises(DatabaseBroken):
        db.write(insert("e"))
    assert db.read(keys) == ["a"]


def test_a_failed_disk_is_forgotten_after_a_restart(path: Path) -> None:
    with opened(path) as db, pytest.raises(DatabaseBroken):
        db.write(Faulty("a", sqlite3.SQLITE_IOERR_WRITE, times=1))
    with opened(path) as db:
        db.write(insert("b"))
        assert db.read(keys) == ["b"]


def test_who_waits_for_a_foreign_lock_waits_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reliability.md F23: a bounded wait, however many wait with it."""
    monkeypatch.setattr(connection, "LOCK_TIMEOUT_MS", 200)
    with opened(path) as db, listened(db) as statements:
        foreign = sqlite3.connect(path, isolation_level=None)
        try:
            foreign.execute("BEGIN IMMEDIATE")
            with ThreadPoolExecutor(4) as clients:
                waiting = [clients.submit(db.write, insert(key)) for key in "abcd"]
            assert {type(future.exception()) for future in waiting} == {DatabaseBusy}
            assert statements.count("BEGIN IMMEDIATE") <= 2
            foreign.execute("ROLLBACK")
            db.write(insert("e"))
            assert db.read(keys) == ["e"]
        finally:
            foreign.close()


# --- a full disk ----------------------------------------------------------------------------------


BALLAST = 256 * 1024


def _delete_some(tx: Transaction) -> None:
    tx.execute_directly(space.tombstones.delete().where(space.tombstones.c.storage_key < "0005"))


def _fill_database(db: SqliteDatabase) -> int:
    """Write until there is no room left; returns how much was written."""
    written = 0
    while True:
        try:
            db.write(insert(f"{written:04}" + "x" * 2000))
        except DatabaseFull:
            return written
        written += 1


def test_on_a_full_disk_one_can_read_and_delete_but_not_add(tmp_path: Path) -> None:
    """reliability.md F16, deletion.md section 3: the ballast is given up for a deletion, once."""
    with (
        small_disk(tmp_path / "disk", "size=2m") as disk,
        opened(disk / "ullage.db", ballast_bytes=BALLAST) as db,
    ):
        ballast = disk / "ballast"
        assert ballast.stat().st_size == BALLAST
        written = _fill_database(db)
        assert len(db.read(keys)) == written > 10
        assert ballast.exists()
        db.write(_delete_some, freeing=True)
        assert not ballast.exists()
        assert len(db.read(keys)) == written - 5
        assert db.integrity_problems() == []


def test_a_full_disk_takes_work_again_when_somebody_makes_room(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "size=2m") as disk,
        opened(disk / "ullage.db", ballast_bytes=BALLAST) as db,
    ):
        (disk / "else").write_bytes(b"x" * 1024 * 1024)
        written = _fill_database(db)
        (disk / "else").unlink()
        db.write(insert("a"))
        assert len(db.read(keys)) == written + 1


def test_the_ballast_comes_back_when_there_is_room(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "size=2m") as disk,
        opened(disk / "ullage.db", ballast_bytes=BALLAST) as db,
    ):
        other = disk / "else"
        other.write_bytes(b"x" * (1024 * 1024))
        _fill_database(db)
        db.write(_delete_some, freeing=True)
        ballast = disk / "ballast"
        assert not ballast.exists()
        db.housekeep()
        assert not ballast.exists(), "there is no room for it yet"
        other.unlink()
        db.housekeep()
        assert ballast.stat().st_size == BALLAST


def _use_up_inodes(disk: Path) -> None:
    for number in range(20):
        try:
            (disk / str(number)).touch()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return
    pytest.fail("room for more names than the disk was made with")


def test_a_disk_without_inodes_is_a_full_disk(tmp_path: Path) -> None:
    """reliability.md F17: the database needs no new name to write or delete."""
    with (
        small_disk(tmp_path / "disk", "size=4m,nr_inodes=20") as disk,
        opened(disk / "ullage.db", ballast_bytes=BALLAST) as db,
    ):
        _use_up_inodes(disk)
        db.write(insert("a"))
        db.write(lambda tx: tx.execute_directly(space.tombstones.delete()), freeing=True)
        assert db.read(keys) == []
