"""The hidden repositories in which operations keep what they took, and the way in and out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, undo
from ullage.database.statements import Statement, among, given
from ullage.database.transaction import Transaction
from ullage.oci.reference import RepositoryName
from ullage.registry.queries.attributes import ATTRIBUTES

_repositories = content.repositories
_kept = undo.kept_repositories


class KeptRepository(NamedTuple):
    """What an operation took from one repository, which is hidden under an id of its own."""

    repository_id: int
    operation_id: str
    name: RepositoryName
    manifest_count: int
    tag_count: int
    blob_bytes: int


_THIS_ONE = _repositories.c.id == bindparam("repository_id")
_HIDE = Statement(_repositories.update().where(_THIS_ONE).values(name=None))
_KEEP = Statement.insert(_kept, ("repository_id", "operation_id", "name"))


def hide_repository(
    tx: Transaction, operation_id: str, repository_id: int, name: RepositoryName
) -> None:
    """Take the repository's name away and keep it whole: it is not seen, a push makes a new one."""
    tx.change(_HIDE, repository_id=repository_id)
    tx.change(_KEEP, repository_id=repository_id, operation_id=operation_id, name=name)


_originals = _repositories.alias()
_NAME_OF = Statement(sa.select(_repositories.c.name).where(_THIS_ONE))
_MAKE_HIDDEN = Statement(
    _repositories.insert()
    .from_select(
        ["created_at", "updated_at", *ATTRIBUTES],
        sa.select(_originals.c.created_at, _originals.c.updated_at)
        .add_columns(*(_originals.c[name] for name in ATTRIBUTES))
        .where(_originals.c.id == bindparam("like")),
    )
    .returning(_repositories.c.id)
)
_FIND_HIDDEN = Statement(
    sa.select(_kept.c.repository_id)
    .join(_repositories, _repositories.c.id == _kept.c.repository_id)
    .where(given(_kept, "operation_id", "name"))
    .with_for_update(key_share=True, of=_repositories)
)


def hidden_repository(tx: Transaction, operation_id: str, repository_id: int) -> tuple[int, bool]:
    """Where the operation keeps what it takes from a repository; True if it was there before.

    The caller has locked the repository's row; the hidden one is locked here.
    """
    name = tx.value(_NAME_OF, repository_id=repository_id)
    found = tx.value(_FIND_HIDDEN, operation_id=operation_id, name=name)
    if found is not None:
        return int(found), True
    hidden = int(tx.value(_MAKE_HIDDEN, like=repository_id))
    tx.change(_KEEP, repository_id=hidden, operation_id=operation_id, name=name)
    return hidden, False


_KEPT = (
    sa.select(
        *_kept.c["repository_id", "operation_id", "name"],
        *_repositories.c["manifest_count", "tag_count", "blob_bytes"],
    )
    .join(_repositories, _repositories.c.id == _kept.c.repository_id)
    .order_by(_kept.c.name, _kept.c.repository_id)
)
_KEPT_BY = Statement(_KEPT.where(among(_kept.c.operation_id, "ids")))
_LOCK_KEPT = Statement(
    _KEPT.where(given(_kept, "repository_id")).with_for_update(key_share=True, of=_repositories)
)


def kept_by(tx: Transaction, operation_ids: Collection[str]) -> dict[str, list[KeptRepository]]:
    """What each of these operations keeps, by name of the repository."""
    found: dict[str, list[KeptRepository]] = {}
    for row in tx.rows(_KEPT_BY, ids=operation_ids) if operation_ids else ():
        found.setdefault(row[1], []).append(_as_kept(row))
    return found


def lock_kept(tx: Transaction, repository_id: int) -> KeptRepository | None:
    """Lock a hidden repository; None if it is none any more."""
    row = tx.row(_LOCK_KEPT, repository_id=repository_id)
    return _as_kept(row) if row is not None else None


def _as_kept(row: Sequence[Any]) -> KeptRepository:
    return KeptRepository(row[0], row[1], RepositoryName(row[2]), row[3], row[4], row[5])


_UNKEEP = Statement(_kept.delete().where(given(_kept, "repository_id")))
_GIVE_NAME = Statement(_repositories.update().where(_THIS_ONE).values(name=bindparam("name")))


def unkeep(tx: Transaction, repository_id: int) -> None:
    """Take a hidden repository from its operation; the caller says what becomes of it."""
    tx.change(_UNKEEP, repository_id=repository_id)


def show_repository(tx: Transaction, kept: KeptRepository) -> None:
    """Give a hidden repository its name back, which is free now: all of it is there again."""
    unkeep(tx, kept.repository_id)
    tx.change(_GIVE_NAME, repository_id=kept.repository_id, name=kept.name)
