"""Deleting: what goes along, what stays, and which bytes come back (deletion.md section 2).

While soft delete is on, what goes is kept under an operation, by whose id it can be restored; then
no byte comes back at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.closure import StoredGraph, subjects_of, what_goes
from ullage.deletion.forecast import forecast_whole
from ullage.deletion.queries.operations.repositories import hide_repository
from ullage.deletion.soft_delete import Keeping, SoftDelete
from ullage.deletion.succession import found_successors
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUnknown, ManifestUnknown, NameUnknown, OperationDisallowed
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks, image_locks, immutable_tags
from ullage.registry.queries.content import tags as tags_queries
from ullage.registry.queries.content.blobs import linked_among, lock_blobs, referenced_among
from ullage.registry.queries.content.manifests import ManifestRow, all_digests, find_manifests
from ullage.registry.queries.content.remove_manifests import (
    blobs_of,
    parents_of,
    remove_manifests,
    tags_of,
)
from ullage.registry.queries.content.repositories import (
    count_manifests,
    drop_repository_if_empty,
    lock_repository,
    lock_to_delete,
    touch_repository,
)
from ullage.registry.queries.content.tags import all_tags
from ullage.registry.queries.reclaim.erase_repository import mark_deleted
from ullage.registry.queries.reclaim.release_links import Released, release_links
from ullage.registry.queries.references.links import bytes_in

# The audit log names so many manifests of a repository that was deleted as a whole.
MOST_AUDITED = 1000


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion took away. Bytes in `leased_bytes` come back when a pusher's lease ends.

    If it can be taken back, `operation` is by which id, and `kept_bytes` come back when it is over.
    """

    manifests: tuple[Digest, ...] = ()
    tags: tuple[Tag, ...] = ()
    freed_bytes: int = 0
    leased_bytes: int = 0
    operation: str | None = None
    kept_bytes: int = 0

    @property
    def later_bytes(self) -> int:
        """Bytes that come back later."""
        return self.leased_bytes + self.kept_bytes


@dataclass(frozen=True, slots=True)
class Untagged:
    """What a tag pointed to that was taken away, and by which operation it can be put back."""

    digest: Digest
    operation: str | None = None


def delete_tag(registry: Registry, name: RepositoryName, tag: Tag, caller: Caller) -> Untagged:
    """Remove the tag and nothing else: the manifest stays and can be pulled by digest.

    Raises NameUnknown, ManifestUnknown, Locked; OperationDisallowed if a rule makes it immutable.
    """
    now = registry.now()

    def remove(tx: Transaction) -> Untagged:
        repository_id, policy = _require_repository(tx, name)
        attribute_locks.require_tag_deletable(tx, repository_id, name, tag)
        image_locks.refuse(image_locks.covered(tx, repository_id, now).of_tag(tag), name)
        keeping = _begin(tx, registry, policy, "tag.delete", caller, tag, now)
        if keeping is not None:
            soft_delete.remember_tags(tx, repository_id, name, [tag], keeping)
        digest = tags_queries.delete_tag(tx, repository_id, tag, now)
        if digest is None:
            raise ManifestUnknown(
                {"Name": name, "Tag": tag}, f'manifest tagged by "{tag}" is not found'
            )
        immutable_tags.require_tags_free(tx, name, [tag])
        detail = _kept_under(keeping)
        registry.audit(tx, caller, "tag.delete", repository=name, target=tag, detail=detail)
        failpoint("delete.in_transaction")
        return Untagged(digest, keeping.operation_id if keeping else None)

    untagged = registry.write(remove, freeing=True)
    failpoint("delete.after_row")
    return untagged


def delete_manifest(
    registry: Registry, name: RepositoryName, digest: Digest, caller: Caller
) -> Deleted:
    """Remove an image: the manifest, its tags, its referrers, and children that only it keeps.

    Raises NameUnknown, ManifestUnknown, OperationDisallowed if a live index lists it, or if it
    refers to a living image and the client is one that `protect_referrers` keeps from deleting it,
    or if a rule makes a tag of what would go immutable,
    Locked if it or something that would go along is locked, or if it is the last in a repository
    that is.
    """
    now = registry.now()

    def remove(tx: Transaction) -> Deleted:
        repository_id, policy = _require_repository(tx, name)
        root = find_manifests(tx, repository_id, [digest]).get(digest)
        if root is None:
            raise ManifestUnknown(
                {"Name": name, "Revision": digest}, f"manifest {digest} is not found"
            )
        _require_no_parent(tx, root)
        if _protects_referrers(registry, caller):
            _require_no_subject(tx, repository_id, root)
        going = what_goes(StoredGraph(tx, repository_id), [root]).rows()
        attribute_locks.require_deletable(tx, name, [row.id for row in going])
        image_locks.require_none_locked(tx, repository_id, name, [row.id for row in going], now)
        immutable_tags.require_manifests_free(tx, name, [row.id for row in going])
        if len(going) == count_manifests(tx, repository_id):
            # The repository goes with the last image in it.
            attribute_locks.require_repository_deletable(tx, repository_id, name, emptied=True)
        tags = tags_of(tx, [row.id for row in going])
        references = blobs_of(tx, [row.id for row in going])
        keeping = _begin(tx, registry, policy, "manifest.delete", caller, digest, now)
        released = take_away(tx, registry, repository_id, going, references, now, keeping)
        failpoint("delete.in_transaction")
        deleted = Deleted(
            tuple(row.digest for row in going),
            tuple(tags),
            released.freed_bytes,
            released.leased_bytes,
            keeping.operation_id if keeping else None,
            released.kept_bytes,
        )
        detail = dataclasses.asdict(deleted)
        registry.audit(tx, caller, "manifest.delete", repository=name, target=digest, detail=detail)
        return deleted

    deleted = registry.write(remove, freeing=True)
    failpoint("delete.after_row")
    registry.wake()
    return deleted


def take_away(
    tx: Transaction,
    registry: Registry,
    repository_id: int,
    rows: Sequence[ManifestRow],
    references: Mapping[Digest, int],
    now: datetime,
    keeping: Keeping | None,
) -> Released:
    """Remove manifests with all that hangs on them, and give back what nothing needs any more.

    With `keeping` they can be restored, and nothing is given back. The caller has
    locked the repository's row and has decided; `references` is what blobs_of() said.
    """
    if keeping is not None:
        released = soft_delete.keep_manifests(
            tx, registry, repository_id, rows, references.keys(), keeping, now
        )
    else:
        lock_blobs(tx, references.keys(), to_drop=True)
        remove_manifests(tx, repository_id, rows, references)
        released = release_links(
            tx,
            registry.leases,
            repository_id,
            references.keys(),
            now=now,
            due=registry.due(now),
        )
    touch_repository(tx, repository_id, now)
    drop_repository_if_empty(tx, repository_id)
    return released


def delete_blob(
    registry: Registry, name: RepositoryName, digest: Digest, caller: Caller
) -> Deleted:
    """Take a blob out of a repository.

    Raises BlobUnknown, OperationDisallowed if it is in use, Locked.
    """
    now = registry.now()

    def remove(tx: Transaction) -> Released:
        repository_id = lock_repository(tx, name)
        if repository_id is None:
            raise BlobUnknown({"digest": digest})
        attribute_locks.require_writable(tx, repository_id, name)
        image_locks.refuse(image_locks.covered(tx, repository_id, now).whole, name)
        lock_blobs(tx, [digest], to_drop=True)
        if digest not in linked_among(tx, repository_id, [digest]):
            raise BlobUnknown({"digest": digest})
        if referenced_among(tx, repository_id, [digest]):
            raise OperationDisallowed(
                {"digest": digest},
                "a manifest of this repository refers to this blob; delete the manifest instead",
            )
        released = release_links(
            tx,
            registry.leases,
            repository_id,
            [digest],
            now=now,
            due=registry.due(now),
            # Exactly this blob is asked to go; a push that counts on it uploads it again.
            despite_leases=True,
        )
        failpoint("delete.in_transaction")
        drop_repository_if_empty(tx, repository_id)
        detail = {"freed_bytes": released.freed_bytes}
        registry.audit(tx, caller, "blob.delete", repository=name, target=digest, detail=detail)
        return released

    released = registry.write(remove, freeing=True)
    failpoint("delete.after_row")
    registry.wake()
    return Deleted(freed_bytes=released.freed_bytes)


def delete_repository(registry: Registry, name: RepositoryName, caller: Caller) -> Deleted:
    """Remove a repository with everything in it; which manifests and tags that were, sorted.

    It is gone at once; the worker takes its contents apart in batches, so that even a
    huge one does not keep pushes waiting. With soft delete it stays whole, and hidden.
    Raises NameUnknown, Locked if it or anything in it is locked, OperationDisallowed if a rule
    makes a tag in it immutable.
    """
    now = registry.now()

    def mark(tx: Transaction) -> Deleted:
        repository_id, policy = _require_repository(tx, name)
        attribute_locks.require_repository_deletable(tx, repository_id, name)
        image_locks.refuse(image_locks.covered(tx, repository_id, now).first(), name)
        immutable_tags.require_repository_free(tx, repository_id, name)
        keeping = _begin(tx, registry, policy, "repository.delete", caller, None, now)
        going = forecast_whole(tx, registry.leases, frozenset({repository_id}), now)
        deleted = Deleted(
            tuple(all_digests(tx, repository_id)),
            tuple(all_tags(tx, repository_id)),
            freed_bytes=0 if keeping else going.freed_bytes,
            leased_bytes=going.later_bytes,
            operation=keeping.operation_id if keeping else None,
            kept_bytes=going.freed_bytes if keeping else 0,
        )
        detail = _described(deleted, bytes_in(tx, repository_id))
        take_repositories_away(tx, registry, {name: repository_id}, now, keeping)
        registry.audit(tx, caller, "repository.delete", repository=name, detail=detail)
        failpoint("delete.in_transaction")
        return deleted

    deleted = registry.write(mark, freeing=True)
    failpoint("repository.delete.after_mark")
    registry.wake()
    return deleted


def take_repositories_away(
    tx: Transaction,
    registry: Registry,
    going: Mapping[RepositoryName, int],
    now: datetime,
    keeping: Keeping | None,
) -> None:
    """Make repositories vanish with all in them; the caller has locked their rows and has decided.

    What pushers count on lives on under their names.
    """
    for name, repository_id in going.items():
        if keeping is not None:
            hide_repository(tx, keeping.operation_id, repository_id, name)
        else:
            mark_deleted(tx, repository_id, now)
    found_successors(tx, registry, going, now)


def _begin(
    tx: Transaction,
    registry: Registry,
    policy: SoftDelete,
    kind: str,
    caller: Caller,
    target: str | None,
    now: datetime,
) -> Keeping | None:
    if not policy.enabled:
        return None
    return soft_delete.begin(tx, policy, registry.fresh_key(), kind, caller, target, now)


def _described(deleted: Deleted, stored_bytes: int) -> dict[str, Any]:
    """A whole repository, for the audit log: `bytes` are those of its blobs, shared ones too."""
    described: dict[str, Any] = {
        "manifest_count": len(deleted.manifests),
        "tag_count": len(deleted.tags),
        "bytes": stored_bytes,
        "manifests": deleted.manifests[:MOST_AUDITED],
    }
    return described | ({"operation": deleted.operation} if deleted.operation else {})


def _kept_under(keeping: Keeping | None) -> dict[str, str]:
    """For the audit log."""
    return {"operation": keeping.operation_id} if keeping is not None else {}


def _require_repository(tx: Transaction, name: RepositoryName) -> tuple[int, SoftDelete]:
    found = lock_to_delete(tx, name)
    if found is None:
        raise NameUnknown({"name": name})
    return found.id, soft_delete.of_document(found.soft_delete)


def _require_no_parent(tx: Transaction, root: ManifestRow) -> None:
    parents = sorted(parents_of(tx, [root.id]).get(root.id, {}).values())
    if parents:
        raise OperationDisallowed(
            {"digest": root.digest, "parents": parents[:10]},
            f"{root.digest} is part of the index {parents[0]}; delete that one instead",
        )


def _protects_referrers(registry: Registry, caller: Caller) -> bool:
    """Whether this client may break what it does not know of, and the registry does not let it."""
    protect = registry.limits.protect_referrers
    return protect == "all" or (protect == "az" and caller.is_azure)


def _require_no_subject(tx: Transaction, repository_id: int, root: ManifestRow) -> None:
    named = subjects_of(root, tags_of(tx, [root.id]))
    living = sorted(find_manifests(tx, repository_id, named)) if named else []
    if living:
        raise OperationDisallowed(
            {"digest": root.digest, "subjects": living[:10]},
            f"{root.digest} is a signature, an SBOM or the like of {living[0]}, which is there, "
            "and goes with it; to delete it alone use `ullage plan` and `ullage apply`, cosign, "
            "oras or regctl, or set --protect-referrers none",
        )
