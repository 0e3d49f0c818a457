"""Repositories: found, locked, made, counted and removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import cleaning, content, space
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.errors import NameUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.queries import attributes
from ullage.registry.queries.counters import add_to_counters

_repositories = content.repositories

_NAMED = sa.select(_repositories.c.id).where(given(_repositories, "name"))
_THIS_ONE = _repositories.c.id == bindparam("repository_id")


class RepositoryForUpdate(NamedTuple):
    """A repository whose row the caller has locked, so that it stays what it is."""

    id: int
    name: RepositoryName
    write_enabled: bool


_FIND = Statement(_NAMED)


def find_repository(tx: Transaction, name: RepositoryName) -> int | None:
    """The repository's id, also while there is nothing in it but upload sessions."""
    found: int | None = tx.value(_FIND, name=name)
    return found


_FIND_READABLE = Statement(_NAMED.where(_repositories.c.read_enabled))


def find_readable_repository(tx: Transaction, name: RepositoryName) -> int | None:
    """As find_repository, if its contents may be pulled."""
    found: int | None = tx.value(_FIND_READABLE, name=name)
    return found


_NAME_OF = Statement(sa.select(_repositories.c.name).where(given(_repositories, "id")))


def name_of_repository(tx: Transaction, repository_id: int) -> RepositoryName | None:
    """None if it is not there, or was deleted."""
    name = tx.value(_NAME_OF, id=repository_id)
    return None if name is None else RepositoryName(name)


_EXISTS = Statement(_NAMED.where(_repositories.c.manifest_count > 0))


def repository_exists(tx: Transaction, name: RepositoryName) -> bool:
    """Whether there is a manifest in it: only then does a repository exist for clients."""
    return tx.row(_EXISTS, name=name) is not None


def require_repository(tx: Transaction, name: RepositoryName) -> int:
    """The id of a repository with a manifest in it. Raises NameUnknown."""
    found = find_repository(tx, name)
    if found is None or not repository_exists(tx, name):
        raise NameUnknown({"name": name})
    return found


_LOCK = Statement(_NAMED.with_for_update(key_share=True))


def lock_repository(tx: Transaction, name: RepositoryName) -> int | None:
    """Find the repository and keep every other writer out of it until the transaction ends."""
    found: int | None = tx.value(_LOCK, name=name)
    return found


_LOCK_ROW = Statement(
    sa.select(_repositories.c.id)
    .where(_THIS_ONE, _repositories.c.name.is_not(None))
    .with_for_update(key_share=True)
)


def lock_repository_id(tx: Transaction, repository_id: int) -> bool:
    """As lock_repository, for one that may have been deleted meanwhile: then False."""
    return tx.row(_LOCK_ROW, repository_id=repository_id) is not None


_LOCK_UNERASED = Statement(
    sa.select(_repositories.c.id)
    .where(_THIS_ONE, _repositories.c.deleted_at.is_(None))
    .with_for_update(key_share=True)
)


def lock_unerased_repository(tx: Transaction, repository_id: int) -> bool:
    """As lock_repository_id, also for one that is hidden because it was deleted softly."""
    return tx.row(_LOCK_UNERASED, repository_id=repository_id) is not None


class RepositoryToDelete(NamedTuple):
    """A repository that the caller has locked, and what there is to know before a deletion."""

    id: int
    manifest_count: int
    # The policy of that name as it is stored, for it is asked for in the same breath.
    soft_delete: str | None


_policy = (
    sa.select(cleaning.policies.c.document)
    .where(cleaning.policies.c.name == "soft-delete")
    .scalar_subquery()
)
_LOCK_TO_DELETE = Statement(
    sa.select(_repositories.c.id, _repositories.c.manifest_count, _policy)
    .where(given(_repositories, "name"))
    .with_for_update(key_share=True, of=_repositories)
)


def lock_to_delete(tx: Transaction, name: RepositoryName) -> RepositoryToDelete | None:
    """As lock_repository, for one with a manifest: only then does it exist for clients."""
    row = tx.row(_LOCK_TO_DELETE, name=name)
    return RepositoryToDelete(*row) if row is not None and row[1] > 0 else None


_COUNT = Statement(sa.select(_repositories.c.manifest_count).where(_THIS_ONE))


def count_manifests(tx: Transaction, repository_id: int) -> int:
    return int(tx.value(_COUNT, repository_id=repository_id))


_INSERT = Statement.insert(
    _repositories,
    ("name", "created_at", "updated_at"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["name"]),
)


_LOCK_NAMED = Statement(
    sa.select(_repositories.c.id, _repositories.c.write_enabled)
    .where(given(_repositories, "name"))
    .with_for_update(key_share=True)
)
_LOCK_ALL_NAMED = Statement(
    sa.select(*_repositories.c["id", "name", "write_enabled"])
    .where(among(_repositories.c.name, "names"))
    .order_by(_repositories.c.name)
    .with_for_update(key_share=True)
)


def ensure_repository(tx: Transaction, name: RepositoryName, now: datetime) -> RepositoryForUpdate:
    """Find and lock the repository, or make it."""
    # Others may make it and remove it again between any two statements.
    while (row := tx.row(_LOCK_NAMED, name=name)) is None:
        tx.change(_INSERT, name=name, created_at=to_micros(now), updated_at=to_micros(now))
    return RepositoryForUpdate(row[0], name, bool(row[1]))


def lock_repositories(
    tx: Transaction, names: Collection[RepositoryName]
) -> dict[RepositoryName, RepositoryForUpdate]:
    """Lock those of these repositories that exist, in the order of their names."""
    return {
        RepositoryName(name): RepositoryForUpdate(id_, RepositoryName(name), bool(write_enabled))
        for id_, name, write_enabled in tx.rows(_LOCK_ALL_NAMED, names=names)
    }


_DROP_IF_UNUSED = Statement(
    _repositories.delete().where(
        _THIS_ONE,
        *(
            ~sa.exists().where(given(table, "repository_id"))
            for table in (content.manifests, content.repo_blobs, space.uploads)
        ),
    )
)


def drop_repository_if_empty(tx: Transaction, repository_id: int) -> bool:
    """Remove the row of a repository that nothing refers to any more; whether it is gone.

    While an upload session or a lease lives (a lease keeps its link), the row stays, so that a
    first push that races with the last delete succeeds.
    """
    if tx.change(_DROP_IF_UNUSED, repository_id=repository_id):
        return True
    attributes.forget_of_empty_repository(tx, repository_id)
    return False


_COUNTED = ("manifest_count", "tag_count", "manifest_bytes", "blob_bytes")
_ADD = Statement(
    _repositories.update()
    .where(_THIS_ONE)
    .values({name: _repositories.c[name] + bindparam(name) for name in _COUNTED})
)


def add_to_repository(
    tx: Transaction,
    repository_id: int,
    *,
    manifest_count: int = 0,
    tag_count: int = 0,
    manifest_bytes: int = 0,
    blob_bytes: int = 0,
) -> None:
    """Add to a repository's counters."""
    tx.change(
        _ADD,
        repository_id=repository_id,
        manifest_count=manifest_count,
        tag_count=tag_count,
        manifest_bytes=manifest_bytes,
        blob_bytes=blob_bytes,
    )


_PUSHED = ("manifest_count", "manifest_bytes", "tag_count")
_COUNT_PUSH = Statement(
    _repositories.update()
    .where(_THIS_ONE)
    .values(
        updated_at=bindparam("updated_at"),
        **{name: _repositories.c[name] + bindparam(name) for name in _PUSHED},
    )
)


def count_push(
    tx: Transaction, repository_id: int, new: Sequence[int], new_tags: int, now: datetime
) -> None:
    """`new` manifests of these sizes came, and tags. To be called last, as add_to_counters."""
    counts = {"manifest_count": len(new), "manifest_bytes": sum(new)}
    tx.change(
        _COUNT_PUSH,
        repository_id=repository_id,
        tag_count=new_tags,
        updated_at=to_micros(now),
        **counts,
    )
    add_to_counters(tx, repository_id, **counts)


_ADD_BLOB_BYTES = Statement.text(
    "UPDATE repositories SET blob_bytes = blob_bytes + :size WHERE id = :id",
    in_sets="""UPDATE repositories SET blob_bytes = blob_bytes + added.size
    FROM unnest(CAST(:id AS bigint[]), CAST(:size AS bigint[])) AS added (id, size)
    WHERE repositories.id = added.id""",
)


def add_blob_bytes(tx: Transaction, sizes: Mapping[int, int]) -> None:
    """Add to the sizes of repositories, by their ids; the caller has locked them."""
    tx.many(_ADD_BLOB_BYTES, [{"id": id_, "size": size} for id_, size in sorted(sizes.items())])


_TOUCH = Statement(
    _repositories.update().where(_THIS_ONE).values(updated_at=bindparam("updated_at"))
)


def touch_repository(tx: Transaction, repository_id: int, now: datetime) -> None:
    """A manifest, tag or attribute in it changed."""
    tx.change(_TOUCH, repository_id=repository_id, updated_at=to_micros(now))


_VISIBLE = sa.select(_repositories.c.name).where(
    _repositories.c.manifest_count > 0,
    _repositories.c.list_enabled,
    _repositories.c.name > bindparam("last"),
)
_IN_ORDER = _VISIBLE.order_by(_repositories.c.name).limit(LIMIT)
_LIST_NAMED = Statement(_IN_ORDER.where(among(_repositories.c.name, "names")))
_LIST_BETWEEN = Statement(
    _IN_ORDER.where(
        _repositories.c.name > bindparam("low"), _repositories.c.name < bindparam("high")
    )
)


def list_repositories(
    tx: Transaction, n: int, last: str | None, patterns: Collection[str] | None = None
) -> list[str]:
    """Names in byte order, without hidden ones.

    With `patterns` (names, or prefixes ending in "/*") only such ones.
    """
    names, ranges = names_and_ranges({"*"} if patterns is None else patterns)
    place = {"last": last or "", "limit": n}
    found = set(tx.values(_LIST_NAMED, names=names, **place)) if names else set()
    for low, high in ranges:
        found.update(tx.values(_LIST_BETWEEN, low=low, high=high, **place))
    return sorted(found)[:n]


def names_and_ranges(patterns: Collection[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Names, and what others are between, so that an index finds them and no character is special.

    A prefix "a/*" is what lies between "a/" and "a0"; "*" is everything.
    """
    names = [pattern for pattern in patterns if pattern != "*" and not pattern.endswith("/*")]
    prefixes = sorted(pattern[:-1] for pattern in patterns if pattern.endswith("/*"))
    ranges = [(prefix, prefix[:-1] + chr(ord("/") + 1)) for prefix in prefixes]
    return names, ranges if "*" not in patterns else [("", chr(0x10FFFF))]
