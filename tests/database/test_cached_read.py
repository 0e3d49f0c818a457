"""What was read since the last commit need not be read again; nothing older is said."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.database.test_transaction import Stumble, insert, keys
from ullage.database.sqlite import database
from ullage.database.sqlite.database import SqliteDatabase
from ullage.database.transaction import Database, Transaction


class Asked:
    """Work that reads the keys and counts how often it is run."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, tx: Transaction) -> tuple[str, ...]:
        self.times += 1
        return tuple(keys(tx))


def cached_read(db: Database, work: Any, key: str = "keys", size: int = 0) -> Any:
    return db.cached_read(key, work, lambda _: size)


def test_whoever_was_told_of_a_commit_reads_it(db: Database) -> None:
    """On both engines, and from any thread."""
    with ThreadPoolExecutor(1) as other:
        for number in range(5):
            key = f"{number:032}"
            db.write(insert(key))
            assert key in cached_read(db, keys)
            assert key in other.submit(cached_read, db, keys).result()


def test_between_two_commits_it_is_read_once(sqlite_db: SqliteDatabase) -> None:
    asked = Asked()
    sqlite_db.write(insert("a" * 32))
    assert [cached_read(sqlite_db, asked) for _ in range(3)] == [("a" * 32,)] * 3
    assert asked.times == 1
    sqlite_db.write(insert("b" * 32))
    assert cached_read(sqlite_db, asked) == ("a" * 32, "b" * 32)


def test_what_a_commit_tells_of_itself_comes_after_what_it_changed(
    sqlite_db: SqliteDatabase,
) -> None:
    """Leases count on it: who is told by `after_commit` or `at_end` must not read what was."""
    cached_read(sqlite_db, keys)
    seen: list[Any] = []

    def work(tx: Transaction) -> None:
        insert("a" * 32)(tx)
        tx.after_commit(lambda: seen.append(cached_read(sqlite_db, keys)))
        tx.at_end(lambda: seen.append(cached_read(sqlite_db, keys)))

    sqlite_db.write(work)
    assert [list(each) for each in seen] == [["a" * 32]] * 2


def test_what_is_rolled_back_was_never_there(sqlite_db: SqliteDatabase) -> None:
    def stumble(tx: Transaction) -> None:
        insert("a" * 32)(tx)
        raise Stumble

    with pytest.raises(Stumble):
        sqlite_db.write(stumble)
    assert not cached_read(sqlite_db, keys)
    sqlite_db.write(insert("b" * 32))
    assert list(cached_read(sqlite_db, keys)) == ["b" * 32]


@pytest.mark.thorough
def test_readers_beside_a_writer_never_see_less_than_was_acknowledged(
    sqlite_db: SqliteDatabase,
) -> None:
    acknowledged: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            told = len(acknowledged)
            assert len(cached_read(sqlite_db, keys)) >= told

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        try:
            for number in range(200):
                key = f"{number:032}"
                sqlite_db.write(insert(key))
                acknowledged.append(key)
        finally:
            over.set()
        for each in reading:
            each.result()


def test_answers_never_go_back_in_time(sqlite_db: SqliteDatabase) -> None:
    """What one read shows, no later one of the same client misses, whatever each is about.

    A commit can be seen before the thread that makes it has said so.
    """
    over = threading.Event()

    def read() -> None:
        seen, number = 0, 0
        while not over.is_set():
            number += 1
            # What has to be read, and what somebody has read before.
            for about in (f"{threading.get_ident()} {number}", "the same"):
                found = len(cached_read(sqlite_db, keys, about))
                assert found >= seen
                seen = found

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        try:
            for number in range(40):
                sqlite_db.write(insert(f"{number:032}"))
        finally:
            over.set()
        for each in reading:
            each.result()


def test_no_more_is_remembered_than_there_is_room_for(
    sqlite_db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MAX_RECALLED_BYTES", 3 * database.RECALLED_BYTES)
    sqlite_db.write(insert("a" * 32))
    large, small = Asked(), Asked()
    for _ in range(2):
        cached_read(sqlite_db, large, "large", 4 * database.RECALLED_BYTES)
        cached_read(sqlite_db, small, "small")
    assert (large.times, small.times) == (2, 1)
