"""Giving a repository a blob, by upload or by mount: link, lease, and the review afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.leases.lease import Grant
from ullage.registry.locks import attribute_locks
from ullage.registry.queries.content.absent_parts import find_blobs
from ullage.registry.queries.content.blobs import (
    NewBlobLink,
    link_blobs,
    linked_among,
    lock_blobs,
    referenced_among,
)
from ullage.registry.queries.content.repositories import (
    ensure_repository,
    find_readable_repository,
)
from ullage.registry.queries.reclaim.reviews import schedule_reviews_of


def link_and_lease(
    tx: Transaction,
    registry: Registry,
    links: Mapping[NewBlobLink, Caller],
    now: datetime,
) -> None:
    """Link blobs in their repositories and promise each to its pusher.

    Until a manifest refers to one, it has to be reviewed when the promise ends.
    """
    made = link_blobs(tx, [*links], now)
    grants = [Grant(*link[:2], caller.pusher) for link, caller in links.items()]
    until = registry.leases.grant(tx, grants, now)
    unused = {link[:2]: until for link in links if not _is_needed(tx, link, made.get(link[:2]))}
    schedule_reviews_of(tx, unused)


def _is_needed(tx: Transaction, link: NewBlobLink, missed: bool | None) -> bool:
    """Whether a manifest refers to it. `missed`: for a link that was made (link_blobs)."""
    if missed is None:
        return bool(referenced_among(tx, link.repository_id, [link.digest]))
    # Nothing in the repository can refer to what it did not link until now, but may miss it.
    return missed and bool(find_blobs(tx, link.repository_id, [link.digest]))


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
        link = NewBlobLink(repository_id, digest, sizes[digest])
        link_and_lease(tx, registry, {link: caller}, now)
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
