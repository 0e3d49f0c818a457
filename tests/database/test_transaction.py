"""Transactions, as both engines keep them (`ullage.database.transaction.Database`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from ullage.database.errors import DatabaseUnusable, Stopped
from ullage.database.opening import open_database
from ullage.database.schema import space
from ullage.database.statements import Statement
from ullage.database.transaction import Database, Transaction, chunks

# For far longer than anything waits.
ENDLESS = Statement.text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000)"
    " SELECT count(*) FROM n"
)


class Stumble(Exception):
    """What a piece of work raises in these tests."""


def insert(key: str) -> Callable[[Transaction], None]:
    """Work that adds a row."""

    def work(tx: Transaction) -> None:
        tx.execute_directly(space.tombstones.insert().values(storage_key=key, size=1, due_at=0))

    return work


def keys(tx: Transaction) -> list[str]:
    """Work that says which rows there are."""
    query = sa.select(space.tombstones.c.storage_key).order_by(space.tombstones.c.storage_key)
    return list(tx.execute_directly(query).scalars())


def test_what_was_written_can_be_read(db: Database) -> None:
    db.write(insert("a"))
    assert db.read(keys) == db.snapshot(keys) == db.write(keys) == ["a"]


def test_work_that_raises_leaves_nothing_behind(db: Database) -> None:
    def work(tx: Transaction) -> None:
        insert("a")(tx)
        raise Stumble

    with pytest.raises(Stumble):
        db.write(work)
    assert db.read(keys) == []
    db.write(insert("b"))
    assert db.read(keys) == ["b"]


def test_a_read_sees_what_was_committed_before_each_statement(db: Database) -> None:
    def look(tx: Transaction) -> tuple[list[str], list[str]]:
        before = keys(tx)
        db.write(insert("a"))
        return before, keys(tx)

    assert db.read(look) == ([], ["a"])


def test_a_snapshot_sees_one_moment(db: Database) -> None:
    def look(tx: Transaction) -> tuple[list[str], list[str]]:
        before = keys(tx)
        db.write(insert("a"))
        return before, keys(tx)

    assert db.snapshot(look) == ([], [])
    assert db.snapshot(keys) == ["a"]


def test_a_snapshot_that_raises_ends_like_any_other(db: Database) -> None:
    def work(tx: Transaction) -> None:
        keys(tx)
        raise Stumble

    with pytest.raises(Stumble):
        db.snapshot(work)
    db.write(insert("a"))
    assert db.snapshot(keys) == ["a"]


def test_a_long_snapshot_ends_when_it_is_told_to(db: Database) -> None:
    """In the middle of a statement; what comes after it on the same connection runs to its end."""
    began = time.monotonic()
    with pytest.raises(Stopped):
        db.snapshot(lambda tx: tx.rows(ENDLESS), stopped=lambda: time.monotonic() - began > 0.3)
    assert time.monotonic() - began < 5
    db.write(insert("a"))
    assert db.snapshot(keys, stopped=lambda: False) == ["a"]
    assert db.snapshot(keys) == ["a"]


def test_callbacks_come_after_the_commit(db: Database) -> None:
    """A redeemed promise is taken back when the manifest is safe, not before."""
    seen: list[tuple[str, list[str]]] = []

    def work(tx: Transaction) -> None:
        tx.at_end(lambda: seen.append(("at end", db.read(keys))))
        tx.after_commit(lambda: seen.append(("after commit", db.read(keys))))
        insert("a")(tx)
        assert seen == []

    db.write(work)
    assert seen == [("after commit", ["a"]), ("at end", ["a"])]


def test_of_work_that_raises_only_the_end_is_told(db: Database) -> None:
    seen: list[str] = []

    def work(tx: Transaction) -> None:
        tx.at_end(lambda: seen.append("at end"))
        tx.after_commit(lambda: seen.append("after commit"))
        raise Stumble

    with pytest.raises(Stumble):
        db.write(work)
    assert seen == ["at end"]


def test_a_sound_database_has_no_integrity_problems(db: Database) -> None:
    db.write(insert("a"))
    assert db.integrity_problems() == []


def test_housekeeping_changes_no_facts(db: Database) -> None:
    db.write(insert("a"))
    db.housekeep()
    assert db.read(keys) == ["a"]


@pytest.mark.parametrize(
    "url",
    ["", "ullage.db", "sqlite://", "mysql://user:geheim@host/name", "no url"],
)
def test_an_unusable_url_says_what_was_expected(url: str) -> None:
    with pytest.raises(
        DatabaseUnusable, match="expected sqlite:///path or postgresql://"
    ) as caught:
        open_database(url)
    assert "geheim" not in str(caught.value)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseUnusable, match=r"127\.0\.0\.1") as caught:
        open_database("postgresql://user:geheim@127.0.0.1:1/name")
    assert "geheim" not in str(caught.value)


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "ullage.db"
    path.write_bytes(b"not a database, but long enough to be looked at " * 100)
    with pytest.raises(DatabaseUnusable, match="is no SQLite database"):
        open_database(f"sqlite:///{path}")


def test_chunks_cut_without_losing_anything() -> None:
    assert list(chunks([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(chunks([], 2)) == []
