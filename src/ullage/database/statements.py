"""Statements that are built once: SQL with named parameters, for every dialect.

Building a statement costs SQLAlchemy a hundred times what running it costs SQLite. So everything
that is asked of a database is a `Statement`, made when its module is imported, turned into text
when it first runs, and from then on handed to the driver as it is (`Transaction.rows` and the
others). What depends on what is asked for (a filter, a page's place) is a parameter, or one of a
few statements.

A list of any length is one parameter (`among`), so that a statement has one text, whatever it is
about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from ullage.database.dialects import SqlDialect

# How many rows at most: the parameter `limit`.
LIMIT = sa.bindparam("limit", type_=sa.Integer)


class Built(NamedTuple):
    """A statement as a driver takes it."""

    sql: str
    # Parameters that the statement brings along.
    constants: Mapping[str, Any]
    # Parameters that are lists.
    lists: tuple[str, ...]


class Statement:
    """A SQLAlchemy Core construct whose parameters are all named, with `sa.bindparam`."""

    __slots__ = ("_columns", "_construct", "_in_sets", "_sets", "_spelled")

    def __init__(self, construct: sa.sql.ClauseElement) -> None:
        self._construct: Callable[[SqlDialect], sa.sql.ClauseElement] = lambda _: construct
        self._columns: tuple[str, ...] | None = None
        self._spelled: dict[str, Built] = {}
        self._in_sets: Callable[[SqlDialect], sa.sql.ClauseElement] | None = None
        self._sets: Built | None = None

    @classmethod
    def insert(
        cls,
        table: sa.Table,
        columns: Iterable[str],
        complete: Callable[[Any], sa.Insert] = lambda insert: insert,
        *,
        in_sets: bool = False,
    ) -> Statement:
        """INSERT one row; its parameters are named as `columns` are.

        `complete` may add RETURNING, or ON CONFLICT, which both dialects spell alike and SQLAlchemy
        does not. Further parameters need names that no column of the table has.
        `in_sets`: several rows are one statement where that is cheaper. Their values are strings
        and integers, and no two of them are in conflict with each other.
        """
        statement = cls(sa.null())
        # Inline: what was given an id is asked for it only where RETURNING says so.
        statement._construct = lambda spelling: complete(spelling.insert(table).inline())
        statement._columns = names = tuple(columns)
        if in_sets:
            values = sa.select(*(_each_of(table.c[name]) for name in names))
            statement._in_sets = lambda spelling: complete(
                spelling.insert(table).inline().from_select(names, values)
            )
        return statement

    @classmethod
    def text(
        cls, sqlite: str, postgresql: str | None = None, *, in_sets: str | None = None
    ) -> Statement:
        """SQL as it is written, with parameters as `:name`; the same for both dialects, or not.

        `AMONG :name` is as `among`: whether what stands before it is one of a list's values.
        `in_sets`: PostgreSQL's for many sets of parameters, each of which is a list.
        """
        texts = {"sqlite": sqlite, "postgresql": postgresql or sqlite}
        statement = cls(sa.null())
        statement._construct = lambda spelling: _listing(texts[spelling.name], spelling.name)
        if in_sets is not None:
            lists = sa.text(in_sets).bindparams(
                *(_list_of_any(name) for name in sorted(set(re.findall(r"\(:(\w+)", in_sets))))
            )
            statement._in_sets = lambda _: lists
        return statement

    def built(self, spelling: SqlDialect) -> Built:
        """The text in one dialect."""
        built = self._spelled.get(spelling.name)
        if built is None:
            built = self._spelled[spelling.name] = self._build(spelling)
        return built

    def built_for_set(self, spelling: SqlDialect) -> Built | None:
        """The text for many rows, each parameter a list; None if it takes them one by one."""
        if self._in_sets is None or spelling.name == "sqlite":
            return None
        if self._sets is None:
            self._sets = _built(self._in_sets(spelling).compile(dialect=spelling.dialect))
        return self._sets

    def _build(self, spelling: SqlDialect) -> Built:
        construct = self._construct(spelling)
        return _built(construct.compile(dialect=spelling.dialect, column_keys=self._columns))


def _built(compiled: Any) -> Built:
    binds = cast(SQLCompiler, compiled).binds
    return Built(
        str(compiled),
        {name: bind.value for name, bind in binds.items() if not bind.required},
        tuple(name for name, bind in binds.items() if isinstance(bind.type, _List)),
    )


def _each_of(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Every value of the list that is the parameter of this column's name."""
    item = sa.BigInteger() if isinstance(column.type, sa.Integer) else sa.Text()
    return sa.func.unnest(sa.bindparam(column.name, type_=_List(item)))


def among(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Whether `column` is one of a list's values; the list, of any length, is the parameter `name`.

    Strings and integers only. Nothing is among the values of an empty list.
    """
    item = sa.BigInteger() if isinstance(column.type, sa.Integer) else sa.Text()
    return cast(sa.ColumnElement[bool], _Among(column, sa.bindparam(name, type_=_List(item))))


def _listing(sql: str, dialect: str) -> sa.TextClause:
    lists = re.findall(r"AMONG :(\w+)", sql)
    spelled = {"sqlite": r"IN (SELECT value FROM json_each(:\1))", "postgresql": r"= ANY (:\1)"}
    text = sa.text(re.sub(r"AMONG :(\w+)", spelled[dialect], sql))
    # The driver knows an array's type by what is in it.
    return text.bindparams(*map(_list_of_any, lists))


def _list_of_any(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, type_=_List(sa.types.NULLTYPE))


def beginning(column: sa.Column[str]) -> sa.ColumnElement[bool]:
    """Whether a text of hexadecimal digits begins with others: from :begin to before :end.

    `range_of` has both. The order of the column's index finds them.
    """
    return sa.and_(column >= sa.bindparam("begin"), column < sa.bindparam("end", type_=sa.Text))


def range_of(prefix: str) -> dict[str, str]:
    """The parameters of `beginning`: no digit is as large as a "g"."""
    return {"begin": prefix, "end": f"{prefix}g"}


def given(table: sa.FromClause, *columns: str) -> sa.ColumnElement[bool]:
    """Whether a row has in these columns what the parameters of the same names say."""
    return sa.and_(*(table.c[name] == sa.bindparam(name) for name in columns))


def same(one: sa.FromClause, other: sa.FromClause, *columns: str) -> sa.ColumnElement[bool]:
    """Whether the rows of two tables have the same in these columns."""
    return sa.and_(*(one.c[name] == other.c[name] for name in columns))


class _List(sa.types.TypeDecorator[Any]):
    """An array, or JSON where there are none."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, item: sa.types.TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if isinstance(self.item, sa.types.NullType):
            return self.item
        array = sa.ARRAY(self.item) if dialect.name == "postgresql" else sa.Text()
        return dialect.type_descriptor(array)


class _Among(FunctionElement[Any]):
    name = "among"
    inherit_cache = True


@compiles(_Among, "sqlite")
def _among_in_sqlite(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - compiled SQL


@compiles(_Among, "postgresql")
def _among_in_postgresql(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} = ANY ({values})"
