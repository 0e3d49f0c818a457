"""Image locks: with a reason, an owner and an end (deletion.md section 8); in the table `holds`.

There are few of them: a deletion asks once for those of its repository, and for nothing more if
there are none.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import cleaning, content
from ullage.database.statements import Statement, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Row, Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag

_locks = cleaning.holds
_repositories = content.repositories


class ImageLock(NamedTuple):
    """A lock of a tag, of a manifest, or, without either, of a whole repository."""

    id: str
    repository_id: int
    tag: Tag | None
    digest: Digest | None
    reason: str
    owner: str
    until: datetime | None
    created_at: datetime


_COLUMNS = tuple(_locks.c[name] for name in ImageLock._fields)
_IN_FORCE = sa.or_(_locks.c.until.is_(None), _locks.c.until > bindparam("now"))

_IN = Statement(
    sa.select(*_COLUMNS)
    .where(given(_locks, "repository_id"), _IN_FORCE)
    .order_by(_locks.c.created_at, _locks.c.id)
)


def in_force(tx: Transaction, repository_id: int, now: datetime) -> list[ImageLock]:
    """The repository's locks that have not ended, oldest first."""
    return [_row(row) for row in tx.rows(_IN, repository_id=repository_id, now=to_micros(now))]


_ALL = Statement(
    sa.select(_repositories.c.name, *_COLUMNS)
    .join(_repositories, _repositories.c.id == _locks.c.repository_id)
    .where(_repositories.c.name.is_not(None), _IN_FORCE)
    .order_by(_repositories.c.name, _locks.c.created_at, _locks.c.id)
)


def everywhere(tx: Transaction, now: datetime) -> list[tuple[RepositoryName, ImageLock]]:
    """All locks that have not ended, by repository."""
    return [(RepositoryName(row[0]), _row(row[1:])) for row in tx.rows(_ALL, now=to_micros(now))]


def _row(row: Row) -> ImageLock:
    id_, repository_id, tag, digest, reason, owner, until, created_at = row
    return ImageLock(
        id_,
        repository_id,
        None if tag is None else Tag(tag),
        None if digest is None else Digest(digest),
        reason,
        owner,
        None if until is None else from_micros(until),
        from_micros(created_at),
    )


_INSERT = Statement.insert(_locks, ImageLock._fields)
_DELETE = Statement(_locks.delete().where(given(_locks, "id")))


def insert(tx: Transaction, lock: ImageLock) -> None:
    """The caller has locked the repository's row."""
    values = lock._asdict()
    values["until"] = None if lock.until is None else to_micros(lock.until)
    values["created_at"] = to_micros(lock.created_at)
    tx.change(_INSERT, **values)


def delete(tx: Transaction, lock_id: str) -> None:
    tx.change(_DELETE, id=lock_id)


_ENDED = Statement(sa.select(_locks.c.id).where(_locks.c.until <= bindparam("now")).limit(1))
_FORGET = Statement(_locks.delete().where(_locks.c.until <= bindparam("now")))


def any_ended(tx: Transaction, now: datetime) -> bool:
    return tx.row(_ENDED, now=to_micros(now)) is not None


def forget_ended(tx: Transaction, now: datetime) -> None:
    """Locks that have ended lock nothing; this only drops their rows."""
    tx.change(_FORGET, now=to_micros(now))
