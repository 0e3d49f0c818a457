"""What all tables share: their names' conventions, their types, the switches of attributes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Names sort by bytes, in listings and cursors alike. PostgreSQL would otherwise use the locale.
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite only gives never-reused row ids to a column declared INTEGER PRIMARY KEY.
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.BigInteger


def attributes() -> tuple[sa.Column[bool], ...]:
    """What may be done with a repository, a tag or a manifest: one independent switch each."""
    return tuple(
        sa.Column(f"{what}_enabled", sa.Boolean, nullable=False, server_default=sa.true())
        for what in ("delete", "write", "read", "list")
    )


def locked(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row is protected from deletion; written exactly as its index has it."""
    return sa.or_(table.c.delete_enabled.is_(sa.false()), table.c.write_enabled.is_(sa.false()))


def unlogged(*tables: sa.Table) -> None:
    """Let PostgreSQL empty these when it crashes, and write to no log for them."""
    for table in tables:
        sa.event.listen(
            table,
            "after_create",
            sa.DDL("ALTER TABLE %(table)s SET UNLOGGED").execute_if(  # type: ignore[no-untyped-call]
                dialect="postgresql"
            ),
        )


def only_where(index: sa.Index, condition: sa.ColumnElement[bool]) -> None:
    """Make an index hold only the rows that `condition` is true of.

    It is said when the table is made, to the database that makes it: said here, with one keyword
    for each dialect, it would have every process import every dialect, which is megabytes.
    """

    def complete(table: sa.Table, connection: sa.Connection, **_: Any) -> None:
        index.dialect_options[connection.dialect.name]["where"] = condition

    assert index.table is not None
    sa.event.listen(index.table, "before_create", complete)
