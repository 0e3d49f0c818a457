"""Transactions: what a piece of work sees of its database, whichever engine keeps it.

A piece of work is a plain function of a `Transaction`. It may run more than once, so it must not do
anything that a rollback does not undo, except through `after_commit` and `at_end`.

What an engine has to itself is in `sqlite/` and `postgresql.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import sqlalchemy as sa

from ullage.database.dialects import Dialect, sql_dialect_of
from ullage.database.statements import Built, Statement
from ullage.database.timestamps import from_micros

T = TypeVar("T")
Work = Callable[["Transaction"], T]
Row = tuple[Any, ...]

# SQLite accepts 32,766 parameters; staying far below keeps statements and their cache small.
CHUNK = 500


class Transaction(ABC):
    """One connection inside one transaction, as storage functions see it.

    What it is asked is a `Statement`, with its parameters by name; a parameter made by `among`
    takes any collection. SQLite's rows are as SQLite has them: a truth is 0 or 1.
    """

    __slots__ = ("_after_commit", "_at_end", "_connection", "_sql_dialect", "dialect")

    def __init__(self, connection: sa.Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._sql_dialect = sql_dialect_of(dialect)
        self._after_commit: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self.dialect: Dialect = dialect

    def rows(self, statement: Statement, /, **parameters: Any) -> list[Row]:
        """All rows that a SELECT finds or that RETURNING gives."""
        return self._fetch(*self._text(statement, parameters))

    def row(self, statement: Statement, /, **parameters: Any) -> Row | None:
        """The first of its rows, if any."""
        rows = self.rows(statement, **parameters)
        return rows[0] if rows else None

    def value(self, statement: Statement, /, **parameters: Any) -> Any:
        """What the first row has in its first column; None if there is no row."""
        rows = self.rows(statement, **parameters)
        return rows[0][0] if rows else None

    def values(self, statement: Statement, /, **parameters: Any) -> list[Any]:
        """What the rows have in their first column."""
        return [row[0] for row in self.rows(statement, **parameters)]

    def change(self, statement: Statement, /, **parameters: Any) -> int:
        """How many rows an INSERT, UPDATE or DELETE changed."""
        return self._change(*self._text(statement, parameters))

    def many(self, statement: Statement, several: Sequence[Mapping[str, Any]]) -> int:
        """Run a statement for each of `several` sets of parameters; for none, not at all.

        How many rows that changed. One that is made for that (`in_sets`) takes them all at once
        where lists are cheap.
        """
        if len(several) == 1:
            # As most are.
            return self._change(*self._text(statement, several[0]))
        if not several:
            return 0
        at_once = statement.built_for_set(self._sql_dialect)
        if at_once is not None:
            return self._change(at_once.sql, self._bound(at_once, _lists(at_once, several)))
        built = statement.built(self._sql_dialect)
        return self._change_many(built.sql, [self._bound(built, each) for each in several])

    def rows_of_many(self, statement: Statement, several: Sequence[Mapping[str, Any]]) -> list[Row]:
        """As `many`: the rows that all of that gives, with nothing to tell whose they are."""
        if len(several) == 1:
            return self._fetch(*self._text(statement, several[0]))
        at_once = statement.built_for_set(self._sql_dialect) if several else None
        if at_once is not None:
            return self._fetch(at_once.sql, self._bound(at_once, _lists(at_once, several)))
        built = statement.built(self._sql_dialect)
        fetched = (self._fetch(built.sql, self._bound(built, each)) for each in several)
        return [row for rows in fetched for row in rows]

    def _text(
        self, statement: Statement, parameters: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        """What the driver is handed."""
        built = statement.built(self._sql_dialect)
        return built.sql, self._bound(built, parameters)

    def _bound(self, built: Built, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return bound(built, parameters)

    @abstractmethod
    def _fetch(self, sql: str, parameters: Mapping[str, Any]) -> list[Row]:
        """All rows. Raises SQLAlchemy's errors, as the others do."""

    @abstractmethod
    def _change(self, sql: str, parameters: Mapping[str, Any]) -> int:
        """How many rows it changed."""

    @abstractmethod
    def _change_many(self, sql: str, several: Sequence[Mapping[str, Any]]) -> int:
        """Once for each set of parameters, of which there are some; how many rows it changed."""

    def execute_directly(
        self, statement: sa.Executable, parameters: Any = None
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        """What is no `Statement`: an engine's own questions about itself."""
        return self._connection.execute(statement, parameters)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once this piece of work is committed; never if it is rolled back."""
        self._after_commit.append(callback)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` once this piece of work is committed or rolled back, whichever it is."""
        self._at_end.append(callback)

    def ended(self, *, committed: bool) -> None:
        """Make the calls that were asked for; what ends the transaction says so here."""
        callbacks = (self._after_commit if committed else []) + self._at_end
        self._after_commit, self._at_end = [], []
        for callback in callbacks:
            callback()


def _lists(built: Built, several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Many sets of parameters as one; what is no list in it is the same in all of them."""
    return {
        name: [each[name] for each in several] if name in built.lists else value
        for name, value in several[0].items()
    }


def bound(built: Built, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """A statement's parameters as a driver that knows lists takes them."""
    if built.constants:
        parameters = {**built.constants, **parameters}
    if built.lists:
        parameters = {**parameters, **{name: [*parameters[name]] for name in built.lists}}
    return parameters


class Ask(NamedTuple):
    """A statement with its parameters, whose rows are wanted."""

    statement: Statement
    parameters: Mapping[str, Any]


# Work that yields what it asks, gets the rows, and goes on: it runs in a transaction, or without
# blocking on a `LoopConnection`. Each statement sees what was committed last.
Question = Generator[Ask, list[Row], T]


def answered(tx: Transaction, question: Question[T]) -> T:
    """Run a question in a transaction."""
    try:
        ask = next(question)
        while True:
            ask = question.send(tx.rows(ask.statement, **ask.parameters))
    except StopIteration as end:
        outcome: T = end.value
        return outcome


class LoopConnection(Protocol):
    """A connection that an event loop has to itself, for short questions one after the other.

    A thread and a connection of the pool cost more than such a question. Every statement is a
    transaction of its own.
    """

    async def answer(self, ask: Callable[[], Question[T]]) -> T:
        """What the question that `ask` makes gives. It may be asked twice, if the server was gone.

        Raises DatabaseBusy and its like, as Database.read does.
        """


def as_by_sqlalchemy(
    sql: str, parameters: Any, error: Exception, base: type[Exception]
) -> BaseException:
    """What SQLAlchemy makes of a driver's error, so that there is one kind for all callers."""
    return sa.exc.DBAPIError.instance(sql, parameters, error, base)


class Database(Protocol):
    dialect: Dialect
    # Reads are so cheap that they may run on the event loop.
    inline_reads: bool
    # What was found malformed in it; None for nothing. A SQLite database takes no change then.
    damage: str | None
    # It was not closed, and the log of what was committed last is not there. That may have been
    # taken in since, by whatever opened the file, or be lost.
    log_missing: bool

    def go_on(self) -> None:
        """Take it without its log."""

    def read(self, work: Work[T]) -> T:
        """Run `work` reading; every statement sees what was committed last."""

    def cached_read(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        """As `read`; but what was read for `key` since the last commit need not be read again.

        `weigh` says how many bytes it takes to remember what `work` gave, which must stay as it is.
        """

    def loop_connection(self, *, durable: bool = True) -> LoopConnection | None:
        """A new one, connected when it is first used; None where reads are `inline_reads`.

        What is written on one that is not `durable` waits for no disk, and a crash may forget it.
        """

    def snapshot(self, work: Work[T], *, stopped: Callable[[], bool] | None = None) -> T:
        """Run `work` reading; all its statements see one moment.

        Work that takes long may be told to end: `stopped` is asked several times a second, and once
        it says so, the statement that runs is given up. Raises Stopped then.
        """

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        """Run `work` in one transaction and return what it returned once it is committed.

        `freeing` work gives room back: on a full disk the ballast is given up for it.
        Raises DatabaseFull, DatabaseBusy or DatabaseBroken, or what `work` raised (rolled back).
        """

    def write_apart(self, work: Work[T]) -> T:
        """As `write`, of little that must not wait for a connection that other work is using."""

    def write_one(self, work: Work[T]) -> T:
        """As `write`, of a single statement: it needs no BEGIN and no COMMIT of its own."""

    def write_each(self, works: Sequence[Work[Any]], *, hurried: bool = False) -> list[Any]:
        """As `write`, of several that may share a commit; one that fails undoes only itself.

        What each returned or, in its place, the exception that it or its commit met. `hurried` work
        holds up others: it fails if it had to wait for more than a moment for another's lock.
        """

    def on_writer(self, work: Callable[[], None]) -> None:
        """Run `work`, which raises nothing, soon: on the thread that writes, or on one for this.

        Such work is done one after the other. What it writes is committed without another thread to
        wait for. Raises DatabaseBusy.
        """

    def housekeep(self) -> None:
        """What a quiet moment is good for: put the ballast back, return free pages to the disk."""

    def integrity_problems(self) -> list[str]:
        """What the engine itself finds wrong with the database (invariant I29)."""

    def close(self) -> None:
        """Let go of the database; a second time does nothing."""


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Cut a long list into pieces of a bounded size."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def database_time(db: Database) -> datetime:
    """What time it is for the database server, and so for every process that uses it."""
    return from_micros(db.read(lambda tx: int(tx.value(_SERVER_TIME))))


_SERVER_TIME = Statement.text(
    "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"
)
