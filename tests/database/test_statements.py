"""Statements that are built once (`ullage.database.statements`), on both engines."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam

import ullage
from tests.support.statements import listened
from tests.test_architecture import speaks_sql
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
    for module in pkgutil.walk_packages(ullage.__path__, "ullage."):
        if not speaks_sql(module.name) or ".migrations" in module.name:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            yield from _inside(f"{module.name.removeprefix('ullage.')}.{name}", value)


def _inside(name: str, value: object) -> Iterator[tuple[str, Statement]]:
    if isinstance(value, Statement):
        yield name, value
    elif isinstance(value, tuple | list):
        fields = getattr(value, "_fields", None)
        for number, each in enumerate(value):
            part = f".{fields[number]}" if fields else f"[{number}]"
            yield from _inside(f"{name}{part}", each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _inside(f"{name}[{key}]", each)


STATEMENTS = dict(statements())
# What is read whole, and why that is no harm.
_FEW = "accounts are few, and administrators ask"
_ONE_ROW = "one row"
_FIRST_PAGE = "a check reads all there is, page by page in the order of the table"
_COUNTED = "a check counts all there is"
_CLOCK = "the clock was set: everything moves along"
_TOTAL = "the bill of the whole registry, which says so"
_UPLOADS = "open uploads, of which there are at most Limits.max_uploads"
_DEPLOYED = "as many as clusters run, and fewer than what is in the repository that they keep"
_FOUND = "not a table, but what the statement itself has found"
_JOBS = "jobs, of which there are a few, and those of the last days"
_PROCESSES = "a row for each server process, and for those that died lately"
_BACKUPS = "backups that run: few"
SCANS = {
    "accounts.queries._USERS": _FEW,
    "accounts.queries._TOKENS": _FEW,
    "accounts.queries._SCOPE_MAPS": _FEW,
    "accounts.queries._USING_SCOPE_MAP[0]": _FEW,
    "accounts.queries._USING_SCOPE_MAP[1]": _FEW,
    "accounts.queries._KEYS": "keys that sign or still verify",
    "accounts.queries._SIGNING_KEYS": "keys that sign or still verify",
    "accounts.queries._RETIRE_KEYS": "the same",
    "accounts.queries._DELETE_SCOPE_MAP": "accounts that have it, for the foreign key",
    "check.queries.adoption._DISOWN": "a row for each time that a database took over a store",
    "check.queries.images._WITH_BLOB[0]": _FOUND,
    "check.queries.images._WITH_BLOB[1]": _FOUND,
    "check.queries.images._WITH_MANIFEST[0]": _FOUND,
    "check.queries.images._WITH_MANIFEST[1]": _FOUND,
    "check.queries.manifest_rows._LENGTHS.first": _FIRST_PAGE,
    "check.queries.other_rows._BROKEN_LINKS.first": _FIRST_PAGE,
    "check.queries.other_rows._FORGOTTEN_LINKS.first": _FIRST_PAGE,
    "check.queries.other_rows._OVERDUE_REVIEWS.first": _FIRST_PAGE,
    "check.queries.other_rows._OWNERLESS_REFERENCES.first": _FIRST_PAGE,
    "check.queries.other_rows._OWNERLESS_CHILDREN.first": _FIRST_PAGE,
    "check.queries.other_rows._JOBLESS_ITEMS.first": _FIRST_PAGE,
    "check.queries.other_rows._ODD_KEPT.first": _FIRST_PAGE,
    "check.queries.other_rows._EMPTY_OPERATIONS.first": _FIRST_PAGE,
    "check.queries.other_rows._OVERDUE_OPERATIONS.first": _FIRST_PAGE,
    "check.queries.rows._TAGS.first": _FIRST_PAGE,
    "check.queries.rows._BLOBS.first": _FIRST_PAGE,
    "check.queries.rows._UPLOADS.first": _FIRST_PAGE,
    "check.queries.rows._TOMBSTONES.first": _FIRST_PAGE,
    "check.queries.repairs._IS_NEEDED": "a repair of a blob without a link: no index leads on",
    "check.queries.totals._BLOBS": _COUNTED,
    "check.queries.totals._MANIFESTS": _COUNTED,
    "check.queries.totals._TOMBSTONES": _COUNTED,
    "check.queries.totals._LINKS": _COUNTED,
    "cleanup.queries.jobs._NEWEST": _JOBS,
    "cleanup.queries.jobs._RELEASE_MINE": _JOBS,
    "cleanup.queries.jobs._RELEASE_ALL": _JOBS,
    "deletion.queries.operations.records._SHIFT": _CLOCK,
    "registry.leases.memory._SAVED": "a start reads what the last clean stop saved",
    "registry.leases.memory._COMPLETE_FROM": _ONE_ROW,
    "registry.leases.memory._ANY_REPOSITORY": "its first row",
    "registry.leases.sql._ANY_REPOSITORY": "its first row",
    "registry.leases.sql._COMPLETE_FROM": _ONE_ROW,
    "registry.queries.counters._TOTALS": "a row for each total, on PostgreSQL sixteen",
    "registry.queries.identity._ALL": "a row for each time that a database took over a store",
    "registry.queries.identity._COUNT": "the same",
    "registry.queries.identity._SESSIONS[0]": "a start, of a few thousand keys at most",
    "registry.queries.identity._SESSIONS[1]": _UPLOADS,
    "registry.queries.processes._SILENT": _PROCESSES,
    "registry.queries.processes._FORGET": _PROCESSES,
    "registry.queries.listings._CONTENT": _FOUND,
    "registry.queries.deployments._ANY": "its first row",
    "registry.queries.deployments._NAMED": _DEPLOYED,
    "registry.queries.deployments._COUNTS": _DEPLOYED,
    "registry.queries.deployments._SOURCES": "sources are clusters, of which there are few",
    "registry.queries.pulls._COUNT_HISTORY": "the worker, once a day, of at most MAX_HISTORY",
    "backup.queries.moment._VERSION": _ONE_ROW,
    "backup.queries.settle._BURIED_BYTES": "once in a restore",
    "registry.queries.reclaim.backup_leases._ANY": _BACKUPS,
    "registry.queries.reclaim.backup_leases._FORGET": _BACKUPS,
    "registry.queries.reclaim.backup_leases._SHIFT": _CLOCK,
    "registry.queries.reclaim.deadlines._SHIFT_REVIEWS": _CLOCK,
    "registry.queries.reclaim.deadlines._SHIFT_TOMBSTONES": _CLOCK,
    "registry.queries.reclaim.signed_reads._ANY_REPOSITORY": "its first row",
    "registry.queries.reclaim.signed_reads._SHIFT": _CLOCK,
    "registry.queries.reclaim.signed_reads._TO_DO": _ONE_ROW,
    "registry.queries.reclaim.tombstones._ANY_DUE": _BACKUPS,
    "registry.queries.reclaim.tombstones._CLAIMABLE": _BACKUPS,
    "registry.queries.reclaim.tombstones._RELEASE_ALL": "a start of the only process",
    "registry.queries.references.blobs._COUNT_SOME": _FOUND,
    "deletion.queries.losses._LOSING_ALL_KNOWN": _FOUND,
    "deletion.queries.losses._LOSING_SOME_DOUBTED": _FOUND,
    "registry.queries.reserved_keys._ALL": "keys of sessions without bytes: a few thousand at most",
    "registry.queries.reserved_keys._LEFT": "keys of processes: 256 for each at most",
    "registry.queries.uploads._OPEN": _UPLOADS,
    "registry.queries.uploads._ALL_OF": _UPLOADS,
    "registry.queries.uploads._COUNT_BY_ACCOUNT": _UPLOADS,
    "registry.queries.uploads._FIND_EMPTY": _UPLOADS,
    "registry.queries.uploads._FIND_IDLEST": _UPLOADS,
    "registry.queries.uploads._COUNT": _UPLOADS,
    "registry.queries.uploads._COUNT_FOR": _UPLOADS,
    "registry.queries.uploads._IN_DELETED": _UPLOADS,
    "registry.queries.uploads._UPLOADING": _UPLOADS,
    "registry.queries.uploads._SHIFT": _CLOCK,
    "transfer.queries.switch._ALIVE": _PROCESSES,
    "transfer.queries.switch._REPOSITORIES": _UPLOADS,
    "transfer.queries.switch._END_UPLOADS": _UPLOADS,
    "transfer.queries.switch._FORGET_STATES": "once in a move, when no server runs",
    "usage.queries.growth._SINCE": _TOTAL,
    "usage.queries.growth._DAMAGED": _TOTAL,
    "usage.queries.tagged._LEASED": _FOUND,
    "usage.queries.tagged._TAGGED": _FOUND,
    "usage.queries.figures._BURIED": "bytes that are deleted and not off the disk yet",
    "usage.queries.figures._BY_STATE": _JOBS,
    "usage.queries.figures._OPEN": _UPLOADS,
    "usage.queries.figures._OPERATIONS": "deletions of the last days that can be taken back",
    "usage.queries.figures._REVIEWS": "a review for each link that no manifest needs",
    "usage.queries.usage._ALL_ROWS": _TOTAL,
    "usage.queries.usage._ALL_PORTIONS": _TOTAL,
    "usage.queries.usage._SPACES": _TOTAL,
    "usage.queries.usage._TAGGED_ANYWHERE": _FOUND,
    "usage.queries.usage._TAGGED_IN_ONE": _FOUND,
    "usage.queries.usage._LEASED_ANYWHERE": "a review for each link that no manifest needs",
    "usage.queries.usage._SOFT_DELETED": "a row for each repository that something is kept of",
    "usage.queries.usage._SESSIONS": _UPLOADS,
    "usage.queries.why._HIDDEN": "a row for each repository that something is kept of",
    "usage.queries.why._TOMBSTONES": "bytes that are deleted and not off the disk yet",
}
# SQLite has no such function, or no such statement.
POSTGRESQL_ONLY = {
    "check.queries.repairs._LOCK_COUNTERS",
    "database.notifications._NOTIFY",
    "database.transaction._SERVER_TIME",
    "registry.leases.offers._OFFER",
    "registry.leases.sql._SHARE_BLOB",
    "registry.leases.sql._TAKE_BACK",
    "registry.queries.deployments._ALONE",
    "registry.queries.deployments._SHARED",
    "registry.queries.uploads._TAKE_UPLOADS",
    "transfer.queries.switch._LOCK",
}


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
    assert len(STATEMENTS) > 400
    for name in (
        "registry.queries.content.manifests._BY_TAG",
        "registry.queries.reclaim.deadlines._FIRST_DUE[1]",
        "registry.queries.attributes._LOCKS[2][1]",
        "registry.leases.sql._ADD",
        "accounts.queries._SET_USER[enabled]",
        "check.queries.rows._TAGS.after",
    ):
        assert name in STATEMENTS
    assert SCANS.keys() | POSTGRESQL_ONLY <= STATEMENTS.keys()


@pytest.mark.parametrize("name", sorted(STATEMENTS))
@pytest.mark.thorough
def test_every_statement_can_be_built_for_both_dialects(name: str) -> None:
    built = [STATEMENTS[name].built(sql_dialect_of(each)) for each in ("sqlite", "postgresql")]
    assert built[0].lists == built[1].lists


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - POSTGRESQL_ONLY))
@pytest.mark.thorough
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


# Writes to a session's row that no claim keeps off, and why.
UNCLAIMED = {
    "check.queries.adoption._FORGET_UPLOAD": "a start that takes over a store; no server runs",
    "deletion.queries.successors._MOVE_UPLOADS": "its repository lives on under another number",
    "registry.queries.reclaim.deadlines._POSTPONE[2]": "it lasts longer",
    "registry.queries.uploads._DELETE": "a cancel ends a session whatever request is at work on it",
    "registry.queries.uploads._SHIFT": _CLOCK,
}


def writes_to_uploads() -> dict[str, str]:
    """The condition of each, as PostgreSQL gets it."""
    found = {}
    for name, statement in STATEMENTS.items():
        sql = " ".join(statement.built(sql_dialect_of("postgresql")).sql.split())
        if sql.startswith(("UPDATE uploads ", "DELETE FROM uploads ")):
            found[name] = sql.partition(" WHERE ")[2]
    return found


def test_every_write_to_an_upload_s_row_asks_whose_it_is() -> None:
    """deletion.md section 3.4: the request that has claimed it, or that none has."""
    found = writes_to_uploads()
    assert len(found) > 8
    assert UNCLAIMED.keys() <= found.keys()
    late = [
        name
        for name, condition in found.items()
        if name not in UNCLAIMED and not re.search(r"uploads.claim (=|IS NOT DISTINCT)", condition)
        if "uploads.claimed_until IS NULL" not in condition
    ]
    assert late == []
