"""Statements that are built once (`ullage.database.statements`), on both engines."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam

import ullage.database
from tests.support.statements import listened
from ullage.database.dialects import sql_dialect_of
from ullage.database.errors import DatabaseBroken, DatabaseBusy
from ullage.database.opening import open_database
from ullage.database.schema import content, space
from ullage.database.statements import Statement, among
from ullage.database.transaction import Database, Transaction

_tombstones = space.tombstones

INSERT = Statement.insert(_tombstones, ("storage_key", "digest", "size", "due_at"))
INSERT_ONCE = Statement.insert(
    _tombstones,
    ("storage_key", "digest", "size", "due_at"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["storage_key"]),
)
ALL = Statement(
    sa.select(_tombstones.c.storage_key, _tombstones.c.digest, _tombstones.c.size).order_by(
        _tombstones.c.storage_key
    )
)
BY_KEYS = Statement(
    sa.select(_tombstones.c.storage_key)
    .where(among(_tombstones.c.storage_key, "keys"))
    .order_by(_tombstones.c.storage_key)
)
BY_SIZES = Statement(
    sa.select(_tombstones.c.size)
    .where(among(_tombstones.c.size, "sizes"))
    .order_by(_tombstones.c.size)
)
GROW = Statement(
    _tombstones.update()
    .where(among(_tombstones.c.storage_key, "keys"))
    .values(size=_tombstones.c.size + bindparam("by"), attempts=_tombstones.c.attempts + 1)
)
DELETE = Statement(_tombstones.delete().where(among(_tombstones.c.storage_key, "keys")))


def tombstone(key: str, size: int = 1, digest: str | None = None) -> dict[str, Any]:
    return {"storage_key": key, "digest": digest, "size": size, "due_at": 0}


def fill(db: Database, count: int) -> list[str]:
    keys = [f"{number:05}" for number in range(count)]
    rows = [tombstone(key, number) for number, key in enumerate(keys)]
    db.write(lambda tx: tx.many(INSERT, rows))
    return keys


def stored(db: Database) -> list[tuple[Any, ...]]:
    return db.read(lambda tx: tx.rows(ALL))


# --- parameters and answers -----------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0, 1, 10_000])
def test_a_list_may_have_any_length(db: Database, wanted: int) -> None:
    """One parameter, where a list of parameters ends at 32,766 and is another text each time."""
    keys = fill(db, 10_000)
    asked: Collection[str] = {*keys[:wanted], "absent", 'quo"te', "é\u2028"}
    assert db.read(lambda tx: tx.values(BY_KEYS, keys=asked)) == keys[:wanted]
    assert db.read(lambda tx: tx.values(BY_SIZES, sizes=range(wanted))) == [*range(wanted)]
    assert db.write(lambda tx: tx.change(GROW, keys=keys[:wanted], by=5)) == wanted
    assert db.write(lambda tx: tx.change(DELETE, keys=keys[:wanted])) == wanted
    assert len(stored(db)) == 10_000 - wanted


def test_among_nothing_is_nothing(db: Database) -> None:
    fill(db, 3)
    assert db.read(lambda tx: tx.rows(BY_KEYS, keys=[])) == []
    assert db.read(lambda tx: tx.row(BY_KEYS, keys=())) is None
    assert db.read(lambda tx: tx.value(BY_KEYS, keys=set())) is None


def test_null_goes_in_and_comes_out(db: Database) -> None:
    db.write(lambda tx: tx.change(INSERT, **tombstone("a")))
    db.write(lambda tx: tx.change(INSERT, **tombstone("b", 2, "sha256:0")))
    assert stored(db) == [("a", None, 1), ("b", "sha256:0", 2)]
    assert {type(row) for row in stored(db)} == {tuple}


def test_a_conflict_that_is_left_alone_changes_nothing(db: Database) -> None:
    changes = [db.write(lambda tx: tx.change(INSERT_ONCE, **tombstone("a"))) for _ in range(2)]
    assert changes == [1, 0]


def test_returning_gives_the_id(db: Database) -> None:
    insert = Statement.insert(
        content.repositories,
        ("name", "created_at"),
        lambda insert: insert.returning(content.repositories.c.id),
    )
    ids = db.write(lambda tx: [tx.value(insert, name=name, created_at=0) for name in "ab"])
    find = Statement(sa.select(content.repositories.c.id).order_by(content.repositories.c.name))
    assert db.read(lambda tx: tx.values(find)) == ids


def test_many_of_none_is_nothing(db: Database) -> None:
    db.write(lambda tx: tx.many(INSERT, []))
    assert stored(db) == []


def test_a_statement_is_built_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(db, 1)
    stored(db)
    monkeypatch.setattr(Statement, "_build", None)
    assert len(stored(db)) == 1


def test_what_was_asked_holds_nothing_open(sqlite_db: Database) -> None:
    """A cursor that is not at its end would keep its view, and the log from being reset."""
    fill(sqlite_db, 100)

    def look_and_write(tx: Transaction) -> list[Any]:
        tx.row(ALL)
        sqlite_db.write(lambda tx: tx.change(DELETE, keys=["00000"]))
        return tx.rows(ALL)

    assert len(sqlite_db.read(look_and_write)) == 99


# --- errors ---------------------------------------------------------------------------------------


def _violation(db: Database, act: Callable[[Transaction], object]) -> sa.exc.IntegrityError:
    """What the database says to work that breaks a rule of its own."""
    with pytest.raises((sa.exc.IntegrityError, DatabaseBusy)) as caught:
        db.write(act)
    # PostgreSQL tries it again in vain: somebody might have put right what is wrong.
    error = caught.value.__cause__ if db.dialect == "postgresql" else caught.value
    assert isinstance(error, sa.exc.IntegrityError)
    return error


def test_a_violation_is_sqlalchemys_error(db: Database) -> None:
    """Whichever way a statement goes, its failure is one kind of error, with the driver's in it."""
    absent = Statement.insert(content.repo_blobs, ("repository_id", "digest", "linked_at"))
    row = {"repository_id": 1, "digest": "sha256:0", "linked_at": 0}
    failing = (
        lambda tx: tx.change(absent, **row),
        lambda tx: tx.rows(absent, **row),
        lambda tx: tx.many(absent, [row]),
    )
    for act in failing:
        assert _violation(db, act).orig is not None


def test_a_parameter_that_was_forgotten_is_an_error(db: Database) -> None:
    with pytest.raises((sa.exc.StatementError, KeyError)):
        db.write(lambda tx: tx.change(INSERT, storage_key="a"))
    assert stored(db) == []


def test_a_failure_in_a_savepoint_takes_back_all_of_it(db: Database) -> None:
    def violate(tx: Transaction) -> None:
        tx.change(INSERT, **tombstone("b"))
        tx.many(INSERT, [tombstone("c"), tombstone("a")])

    db.write(lambda tx: tx.change(INSERT, **tombstone("a")))
    _violation(db, violate)
    assert [key for key, _, _ in stored(db)] == ["a"]


def test_a_reader_cannot_write(sqlite_db: Database) -> None:
    with pytest.raises(DatabaseBroken, match="readonly"):
        sqlite_db.read(lambda tx: tx.change(INSERT, **tombstone("a")))


# --- plans ----------------------------------------------------------------------------------------


def statements() -> Iterator[tuple[str, Statement]]:
    """Every statement the registry has, by module and name."""
    for module in pkgutil.walk_packages(ullage.database.__path__, "ullage."):
        if ".migrations" in module.name:
            continue
        found = vars(importlib.import_module(module.name))
        for name, value in found.items():
            for number, statement in enumerate(_inside(value)):
                yield f"{module.name.removeprefix('ullage.')}.{name}[{number}]", statement


def _inside(value: object) -> Iterator[Statement]:
    if isinstance(value, Statement):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _inside(each)
    elif isinstance(value, dict):
        yield from _inside([*value.values()])


STATEMENTS = dict(statements())
# What is read whole, and why that is no harm.
SCANS = {
    "counters._TOTALS[0]": "a row for each total, on PostgreSQL sixteen",
    "leases.sql._COMPLETE_FROM[0]": "one row",
    "uploads._COUNT[0]": "open uploads, of which there are at most Limits.max_uploads",
    "uploads._COUNT_FOR[0]": "the same",
}
# SQLite has no such function.
POSTGRESQL_ONLY = {"audit._IN_ORDER[0]", "leases.sql._SHARE_BLOB[0]"}


class _Anything(dict[str, Any]):
    """NULL for every parameter."""

    def __missing__(self, name: str) -> None:
        return None


@pytest.fixture(scope="module")
def plain_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    db = open_database(f"sqlite:///{tmp_path_factory.mktemp('plans') / 'ullage.db'}")
    yield db
    db.close()


def scans(db: Database, statement: Statement) -> list[str]:
    """The steps of SQLite's plan that read a whole table or index."""
    sql = statement.built(sql_dialect_of("sqlite")).sql

    def explain(tx: Transaction) -> list[Any]:
        driver: Any = tx._connection.connection.dbapi_connection
        return list(driver.execute(f"EXPLAIN QUERY PLAN {sql}", _Anything()))

    steps = [str(row[3]) for row in db.read(explain)]
    return [step for step in steps if step.startswith("SCAN") and "json_each" not in step]


def test_all_statements_are_looked_at() -> None:
    assert len(STATEMENTS) > 80
    for name in (
        "content.manifests._BY_TAG[0]",
        "reclaim.deadlines._FIRST_DUE[1]",
        "attributes._LOCKS[2]",
    ):
        assert name in STATEMENTS


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - POSTGRESQL_ONLY))
def test_no_statement_reads_a_whole_table(plain_sqlite: Database, name: str) -> None:
    """No statement on a hot path scans; what may is listed with its reason."""
    found = scans(plain_sqlite, STATEMENTS[name])
    assert bool(found) == (name in SCANS), found


def test_a_planted_scan_is_found(plain_sqlite: Database) -> None:
    by_size = Statement(sa.select(_tombstones).where(_tombstones.c.size == bindparam("size")))
    assert scans(plain_sqlite, by_size)
    by_either = Statement(
        _tombstones.delete().where(
            sa.or_(among(_tombstones.c.storage_key, "keys"), among(_tombstones.c.size, "sizes"))
        )
    )
    assert scans(plain_sqlite, by_either)


def test_listening_hears_statements(db: Database) -> None:
    """What tests count is what the engine is sent."""
    with listened(db) as heard:
        fill(db, 1)
        stored(db)
    assert sum("INSERT INTO tombstones" in text for text in heard) == 1
    assert sum("FROM tombstones" in text for text in heard) == 1
