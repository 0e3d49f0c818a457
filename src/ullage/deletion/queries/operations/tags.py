"""Tags that operations took away from manifests that stayed: remembered, and set again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, undo
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries.attributes import ATTRIBUTES

_manifests = content.manifests
_tags = content.tags
_deleted_tags = undo.deleted_tags


class RememberedTag(NamedTuple):
    """A tag that was taken away from a manifest that stayed."""

    operation_id: str
    repository: RepositoryName
    name: Tag
    digest: Digest


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
            given(_tags, "repository_id"),
            among(_tags.c.name, "tags"),
            ~sa.exists().where(
                given(_deleted_tags, "operation_id", "repository"),
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


_REMEMBERED = Statement(
    sa.select(*_deleted_tags.c["operation_id", "repository", "name", "digest"])
    .where(given(_deleted_tags, "operation_id"))
    .order_by(*_deleted_tags.c["repository", "name", "digest"])
    .limit(LIMIT)
)
_COUNT = Statement(
    sa.select(_deleted_tags.c.operation_id, _deleted_tags.c.repository, sa.func.count())
    .where(among(_deleted_tags.c.operation_id, "ids"))
    .group_by(_deleted_tags.c.operation_id, _deleted_tags.c.repository)
)


def remembered(tx: Transaction, operation_id: str, limit: int | None = None) -> list[RememberedTag]:
    """The tags that an operation has taken away from manifests that stayed."""
    most = 2**31 - 1 if limit is None else limit
    rows = tx.rows(_REMEMBERED, operation_id=operation_id, limit=most)
    return [_as_remembered(row) for row in rows]


def _as_remembered(row: Sequence[Any]) -> RememberedTag:
    return RememberedTag(row[0], RepositoryName(row[1]), Tag(row[2]), Digest(row[3]))


def count_remembered(tx: Transaction, operation_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """How many such tags each of these operations has, by repository."""
    found: dict[str, dict[str, int]] = {}
    for operation_id, repository, count in tx.rows(_COUNT, ids=operation_ids):
        found.setdefault(operation_id, {})[repository] = int(count)
    return found


_FORGET = Statement(
    _deleted_tags.delete().where(
        given(_deleted_tags, "operation_id", "repository"), among(_deleted_tags.c.name, "tags")
    )
)
_FORGET_ALL = Statement(_deleted_tags.delete().where(given(_deleted_tags, "operation_id")))


def forget_tags(
    tx: Transaction, operation_id: str, repository: RepositoryName, tags: Collection[Tag]
) -> None:
    tx.change(_FORGET, operation_id=operation_id, repository=repository, tags=tags)


def forget_all_tags(tx: Transaction, operation_id: str) -> None:
    tx.change(_FORGET_ALL, operation_id=operation_id)


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
            given(_manifests, "repository_id"),
            given(_deleted_tags, "operation_id", "repository"),
            _deleted_tags.c.name == bindparam("tag"),
            given(_deleted_tags, "digest"),
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
