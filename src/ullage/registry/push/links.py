"""Giving a repository a blob, by upload or by mount: link, lease, and the review afterwards."""

from __future__ import annotations

from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks
from ullage.registry.queries.content.absent_parts import find_blobs
from ullage.registry.queries.content.blobs import (
    link_blob,
    linked_among,
    lock_blobs,
    referenced_among,
)
from ullage.registry.queries.content.repositories import (
    ensure_repository,
    find_readable_repository,
)
from ullage.registry.queries.reclaim.reviews import schedule_review


def link_and_lease(
    tx: Transaction,
    registry: Registry,
    repository_id: int,
    digest: Digest,
    size: int,
    caller: Caller,
    now: datetime,
    *,
    counted: bool = False,
) -> None:
    """Link a blob in a repository and promise it to its pusher.

    Until a manifest refers to it, it has to be reviewed when the promise ends. A new blob comes
    `counted` (adopt_blob).
    """
    new = link_blob(tx, repository_id, digest, size, now, counted=counted)
    until = registry.leases.grant(tx, repository_id, digest, caller.pusher, now)
    # Nothing in the repository can refer to what it did not link until now, but may miss it.
    if new is None:
        needed = referenced_among(tx, repository_id, [digest])
    else:
        needed = find_blobs(tx, repository_id, [digest]) if new.missed else set()
    if not needed:
        schedule_review(tx, repository_id, digest, until)


def mount_blob(
    registry: Registry,
    name: RepositoryName,
    source: RepositoryName,
    digest: Digest,
    caller: Caller,
) -> bool:
    """Link a blob of `source` in `name` as well. False if it cannot be: the client then uploads it.

    distribution-spec, "Mounting a blob from another repository". Where nothing may be pulled, there
    is nothing to mount either. Raises Locked if nothing may be pushed here.
    """
    now = registry.now()

    def mount(tx: Transaction) -> None:
        # The repository before the blob, as everywhere; undone if there is nothing to mount.
        repository = ensure_repository(tx, name, now)
        attribute_locks.require_row_writable(repository)
        repository_id = repository.id
        source_id = find_readable_repository(tx, source)
        sizes = lock_blobs(tx, [digest])
        if source_id is None or digest not in sizes:
            raise _NothingToMount
        if digest not in linked_among(tx, source_id, [digest]):
            raise _NothingToMount
        failpoint("mount.in_transaction")
        link_and_lease(tx, registry, repository_id, digest, sizes[digest], caller, now)
        if caller.pusher.asks_source and source_id != repository_id:
            # What it was promised in the source was for this mount.
            registry.leases.redeem(tx, source_id, [digest], caller.pusher)
        detail = {"from": source, "bytes": sizes[digest]}
        registry.audit(tx, caller, "blob.mount", repository=name, target=digest, detail=detail)

    try:
        registry.write(mount)
    except _NothingToMount:
        return False
    failpoint("mount.after_row")
    return True


class _NothingToMount(Exception):
    """Undoes the transaction that found it."""
