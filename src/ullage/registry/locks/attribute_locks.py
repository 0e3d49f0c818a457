"""Refusing what a lock forbids, in the transaction that would do it (azure.md section 5.4).

The caller has locked the repository's row, as a request that sets an attribute does: one set before
is seen, and one set later comes after what it would have refused.
"""

from __future__ import annotations

from collections.abc import Collection

from ullage.database.transaction import Transaction
from ullage.oci.errors import Locked
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries import attributes
from ullage.registry.queries.attributes import Lock
from ullage.registry.queries.content.repositories import RepositoryForUpdate

# As Azure's API spells them.
WORDS = {
    "delete_enabled": "deleteEnabled",
    "write_enabled": "writeEnabled",
    "read_enabled": "readEnabled",
    "list_enabled": "listEnabled",
}


def locked(repository: RepositoryName, lock: Lock) -> Locked:
    """What to raise, saying what is locked."""
    return Locked(described(repository, lock))


def described(repository: RepositoryName, lock: Lock) -> str:
    """What is locked, in words."""
    where = "" if lock.kind == "repository" else f" of repository '{repository}'"
    return f"{WORDS[lock.attribute]} is false on {lock.kind} '{lock.name}'{where}"


def require_writable(tx: Transaction, repository_id: int, name: RepositoryName) -> None:
    """Raises Locked if nothing in the repository may change."""
    require(name, writable=attributes.of_repository(tx, repository_id).write_enabled)


def require_row_writable(repository: RepositoryForUpdate) -> None:
    """As require_writable, of what is known already."""
    require(repository.name, writable=repository.write_enabled)


def require(name: RepositoryName, *, writable: bool) -> None:
    """Raises Locked if the repository is not."""
    if not writable:
        raise locked(name, Lock("repository", name, "write_enabled"))


def require_deletable(tx: Transaction, name: RepositoryName, manifest_ids: Collection[int]) -> None:
    """Raises Locked if one of these manifests, a tag on one, or their repository is locked."""
    locks = attributes.locks_on(tx, manifest_ids)
    for manifest_id in manifest_ids:
        if manifest_id in locks:
            raise locked(name, locks[manifest_id])


def require_repository_deletable(
    tx: Transaction, repository_id: int, name: RepositoryName, *, emptied: bool = False
) -> None:
    """Raises Locked if the repository or, unless it is `emptied`, anything in it is locked."""
    lock = lock_of_repository(tx, repository_id, name)
    if lock is None and not emptied:
        lock = attributes.first_lock_in(tx, repository_id)
    if lock is not None:
        raise locked(name, lock)


def lock_of_repository(tx: Transaction, repository_id: int, name: RepositoryName) -> Lock | None:
    """What keeps the repository itself, whatever is in it."""
    own = attributes.of_repository(tx, repository_id)
    if not own.write_enabled:
        return Lock("repository", name, "write_enabled")
    return None if own.delete_enabled else Lock("repository", name, "delete_enabled")


def require_tags_writable(
    tx: Transaction, repository_id: int, name: RepositoryName, tags: Collection[Tag]
) -> None:
    """Raises Locked if one of these tags is there and may not be moved."""
    for tag, own in attributes.of_tags(tx, repository_id, tags).items():
        if not own.write_enabled:
            raise locked(name, Lock("tag", tag, "write_enabled"))


def require_tag_deletable(
    tx: Transaction, repository_id: int, name: RepositoryName, tag: Tag
) -> None:
    """Raises Locked if the tag is there and may not be taken away."""
    require_writable(tx, repository_id, name)
    own = attributes.of_tags(tx, repository_id, [tag]).get(tag)
    if own is not None and not (own.delete_enabled and own.write_enabled):
        switch = "delete_enabled" if own.write_enabled else "write_enabled"
        raise locked(name, Lock("tag", tag, switch))


def require_manifest_writable(
    tx: Transaction, name: RepositoryName, manifest_id: int, digest: str
) -> None:
    """Raises Locked if the manifest may not be pushed again."""
    if not attributes.of_manifest(tx, manifest_id).write_enabled:
        raise locked(name, Lock("manifest", digest, "write_enabled"))
