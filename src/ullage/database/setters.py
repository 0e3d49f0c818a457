"""Setting some columns of a row, whichever they are: one statement for each column that is set."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.statements import Statement
from ullage.database.transaction import Transaction


class Setters(dict[str, Statement]):
    """For each of a table's columns an UPDATE of the row that its primary key names."""

    def __init__(self, table: sa.Table) -> None:
        (key,) = table.primary_key.columns
        this_one = key == bindparam("key_of_row")
        update = table.update().where(this_one)
        super().__init__(
            {
                column.name: Statement(update.values({column: bindparam("new_value")}))
                for column in table.columns
                if column is not key
            }
        )

    def set(self, tx: Transaction, key: object, values: dict[str, Any]) -> bool:
        """Set these columns; False if there is no such row."""
        changed = [
            tx.change(self[name], key_of_row=key, new_value=value) for name, value in values.items()
        ]
        return all(changed)
