"""Deleting: what goes along, what stays, and which bytes come back (docs/design/deletion.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

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
from ullage.services import Caller, Registry, locks


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
    due_at = now + registry.limits.read_grace

    def remove(tx: Transaction) -> Deleted:
        repository_id = _require_repository(tx, name)
        root = content.find_manifests(tx, repository_id, [digest]).get(digest)
        if root is None:
            raise ManifestUnknown(
                {"Name": name, "Revision": digest}, f"manifest {digest} is not found"
            )
        _require_no_parent(tx, root)
        going = what_goes_along(tx, repository_id, root)
        locks.require_deletable(tx, name, [row.id for row in going])
        if len(going) == content.count_manifests(tx, repository_id):
            # The repository goes with the last image in it.
            locks.require_repository_deletable(tx, repository_id, name, emptied=True)
        tags = content.tags_of(tx, [row.id for row in going])
        released = _remove(tx, registry, repository_id, going)
        failpoint("delete.in_transaction")
        content.touch_repository(tx, repository_id, now)
        content.drop_repository_if_empty(tx, repository_id)
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

    def _remove(
        tx: Transaction, registry: Registry, repository_id: int, going: list[ManifestRow]
    ) -> Released:
        references = content.blobs_of(tx, [row.id for row in going])
        content.lock_blobs(tx, references.keys(), to_drop=True)
        content.remove_manifests(tx, repository_id, going, references)
        return reclaim.release_links(
            tx, registry.leases, repository_id, references.keys(), now=now, due_at=due_at
        )

    deleted = registry.write(remove, freeing=True)
    failpoint("delete.after_row")
    registry.wake()
    return deleted


def what_goes_along(tx: Transaction, repository_id: int, root: ManifestRow) -> list[ManifestRow]:
    """`root`, its referrers and the children that nothing else holds, and theirs, and so on.

    A referrer goes with its subject, tagged or not, unless a live index lists it. A child stays if
    it has a tag of its own, another live parent, or a live subject. Each round looks again at what
    an earlier one kept: its last holder may have joined those that go.
    """
    going = {root.id: root}
    as_child: dict[int, ManifestRow] = {}
    as_referrer: dict[int, ManifestRow] = {}
    frontier = [root]
    while frontier:
        digests = [row.digest for row in frontier]
        for row in content.referrers_of(tx, repository_id, digests):
            as_referrer[row.id] = row
        for row in content.children_of(tx, [row.id for row in frontier]):
            as_child[row.id] = row
        candidates = {
            manifest_id: row
            for manifest_id, row in (as_child | as_referrer).items()
            if manifest_id not in going
        }
        held = _held(tx, repository_id, candidates, as_referrer.keys(), going)
        frontier = [row for row in candidates.values() if row.id not in held]
        going.update((row.id, row) for row in frontier)
    return list(going.values())


def _held(
    tx: Transaction,
    repository_id: int,
    candidates: dict[int, ManifestRow],
    referrers: Iterable[int],
    going: dict[int, ManifestRow],
) -> set[int]:
    """Which candidates something keeps that does not go itself."""
    held = {
        child
        for child, parents in content.parents_of(tx, candidates.keys()).items()
        if not parents.keys() <= going.keys()
    }
    children_only = {
        manifest_id: row
        for manifest_id, row in candidates.items()
        if manifest_id not in set(referrers)
    }
    held |= content.tagged_among(tx, children_only.keys())
    subjects = {row.subject for row in children_only.values() if row.subject is not None}
    living = content.find_manifests(tx, repository_id, subjects)
    for manifest_id, row in children_only.items():
        subject = living.get(row.subject) if row.subject is not None else None
        if subject is not None and subject.id not in going:
            held.add(manifest_id)
    return held


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
