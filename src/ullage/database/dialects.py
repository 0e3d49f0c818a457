"""How each dialect writes SQL. Only what is asked for is imported: a dialect is megabytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

Dialect = Literal["sqlite", "postgresql"]
# Of a dialect, because it has ON CONFLICT.
DialectInsert: TypeAlias = "sqlite.Insert | postgresql.Insert"


@dataclass(frozen=True, slots=True)
class SqlDialect:
    name: str
    dialect: sa.Dialect
    insert: Callable[[sa.Table], DialectInsert]


@cache
def sql_dialect_of(dialect: Dialect) -> SqlDialect:
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return SqlDialect(dialect, sqlite.dialect(paramstyle="named"), sqlite.insert)
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    return SqlDialect(
        dialect,
        PGDialect_psycopg(),  # type: ignore[no-untyped-call]
        postgresql.insert,
    )
