"""Operations: deletions that can be taken back, and the hidden repositories that keep what went.

What was deleted softly lives on in a repository without a name, one for each repository that the
operation was about. A tag whose manifest stayed is only remembered. docs/design/deletion.md has the
reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.metadata import schema
from ullage.metadata.content import ManifestRow
from ullage.metadata.content.manifests import ROW, manifest_row
from ullage.metadata.database import Transaction
from ullage.metadata.moments import from_moment, moment
from ullage.metadata.statements import Statement, among
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag

_repositories = schema.repositories
_manifests = schema.manifests
_tags = schema.tags
_operations = schema.operations
_kept = schema.kept_repositories
_deleted_tags = schema.deleted_tags

ATTRIBUTES = ("delete_enabled", "write_enabled", "read_enabled", "list_enabled")


class Operation(NamedTuple):
    """A deletion that can be taken back."""

    id: str
    kind: str
    subject: str
    target: str | None
    deleted_at: datetime
    # From when its days are counted.
    counts_from: datetime


class Kept(NamedTuple):
    """What an operation took from one repository, which is hidden under an id of its own."""

    repository_id: int
    operation_id: str
    name: RepositoryName
    manifest_count: int
    tag_count: int
    blob_bytes: int


class RememberedTag(NamedTuple):
    """A tag that was taken away from a manifest that stayed."""

    operation_id: str
    repository: RepositoryName
    name: Tag
    digest: Digest


# --- operations -----------------------------------------------------------------------------------


_BEGIN = Statement.insert(
    _operations,
    ("id", "kind", "subject", "target", "deleted_at", "counts_from"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["id"],
        # A job that goes on: its days begin with the last thing it deletes.
        set_={
            "deleted_at": insert.excluded.deleted_at,
            "counts_from": insert.excluded.counts_from,
        },
    ),
)


def begin(
    tx: Transaction, operation_id: str, kind: str, subject: str, target: str | None, now: datetime
) -> None:
    """Write an operation down, or that it went on."""
    at = moment(now)
    tx.change(
        _BEGIN,
        id=operation_id,
        kind=kind,
        subject=subject,
        target=target,
        deleted_at=at,
        counts_from=at,
    )


_COLUMNS = (
    _operations.c.id,
    _operations.c.kind,
    _operations.c.subject,
    _operations.c.target,
    _operations.c.deleted_at,
    _operations.c.counts_from,
)


def find(tx: Transaction, operation_id: str) -> Operation | None:
    row = tx.execute(sa.select(*_COLUMNS).where(_operations.c.id == operation_id)).first()
    return _operation(row) if row is not None else None


def newest(tx: Transaction, before: tuple[datetime, str] | None, n: int) -> list[Operation]:
    """Up to `n` operations, the last first, behind a place."""
    query = sa.select(*_COLUMNS).order_by(_operations.c.deleted_at.desc(), _operations.c.id.desc())
    if before is not None:
        place = sa.tuple_(sa.literal(moment(before[0])), sa.literal(before[1]))
        query = query.where(sa.tuple_(_operations.c.deleted_at, _operations.c.id) < place)
    return [_operation(row) for row in tx.execute(query.limit(n))]


_OVERDUE = Statement(
    sa.select(_operations.c.id)
    .where(_operations.c.counts_from <= bindparam("before"))
    .order_by(_operations.c.counts_from, _operations.c.id)
    .limit(1)
)


def first_begun_before(tx: Transaction, before: datetime) -> str | None:
    """The oldest operation whose days are counted from before that moment."""
    found: str | None = tx.value(_OVERDUE, before=moment(before))
    return found


def _operation(row: Sequence[Any]) -> Operation:
    return Operation(row[0], row[1], row[2], row[3], from_moment(row[4]), from_moment(row[5]))


_END = Statement(
    _operations.delete().where(
        _operations.c.id == bindparam("id"),
        ~sa.exists().where(_kept.c.operation_id == bindparam("id")),
        ~sa.exists().where(_deleted_tags.c.operation_id == bindparam("id")),
    )
)


def end_if_empty(tx: Transaction, operation_id: str) -> bool:
    """Forget an operation that keeps nothing any more; whether it is forgotten."""
    return bool(tx.change(_END, id=operation_id))


def shift(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: everything is kept for as long as it would have been."""
    tx.execute(_operations.update().values(counts_from=_operations.c.counts_from + by_microseconds))


# --- what they keep -------------------------------------------------------------------------------


_THIS_ONE = _repositories.c.id == bindparam("repository_id")
_HIDE = Statement(_repositories.update().where(_THIS_ONE).values(name=None))
_KEEP = Statement.insert(_kept, ("repository_id", "operation_id", "name"))


def hide_repository(
    tx: Transaction, operation_id: str, repository_id: int, name: RepositoryName
) -> None:
    """Take the repository's name away and keep it whole: nobody sees it, a push makes a new one."""
    tx.change(_HIDE, repository_id=repository_id)
    tx.change(_KEEP, repository_id=repository_id, operation_id=operation_id, name=name)


_SWITCHES = [_repositories.c[name] for name in ATTRIBUTES]
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
    .where(_kept.c.operation_id == bindparam("operation_id"), _kept.c.name == bindparam("name"))
    .with_for_update(key_share=True, of=_repositories)
)


def hidden_repository(tx: Transaction, operation_id: str, repository_id: int) -> tuple[int, bool]:
    """Where the operation keeps what it takes from a repository; True if it was there before.

    The caller holds the repository's row; the hidden one is held until the transaction ends.
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
        _kept.c.repository_id,
        _kept.c.operation_id,
        _kept.c.name,
        _repositories.c.manifest_count,
        _repositories.c.tag_count,
        _repositories.c.blob_bytes,
    )
    .join(_repositories, _repositories.c.id == _kept.c.repository_id)
    .order_by(_kept.c.name, _kept.c.repository_id)
)
_KEPT_BY = Statement(_KEPT.where(among(_kept.c.operation_id, "ids")))
_LOCK_KEPT = Statement(
    _KEPT.where(_kept.c.repository_id == bindparam("repository_id")).with_for_update(
        key_share=True, of=_repositories
    )
)


def kept_by(tx: Transaction, operation_ids: Collection[str]) -> dict[str, list[Kept]]:
    """What each of these operations keeps, by name of the repository."""
    found: dict[str, list[Kept]] = {}
    for row in tx.rows(_KEPT_BY, ids=operation_ids) if operation_ids else ():
        found.setdefault(row[1], []).append(_as_kept(row))
    return found


def lock_kept(tx: Transaction, repository_id: int) -> Kept | None:
    """Keep everybody else off a hidden repository; None if it is none any more."""
    row = tx.row(_LOCK_KEPT, repository_id=repository_id)
    return _as_kept(row) if row is not None else None


def _as_kept(row: Sequence[Any]) -> Kept:
    return Kept(row[0], row[1], RepositoryName(row[2]), row[3], row[4], row[5])


_UNKEEP = Statement(_kept.delete().where(_kept.c.repository_id == bindparam("repository_id")))
_GIVE_NAME = Statement(_repositories.update().where(_THIS_ONE).values(name=bindparam("name")))


def unkeep(tx: Transaction, repository_id: int) -> None:
    """Take a hidden repository from its operation; the caller says what becomes of it."""
    tx.change(_UNKEEP, repository_id=repository_id)


def show_repository(tx: Transaction, kept: Kept) -> None:
    """Give a hidden repository its name back, which nobody has now: all of it is there again."""
    unkeep(tx, kept.repository_id)
    tx.change(_GIVE_NAME, repository_id=kept.repository_id, name=kept.name)


# --- tags -----------------------------------------------------------------------------------------


_TAG = [_tags.c[name] for name in ("created_at", "updated_at", *ATTRIBUTES)]
_REMEMBER = Statement(
    _deleted_tags.insert().from_select(
        ["operation_id", "repository", "name", "digest", "created_at", "updated_at", *ATTRIBUTES],
        sa.select(
            sa.cast(bindparam("operation_id"), sa.Text),
            sa.cast(bindparam("repository"), sa.Text),
            _tags.c.name,
            _manifests.c.digest,
            *_TAG,
        )
        .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
        .where(
            _tags.c.repository_id == bindparam("repository_id"),
            among(_tags.c.name, "tags"),
            ~sa.exists().where(
                _deleted_tags.c.operation_id == bindparam("operation_id"),
                _deleted_tags.c.repository == bindparam("repository"),
                _deleted_tags.c.name == _tags.c.name,
                _deleted_tags.c.digest == _manifests.c.digest,
            ),
        ),
    )
)


def remember_tags(
    tx: Transaction,
    operation_id: str,
    repository_id: int,
    repository: RepositoryName,
    tags: Collection[Tag],
) -> None:
    """Note what these tags of a repository point to, before they go."""
    if tags:
        tx.change(
            _REMEMBER,
            operation_id=operation_id,
            repository=repository,
            repository_id=repository_id,
            tags=tags,
        )


_others = _tags.alias()
_TAGS_THERE = Statement(
    sa.select(_tags.c.name)
    .join(_others, _others.c.name == _tags.c.name)
    .where(among(_tags.c.manifest_id, "ids"), _others.c.repository_id == bindparam("there"))
    .order_by(_tags.c.name)
)


def tags_there(tx: Transaction, ids: Collection[int], repository_id: int) -> list[Tag]:
    """Which tags of these manifests are names of tags in that other repository too."""
    return [Tag(name) for name in tx.values(_TAGS_THERE, ids=ids, there=repository_id)]


_REMEMBERED = sa.select(
    _deleted_tags.c.operation_id,
    _deleted_tags.c.repository,
    _deleted_tags.c.name,
    _deleted_tags.c.digest,
).order_by(_deleted_tags.c.repository, _deleted_tags.c.name, _deleted_tags.c.digest)


def remembered(tx: Transaction, operation_id: str, limit: int | None = None) -> list[RememberedTag]:
    """The tags that an operation has taken away from manifests that stayed."""
    query = _REMEMBERED.where(_deleted_tags.c.operation_id == operation_id).limit(limit)
    return [_as_remembered(row) for row in tx.execute(query)]


def _as_remembered(row: Sequence[Any]) -> RememberedTag:
    return RememberedTag(row[0], RepositoryName(row[1]), Tag(row[2]), Digest(row[3]))


def count_remembered(tx: Transaction, operation_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """How many such tags each of these operations has, by repository."""
    query = (
        sa.select(_deleted_tags.c.operation_id, _deleted_tags.c.repository, sa.func.count())
        .where(_deleted_tags.c.operation_id.in_(list(operation_ids)))
        .group_by(_deleted_tags.c.operation_id, _deleted_tags.c.repository)
    )
    found: dict[str, dict[str, int]] = {}
    for operation_id, repository, count in tx.execute(query):
        found.setdefault(operation_id, {})[repository] = int(count)
    return found


_FORGET = Statement(
    _deleted_tags.delete().where(
        _deleted_tags.c.operation_id == bindparam("operation_id"),
        _deleted_tags.c.repository == bindparam("repository"),
        among(_deleted_tags.c.name, "tags"),
    )
)
_FORGET_ALL = Statement(
    _deleted_tags.delete().where(_deleted_tags.c.operation_id == bindparam("operation_id"))
)


def forget_tags(
    tx: Transaction, operation_id: str, repository: RepositoryName, tags: Collection[Tag]
) -> None:
    tx.change(_FORGET, operation_id=operation_id, repository=repository, tags=tags)


def forget_all_tags(tx: Transaction, operation_id: str) -> None:
    tx.change(_FORGET_ALL, operation_id=operation_id)


# --- restoring ------------------------------------------------------------------------------------


class Clash(NamedTuple):
    """A tag that is to come back, and what a live tag of that name points to."""

    name: Tag
    digest: Digest
    live_digest: Digest


_live = _tags.alias()
_live_manifests = _manifests.alias()


def clashes(tx: Transaction, hidden_id: int, live_id: int, limit: int) -> list[Clash]:
    """Tags of a hidden repository that a live one has too, on other manifests."""
    query = (
        sa.select(_tags.c.name, _manifests.c.digest, _live_manifests.c.digest)
        .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
        .join(_live, _live.c.name == _tags.c.name)
        .join(_live_manifests, _live_manifests.c.id == _live.c.manifest_id)
        .where(
            _tags.c.repository_id == hidden_id,
            _live.c.repository_id == live_id,
            _live_manifests.c.digest != _manifests.c.digest,
        )
        .order_by(_tags.c.name)
        .limit(limit)
    )
    return [Clash(Tag(row[0]), Digest(row[1]), Digest(row[2])) for row in tx.execute(query)]


_RESTORE_TAGS = Statement(
    _tags.insert().from_select(
        ["repository_id", "name", "manifest_id", "created_at", "updated_at", *ATTRIBUTES],
        sa.select(
            _manifests.c.repository_id,
            _deleted_tags.c.name,
            _manifests.c.id,
            _deleted_tags.c.created_at,
            _deleted_tags.c.updated_at,
            *(_deleted_tags.c[name] for name in ATTRIBUTES),
        )
        .join(_manifests, _manifests.c.digest == _deleted_tags.c.digest)
        .where(
            _manifests.c.repository_id == bindparam("repository_id"),
            _deleted_tags.c.operation_id == bindparam("operation_id"),
            _deleted_tags.c.repository == bindparam("repository"),
            _deleted_tags.c.name == bindparam("tag"),
            _deleted_tags.c.digest == bindparam("digest"),
        ),
    )
)


def put_remembered(tx: Transaction, repository_id: int, tag: RememberedTag) -> bool:
    """Set a remembered tag as it was; False if its manifest is not in the repository.

    No tag of that name is there; the caller counts.
    """
    return bool(
        tx.change(
            _RESTORE_TAGS,
            repository_id=repository_id,
            operation_id=tag.operation_id,
            repository=tag.repository,
            tag=tag.name,
            digest=tag.digest,
        )
    )


_DROP_TAGS = Statement(
    _tags.delete().where(
        _tags.c.repository_id == bindparam("repository_id"), among(_tags.c.name, "tags")
    )
)


def drop_tags(tx: Transaction, repository_id: int, tags: Collection[Tag]) -> int:
    """Remove tags and nothing else; how many there were. The caller counts."""
    return tx.change(_DROP_TAGS, repository_id=repository_id, tags=tags) if tags else 0


_SUBJECTS = _manifests.alias()
_ROOTS = Statement(
    sa.select(*ROW)
    .where(
        _manifests.c.repository_id == bindparam("repository_id"),
        ~sa.exists().where(schema.manifest_children.c.child_id == _manifests.c.id),
        ~sa.exists().where(
            _SUBJECTS.c.repository_id == _manifests.c.repository_id,
            _SUBJECTS.c.digest == _manifests.c.subject,
        ),
    )
    # The order of an index, so that what comes behind the limit is not looked at.
    .order_by(_manifests.c.digest)
    .limit(bindparam("limit", type_=sa.Integer))
)


def some_roots(tx: Transaction, repository_id: int, limit: int) -> list[ManifestRow]:
    """Manifests that no index lists and that refer to nothing in the repository."""
    return [manifest_row(row) for row in tx.rows(_ROOTS, repository_id=repository_id, limit=limit)]


_ROWS = Statement(sa.select(*ROW).where(among(_manifests.c.id, "ids")))


def rows_of(tx: Transaction, ids: Collection[int]) -> list[ManifestRow]:
    return [manifest_row(row) for row in tx.rows(_ROWS, ids=ids)] if ids else []
