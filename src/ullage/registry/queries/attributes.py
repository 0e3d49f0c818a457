"""Attributes: which repositories, tags and manifests may be deleted, written, read and listed.

Each of the three kinds has its own four switches (azure.md section 5.4). What is locked may not be
deleted: `delete_enabled` or `write_enabled` is off on it, or on a tag of a manifest, or
`write_enabled` on its repository. A transaction that asks in order to write has locked the
repository's row, and so has one that changes a switch: an answer stays true until it ends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Literal, NamedTuple

import sqlalchemy as sa

from ullage.database.schema import base, content
from ullage.database.statements import Statement, among, given
from ullage.database.transaction import Row, Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags

Kind = Literal["repository", "manifest", "tag"]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is allowed; `delete_enabled` alone still allows writing, `write_enabled` is for both."""

    delete_enabled: bool = True
    write_enabled: bool = True
    read_enabled: bool = True
    list_enabled: bool = True


@dataclass(frozen=True, slots=True)
class AttributeChanges:
    """Switches to set; None leaves one as it is."""

    delete_enabled: bool | None = None
    write_enabled: bool | None = None
    read_enabled: bool | None = None
    list_enabled: bool | None = None

    def given(self) -> dict[str, bool]:
        """Those that are not None, by column."""
        return {name: value for name, value in asdict(self).items() if value is not None}


ATTRIBUTES = tuple(field.name for field in fields(Attributes))


class Lock(NamedTuple):
    """What forbids an operation: a repository, manifest or tag, and which of its switches."""

    kind: Kind
    # The repository's name, the manifest's digest, or the tag.
    name: str
    attribute: str


def attribute_columns(table: sa.Table) -> list[sa.Column[bool]]:
    """A table's switches in the order of `Attributes`."""
    return [table.c[name] for name in ATTRIBUTES]


def attributes_of(row: Row) -> Attributes:
    """From a row that begins with the columns of attribute_columns."""
    return Attributes(bool(row[0]), bool(row[1]), bool(row[2]), bool(row[3]))


def _lock_of(kind: Kind, name: str, delete_enabled: bool, write_enabled: bool) -> Lock | None:
    if not write_enabled:
        return Lock(kind, name, "write_enabled")
    return None if delete_enabled else Lock(kind, name, "delete_enabled")


# --- reading --------------------------------------------------------------------------------------


_OF_REPOSITORY = Statement(
    sa.select(*attribute_columns(_repositories)).where(given(_repositories, "id"))
)


def of_repository(tx: Transaction, repository_id: int) -> Attributes:
    """A repository's own switches. It exists, and the caller knows its id."""
    return attributes_of(tx.rows(_OF_REPOSITORY, id=repository_id)[0])


_OF_MANIFEST = Statement(sa.select(*attribute_columns(_manifests)).where(given(_manifests, "id")))


def of_manifest(tx: Transaction, manifest_id: int) -> Attributes:
    """A manifest's own switches; those of its tags are others."""
    return attributes_of(tx.rows(_OF_MANIFEST, id=manifest_id)[0])


_OF_TAGS = Statement(
    sa.select(*attribute_columns(_tags), _tags.c.name)
    .where(given(_tags, "repository_id"), among(_tags.c.name, "tags"))
    .order_by(_tags.c.name)
)


def of_tags(tx: Transaction, repository_id: int, tags: Collection[Tag]) -> dict[Tag, Attributes]:
    """The switches of those of these tags that exist."""
    if not tags:
        return {}
    rows = tx.rows(_OF_TAGS, repository_id=repository_id, tags=tags)
    return {Tag(row[4]): attributes_of(row) for row in rows}


def locks_on(tx: Transaction, manifest_ids: Collection[int]) -> dict[int, Lock]:
    """Which of these manifests may not be deleted, of whichever repositories, and why not.

    One lock for each: its repository's (`write_enabled`; `delete_enabled` of a repository protects
    only the repository itself), else its own, else that of the first locked tag on it.
    """
    locks: dict[int, Lock] = {}
    for kind, statement in _LOCKS:
        for manifest_id, name, delete_enabled, write_enabled in tx.rows(
            statement, ids=manifest_ids
        ):
            lock = _lock_of(kind, name, delete_enabled, write_enabled)
            if lock is not None:
                locks.setdefault(manifest_id, lock)
    return locks


# Whose lock counts first comes first.
_LOCKS: tuple[tuple[Kind, Statement], ...] = (
    (
        "repository",
        Statement(
            sa.select(_manifests.c.id, _repositories.c.name, sa.true(), sa.false())
            .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
            .where(among(_manifests.c.id, "ids"), _repositories.c.write_enabled.is_(sa.false()))
        ),
    ),
    (
        "manifest",
        Statement(
            sa.select(*_manifests.c["id", "digest", "delete_enabled", "write_enabled"]).where(
                among(_manifests.c.id, "ids"), base.locked(_manifests)
            )
        ),
    ),
    (
        "tag",
        Statement(
            sa.select(*_tags.c["manifest_id", "name", "delete_enabled", "write_enabled"])
            .where(among(_tags.c.manifest_id, "ids"), base.locked(_tags))
            .order_by(_tags.c.name)
        ),
    ),
)


def _first_lock(table: sa.Table, name: sa.Column[str]) -> Statement:
    return Statement(
        sa.select(name, table.c.delete_enabled, table.c.write_enabled)
        .where(given(table, "repository_id"), base.locked(table))
        .limit(1)
    )


_FIRST_LOCKS: tuple[tuple[Kind, Statement], ...] = (
    ("manifest", _first_lock(_manifests, _manifests.c.digest)),
    ("tag", _first_lock(_tags, _tags.c.name)),
)


def first_lock_in(tx: Transaction, repository_id: int) -> Lock | None:
    """A locked manifest or tag of the repository, if there is one; an index has them at hand."""
    for kind, statement in _FIRST_LOCKS:
        for name, delete_enabled, write_enabled in tx.rows(statement, repository_id=repository_id):
            return _lock_of(kind, name, delete_enabled, write_enabled)
    return None


# --- changing -------------------------------------------------------------------------------------


def _setting(table: sa.Table, *where: sa.ColumnElement[bool]) -> Statement:
    """Set those switches that are given (to_delete_enabled …), unless all of them are so already.

    One that is not given is NULL, which differs from nothing.
    """
    given = {name: sa.bindparam(f"to_{name}", type_=sa.Boolean) for name in ATTRIBUTES}
    return Statement(
        table.update()
        .where(*where, sa.or_(*(table.c[name] != value for name, value in given.items())))
        .values({name: sa.func.coalesce(value, table.c[name]) for name, value in given.items()})
    )


_SET_OF_REPOSITORY = _setting(_repositories, _repositories.c.id == sa.bindparam("repository"))
_SET_OF_MANIFEST = _setting(
    _manifests,
    _manifests.c.repository_id == sa.bindparam("repository"),
    _manifests.c.digest == sa.bindparam("manifest"),
)
_SET_OF_TAG = _setting(
    _tags, _tags.c.repository_id == sa.bindparam("repository"), _tags.c.name == sa.bindparam("tag")
)


def set_of_repository(tx: Transaction, repository_id: int, changes: AttributeChanges) -> bool:
    """Set switches; False if they were so already. The caller has locked the repository's row."""
    return tx.change(_SET_OF_REPOSITORY, repository=repository_id, **_given(changes)) > 0


def set_of_manifest(
    tx: Transaction, repository_id: int, digest: Digest, changes: AttributeChanges
) -> bool:
    """As set_of_repository."""
    these = {"repository": repository_id, "manifest": digest}
    return tx.change(_SET_OF_MANIFEST, **these, **_given(changes)) > 0


def set_of_tag(tx: Transaction, repository_id: int, tag: Tag, changes: AttributeChanges) -> bool:
    """As set_of_repository."""
    return tx.change(_SET_OF_TAG, repository=repository_id, tag=tag, **_given(changes)) > 0


def _given(changes: AttributeChanges) -> dict[str, bool | None]:
    return {f"to_{name}": value for name, value in asdict(changes).items()}


def forget_of_empty_repository(tx: Transaction, repository_id: int) -> None:
    """A push to a name whose repository was deleted makes one with nothing switched off.

    Its row may have stayed for an upload session's or a lease's sake.
    """
    tx.change(_ALL_ON, id=repository_id)


_ALL_ON = Statement(
    _repositories.update()
    .where(given(_repositories, "id"), _repositories.c.manifest_count == 0)
    .where(sa.or_(*(column.is_(sa.false()) for column in attribute_columns(_repositories))))
    .values(dict.fromkeys(ATTRIBUTES, sa.true()))
)
