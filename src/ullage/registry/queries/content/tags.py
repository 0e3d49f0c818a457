"""Tags: names that point to manifests."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import cleaning, content
from ullage.database.statements import LIMIT, Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Ask, Question, Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries import policies
from ullage.registry.queries.content.manifests import touch_manifest
from ullage.registry.queries.content.repositories import add_to_repository, touch_repository

_tags = content.tags
_manifests = content.manifests
_repositories = content.repositories

_HERE = given(_tags, "repository_id")
_THIS_ONE = sa.and_(_HERE, given(_tags, "name"))

_ALL = Statement(sa.select(_tags.c.name).where(_HERE).order_by(_tags.c.name))


def all_tags(tx: Transaction, repository_id: int) -> list[Tag]:
    """Every tag of a repository, hidden ones too, in byte order."""
    return [Tag(name) for name in tx.values(_ALL, repository_id=repository_id)]


_LIST = Statement(
    sa.select(_tags.c.name)
    .where(_HERE, _tags.c.name > bindparam("last"), _tags.c.list_enabled)
    .order_by(_tags.c.name)
    .limit(LIMIT)
)


def list_tags(tx: Transaction, repository_id: int, n: int, last: str | None) -> list[str]:
    """Names in byte order, without hidden ones."""
    # No name is empty, so all of them come after the empty one.
    return tx.values(_LIST, repository_id=repository_id, last=last or "", limit=n)


_LIST_NAMED = Statement(
    sa.select(_tags.c.name)
    .where(
        _tags.c.repository_id
        == sa.select(_repositories.c.id)
        .where(_repositories.c.name == bindparam("repository"))
        .scalar_subquery(),
        _tags.c.name > bindparam("last"),
        _tags.c.list_enabled,
    )
    .order_by(_tags.c.name)
    .limit(LIMIT)
)


def tags_named(name: RepositoryName, n: int, last: str | None) -> Question[list[str]]:
    """As list_tags, of the repository of this name; none if there is no such repository."""
    rows = yield Ask(_LIST_NAMED, {"repository": name, "last": last or "", "limit": n})
    return [row[0] for row in rows]


class TagThere(NamedTuple):
    """A tag that is there before a push."""

    manifest_id: int
    # The rules for tags that are written once, as they are stored: asked for in the same breath,
    # and only if there is a tag to which they might apply.
    immutable_tags: str | None


_rules = (
    sa.select(cleaning.policies.c.document)
    .where(cleaning.policies.c.name == policies.IMMUTABLE_TAGS)
    .scalar_subquery()
)
_TARGET = Statement(sa.select(_tags.c.manifest_id, _rules).where(_THIS_ONE))


def find_tag(tx: Transaction, repository_id: int, tag: Tag) -> TagThere | None:
    """What the tag points to; None if it is not there. The caller has locked the repository."""
    row = tx.row(_TARGET, repository_id=repository_id, name=tag)
    return None if row is None else TagThere(*row)


_INSERT = Statement.insert(
    _tags, ("repository_id", "name", "manifest_id", "created_at", "updated_at")
)
_MOVE = Statement(
    _tags.update()
    .where(_THIS_ONE)
    .values(manifest_id=bindparam("manifest_id"), updated_at=bindparam("updated_at"))
)


def put_tag(
    tx: Transaction,
    repository_id: int,
    tag: Tag,
    manifest_id: int,
    now: datetime,
    there: TagThere | None,
) -> bool:
    """Point the tag to the manifest; whether it is new, and still to be counted (count_push).

    `there` is what find_tag has said in this transaction.

    Its time of update moves even if it pointed there before: then it was pushed again, and a
    cleanup by age must see that (azure.md section 2.5).
    """
    at = to_micros(now)
    this = {"repository_id": repository_id, "name": tag}
    if there is None:
        tx.change(_INSERT, **this, manifest_id=manifest_id, created_at=at, updated_at=at)
        return True
    tx.change(_MOVE, **this, manifest_id=manifest_id, updated_at=at)
    if there.manifest_id != manifest_id:
        touch_manifest(tx, there.manifest_id, now)
    return False


_TARGET_NAMED = Statement(
    sa.select(_manifests.c.id, _manifests.c.digest)
    .join(_tags, _tags.c.manifest_id == _manifests.c.id)
    .where(_THIS_ONE)
)
_DELETE = Statement(_tags.delete().where(_THIS_ONE))


def delete_tag(tx: Transaction, repository_id: int, tag: Tag, now: datetime) -> Digest | None:
    """Remove the tag and nothing else; what it pointed to, None if there was no such tag."""
    row = tx.row(_TARGET_NAMED, repository_id=repository_id, name=tag)
    if row is None:
        return None
    tx.change(_DELETE, repository_id=repository_id, name=tag)
    add_to_repository(tx, repository_id, tag_count=-1)
    touch_manifest(tx, row[0], now)
    touch_repository(tx, repository_id, now)
    return Digest(row[1])


_TOUCH = Statement(_tags.update().where(_THIS_ONE).values(updated_at=bindparam("updated_at")))


def touch_tag(tx: Transaction, repository_id: int, tag: Tag, now: datetime) -> None:
    """Its attributes changed."""
    tx.change(_TOUCH, repository_id=repository_id, name=tag, updated_at=to_micros(now))
