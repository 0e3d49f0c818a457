"""Deleting: what goes along, what stays, and which bytes come back (docs/design/deletion.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ullage.failpoints import failpoint
from ullage.metadata import content, reclaim
from ullage.metadata.content import ManifestRow
from ullage.metadata.database import Transaction
from ullage.metadata.reclaim import Released
from ullage.oci.digest import Digest
from ullage.oci.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    OperationDisallowed,
)
from ullage.oci.reference import RepositoryName, Tag
from ullage.services import Caller, Registry, holds, locks
from ullage.services.closure import StoredGraph, what_goes


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion took away. Bytes in `leased_bytes` come back when a pusher's lease ends."""

    manifests: tuple[Digest, ...] = ()
    tags: tuple[Tag, ...] = ()
    freed_bytes: int = 0
    leased_bytes: int = 0


def delete_tag(registry: Registry, name: RepositoryName, tag: Tag, caller: Caller) -> Digest:
    """Remove the tag and nothing else: the manifest stays and can be pulled by digest.

    Returns that digest. Raises NameUnknown, ManifestUnknown, Locked.
    """
    now = registry.now()

    def remove(tx: Transaction) -> Digest:
        repository_id = _require_repository(tx, name)
        locks.require_tag_deletable(tx, repository_id, name, tag)
        holds.require_unheld(holds.covered(tx, repository_id, now).of_tag(tag), name)
        digest = content.delete_tag(tx, repository_id, tag, now)
        if digest is None:
            raise ManifestUnknown(
                {"Name": name, "Tag": tag}, f'manifest tagged by "{tag}" is not found'
            )
        registry.audit(tx, caller, "tag.delete", repository=name, target=tag)
        failpoint("delete.in_transaction")
        return digest

    digest = registry.write(remove, freeing=True)
    failpoint("delete.after_row")
    return digest


def delete_manifest(
    registry: Registry, name: RepositoryName, digest: Digest, caller: Caller
) -> Deleted:
    """Remove an image: the manifest, its tags, its referrers, and children that only it holds.

    Raises NameUnknown, ManifestUnknown, OperationDisallowed if a live index lists it, Locked if it
    or something that would go along is locked, or if it is the last in a repository that is.
    """
    now = registry.now()

    def remove(tx: Transaction) -> Deleted:
        repository_id = _require_repository(tx, name)
        root = content.find_manifests(tx, repository_id, [digest]).get(digest)
        if root is None:
            raise ManifestUnknown(
                {"Name": name, "Revision": digest}, f"manifest {digest} is not found"
            )
        _require_no_parent(tx, root)
        going = what_goes(StoredGraph(tx, repository_id), [root]).rows()
        locks.require_deletable(tx, name, [row.id for row in going])
        holds.require_none_held(tx, repository_id, name, [row.id for row in going], now)
        if len(going) == content.count_manifests(tx, repository_id):
            # The repository goes with the last image in it.
            locks.require_repository_deletable(tx, repository_id, name, emptied=True)
        tags = content.tags_of(tx, [row.id for row in going])
        references = content.blobs_of(tx, [row.id for row in going])
        released = take_away(tx, registry, repository_id, going, references, now)
        failpoint("delete.in_transaction")
        deleted = Deleted(
            tuple(row.digest for row in going),
            tuple(tags),
            released.freed_bytes,
            released.leased_bytes,
        )
        registry.audit(
            tx,
            caller,
            "manifest.delete",
            repository=name,
            target=digest,
            detail=dataclasses.asdict(deleted),
        )
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
) -> Released:
    """Remove manifests with all that hangs on them, and give back what nothing needs any more.

    The caller holds the repository's row and has decided; `references` is content.blobs_of() them.
    """
    content.lock_blobs(tx, references.keys(), to_drop=True)
    content.remove_manifests(tx, repository_id, rows, references)
    released = reclaim.release_links(
        tx,
        registry.leases,
        repository_id,
        references.keys(),
        now=now,
        due_at=now + registry.limits.read_grace,
    )
    content.touch_repository(tx, repository_id, now)
    content.drop_repository_if_empty(tx, repository_id)
    return released


def delete_blob(
    registry: Registry, name: RepositoryName, digest: Digest, caller: Caller
) -> Deleted:
    """Take a blob out of a repository.

    Raises BlobUnknown, OperationDisallowed if it is in use, Locked.
    """
    now = registry.now()

    def remove(tx: Transaction) -> Released:
        repository_id = content.lock_repository(tx, name)
        if repository_id is None:
            raise BlobUnknown({"digest": digest})
        locks.require_writable(tx, repository_id, name)
        holds.require_unheld(holds.covered(tx, repository_id, now).whole, name)
        content.lock_blobs(tx, [digest], to_drop=True)
        if digest not in content.linked_among(tx, repository_id, [digest]):
            raise BlobUnknown({"digest": digest})
        if content.referenced_among(tx, repository_id, [digest]):
            raise OperationDisallowed(
                {"digest": digest},
                "a manifest of this repository refers to this blob; delete the manifest instead",
            )
        released = reclaim.release_links(
            tx,
            registry.leases,
            repository_id,
            [digest],
            now=now,
            due_at=now + registry.limits.read_grace,
            # Somebody asks for exactly this blob to go; a push that counts on it uploads it again.
            despite_leases=True,
        )
        failpoint("delete.in_transaction")
        content.drop_repository_if_empty(tx, repository_id)
        detail = {"freed_bytes": released.freed_bytes}
        registry.audit(tx, caller, "blob.delete", repository=name, target=digest, detail=detail)
        return released

    released = registry.write(remove, freeing=True)
    failpoint("delete.after_row")
    registry.wake()
    return Deleted(freed_bytes=released.freed_bytes)


def delete_repository(registry: Registry, name: RepositoryName, caller: Caller) -> Deleted:
    """Remove a repository with everything in it; which manifests and tags that were, sorted.

    It is gone for everybody at once; the worker takes its contents apart in batches, so that even a
    huge one does not keep pushes waiting. How many bytes that frees is not known yet.
    Raises NameUnknown, Locked if it or anything in it is locked.
    """
    now = registry.now()

    def mark(tx: Transaction) -> Deleted:
        repository_id = _require_repository(tx, name)
        locks.require_repository_deletable(tx, repository_id, name)
        holds.require_unheld(holds.covered(tx, repository_id, now).first(), name)
        deleted = Deleted(
            tuple(content.all_digests(tx, repository_id)),
            tuple(content.all_tags(tx, repository_id)),
        )
        reclaim.mark_deleted(tx, repository_id, now)
        registry.audit(tx, caller, "repository.delete", repository=name)
        failpoint("delete.in_transaction")
        return deleted

    deleted = registry.write(mark, freeing=True)
    failpoint("repository.delete.after_mark")
    registry.wake()
    return deleted


def _require_repository(tx: Transaction, name: RepositoryName) -> int:
    repository_id = content.lock_repository(tx, name)
    if repository_id is None or not content.repository_exists(tx, name):
        raise NameUnknown({"name": name})
    return repository_id


def _require_no_parent(tx: Transaction, root: ManifestRow) -> None:
    parents = sorted(content.parents_of(tx, [root.id]).get(root.id, {}).values())
    if parents:
        raise OperationDisallowed(
            {"digest": root.digest, "parents": parents[:10]},
            f"{root.digest} is part of the index {parents[0]}; delete that one instead",
        )
