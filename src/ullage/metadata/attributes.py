"""Attributes: which repositories, tags and manifests may be deleted, written, read and listed.

Each of the three kinds has its own four switches (acr-contract 5.4). What is locked may not be
deleted: `delete_enabled` or `write_enabled` is off on it, or on a tag of a manifest, or
`write_enabled` on its repository. Whoever asks in order to write holds the repository's row, and so
does whoever changes a switch: an answer stays true until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Literal, NamedTuple

import sqlalchemy as sa

from ullage.metadata import schema
from ullage.metadata.database import Transaction, chunks
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag

_repositories = schema.repositories
_manifests = schema.manifests
_tags = schema.tags

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


def _lock_of(kind: Kind, name: str, delete_enabled: bool, write_enabled: bool) -> Lock | None:
    if not write_enabled:
        return Lock(kind, name, "write_enabled")
    return None if delete_enabled else Lock(kind, name, "delete_enabled")


# --- reading --------------------------------------------------------------------------------------


def of_repository(tx: Transaction, repository_id: int) -> Attributes:
    """A repository's own switches. It exists, and the caller knows its id."""
    row = tx.execute(_OF_REPOSITORY, {"id": repository_id}).one()
    return Attributes(*row)


_OF_REPOSITORY = sa.select(*attribute_columns(_repositories)).where(
    _repositories.c.id == sa.bindparam("id")
)


def of_manifest(tx: Transaction, manifest_id: int) -> Attributes:
    """A manifest's own switches; those of its tags are others."""
    query = sa.select(*attribute_columns(_manifests)).where(_manifests.c.id == manifest_id)
    return Attributes(*tx.execute(query).one())


def of_tags(tx: Transaction, repository_id: int, tags: Collection[Tag]) -> dict[Tag, Attributes]:
    """The switches of those of these tags that exist."""
    found: dict[Tag, Attributes] = {}
    for some in chunks(sorted(tags)):
        query = sa.select(_tags.c.name, *attribute_columns(_tags)).where(
            _tags.c.repository_id == repository_id, _tags.c.name.in_(some)
        )
        found.update((Tag(row[0]), Attributes(*row[1:])) for row in tx.execute(query))
    return found


def locks_on(tx: Transaction, manifest_ids: Collection[int]) -> dict[int, Lock]:
    """Which of these manifests may not be deleted, of whichever repositories, and why not.

    One lock for each: its repository's (`write_enabled`; `delete_enabled` of a repository protects
    only the repository itself), else its own, else that of the first locked tag on it.
    """
    locks: dict[int, Lock] = {}
    for some in chunks(sorted(manifest_ids)):
        for manifest_id, lock in _repository_locks(tx, some):
            locks.setdefault(manifest_id, lock)
        for manifest_id, lock in _own_locks(tx, some):
            locks.setdefault(manifest_id, lock)
        for manifest_id, lock in _tag_locks(tx, some):
            locks.setdefault(manifest_id, lock)
    return locks


def _repository_locks(tx: Transaction, ids: Collection[int]) -> list[tuple[int, Lock]]:
    query = (
        sa.select(_manifests.c.id, _repositories.c.name)
        .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
        .where(_manifests.c.id.in_(ids), _repositories.c.write_enabled.is_(sa.false()))
    )
    return [(row[0], Lock("repository", row[1], "write_enabled")) for row in tx.execute(query)]


def _own_locks(tx: Transaction, ids: Collection[int]) -> list[tuple[int, Lock]]:
    columns = (_manifests.c.digest, _manifests.c.delete_enabled, _manifests.c.write_enabled)
    query = sa.select(_manifests.c.id, *columns).where(
        _manifests.c.id.in_(ids), schema.locked(_manifests)
    )
    return _named_locks(tx, query, "manifest")


def _tag_locks(tx: Transaction, ids: Collection[int]) -> list[tuple[int, Lock]]:
    columns = (_tags.c.name, _tags.c.delete_enabled, _tags.c.write_enabled)
    query = (
        sa.select(_tags.c.manifest_id, *columns)
        .where(_tags.c.manifest_id.in_(ids), schema.locked(_tags))
        .order_by(_tags.c.name)
    )
    return _named_locks(tx, query, "tag")


def _named_locks(
    tx: Transaction, query: sa.Select[tuple[int, str, bool, bool]], kind: Kind
) -> list[tuple[int, Lock]]:
    found = [(row[0], _lock_of(kind, row[1], row[2], row[3])) for row in tx.execute(query)]
    return [(manifest_id, lock) for manifest_id, lock in found if lock is not None]


def first_lock_in(tx: Transaction, repository_id: int) -> Lock | None:
    """A locked manifest or tag of the repository, if there is one; an index has them at hand."""
    kinds: tuple[tuple[Kind, sa.Table, sa.Column[str]], ...] = (
        ("manifest", _manifests, _manifests.c.digest),
        ("tag", _tags, _tags.c.name),
    )
    for kind, table, name in kinds:
        row = tx.execute(
            sa.select(name, table.c.delete_enabled, table.c.write_enabled)
            .where(table.c.repository_id == repository_id, schema.locked(table))
            .limit(1)
        ).first()
        if row is not None:
            return _lock_of(kind, row[0], row[1], row[2])
    return None


# --- changing -------------------------------------------------------------------------------------


def set_of_repository(tx: Transaction, repository_id: int, changes: AttributeChanges) -> bool:
    """Set switches; False if they were so already. The caller holds the repository's row."""
    return _set(tx, _repositories, changes, _repositories.c.id == repository_id)


def set_of_manifest(
    tx: Transaction, repository_id: int, digest: Digest, changes: AttributeChanges
) -> bool:
    """As set_of_repository."""
    here = (_manifests.c.repository_id == repository_id, _manifests.c.digest == digest)
    return _set(tx, _manifests, changes, *here)


def set_of_tag(tx: Transaction, repository_id: int, tag: Tag, changes: AttributeChanges) -> bool:
    """As set_of_repository."""
    return _set(tx, _tags, changes, _tags.c.repository_id == repository_id, _tags.c.name == tag)


def _set(
    tx: Transaction, table: sa.Table, changes: AttributeChanges, *where: sa.ColumnElement[bool]
) -> bool:
    given = changes.given()
    if not given:
        return False
    differs = sa.or_(*(table.c[name] != value for name, value in given.items()))
    return bool(tx.execute(table.update().where(*where, differs).values(given)).rowcount)


def forget_of_empty_repository(tx: Transaction, repository_id: int) -> None:
    """Whoever pushes to a name whose repository was deleted gets one with nothing switched off.

    Its row may have stayed for an upload session's or a lease's sake.
    """
    all_on = dict.fromkeys(ATTRIBUTES, True)
    tx.execute(
        _repositories.update()
        .where(_repositories.c.id == repository_id, _repositories.c.manifest_count == 0)
        .where(sa.or_(*(column.is_(sa.false()) for column in attribute_columns(_repositories))))
        .values(all_on)
    )
