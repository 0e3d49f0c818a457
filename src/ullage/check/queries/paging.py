"""Which rows are fetched.

A row is fetched in one of two ways: with all that come `After` a key, which reads a whole table in
bounded memory, or as one of `Only` a few, which looks at suspects once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import sqlalchemy as sa

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

_Query = TypeVar("_Query", bound=sa.Select[*tuple[Any, ...]])


def choose(query: _Query, key: Sequence[sa.ColumnElement[Any]], which: Which[Any]) -> _Query:
    left = key[0] if len(key) == 1 else sa.tuple_(*key)
    if isinstance(which, Only):
        return query.where(left.in_(which.keys)).order_by(*key)
    if which.key is not None:
        query = query.where(left > which.key)
    return query.order_by(*key).limit(which.limit)
