"""Which rows are fetched.

A row is fetched in one of two ways: with all that come `After` a key, which reads a whole table in
bounded memory, or as one of `Only` a few, which looks at suspects once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.statements import LIMIT, Statement
from ullage.database.transaction import Row, Transaction

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class After(Generic[K]):
    """The next `limit` rows behind `key`; from the first one if it is None."""

    key: K | None
    limit: int


@dataclass(frozen=True, slots=True)
class Only(Generic[K]):
    """Those of these rows that are still there."""

    keys: Sequence[K]


Which: TypeAlias = After[K] | Only[K]
# A row named by a repository's id and a name or digest, or by two ids.
Pair: TypeAlias = tuple[int, str]
Ids: TypeAlias = tuple[int, int]


class Pages(NamedTuple):
    """A query's rows, in the order of a key of one or two columns."""

    first: Statement
    after: Statement
    one: Statement

    def rows(self, tx: Transaction, which: Which[Any], **parameters: Any) -> list[Row]:
        """The rows that are asked for; `parameters` are the query's own."""
        if isinstance(which, Only):
            keys = map(_named, sorted(which.keys))
            return [row for key in keys for row in tx.rows(self.one, **key, **parameters)]
        if which.key is None:
            return tx.rows(self.first, limit=which.limit, **parameters)
        return tx.rows(self.after, limit=which.limit, **_named(which.key), **parameters)


def pages(query: sa.Select[*tuple[Any, ...]], *key: sa.Column[Any]) -> Pages:
    """The statements of a query whose rows `key` names."""
    place = [bindparam(f"key{number}", type_=part.type) for number, part in enumerate(key)]
    ordered = query.order_by(*key)
    page = ordered.limit(LIMIT)
    return Pages(
        first=Statement(page),
        after=Statement(page.where(sa.tuple_(*key) > sa.tuple_(*place))),
        one=Statement(ordered.where(*(part == at for part, at in zip(key, place, strict=True)))),
    )


def _named(key: Any) -> dict[str, Any]:
    parts = key if isinstance(key, tuple) else (key,)
    return {f"key{number}": part for number, part in enumerate(parts)}
