"""Soft delete, switched on, and what a repository is: for tests of undoing."""

from __future__ import annotations

from typing import Any

from tests.support.cleaning import wait_days
from tests.support.registry import ALICE, settle
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.database.transaction import Transaction
from ullage.deletion.soft_delete import set_policy
from ullage.oci.digest import Digest
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.queries.content.manifests import all_digests, find_manifests
from ullage.registry.queries.content.remove_manifests import blobs_of, children_of, tags_of
from ullage.registry.queries.content.repositories import find_repository
from ullage.restore.deleted import expire_operations, list_operations
from ullage.restore.documents import Operation
from ullage.usage import usage


def soft(registry: Registry, days: int = 7) -> None:
    set_policy(registry, ALICE, enabled=True, days=days)


def hard(registry: Registry) -> None:
    set_policy(registry, ALICE, enabled=False)


def operations(registry: Registry) -> list[Operation]:
    return list_operations(registry, WITHOUT_ACCOUNTS, 1000, None).items


def stands(registry: Registry, name: str = "app") -> dict[str, Any]:
    """All that clients can see of a repository: digests, where tags point, what indexes list."""

    def read(tx: Transaction) -> dict[str, Any]:
        repository_id = find_repository(tx, parse_repository_name(name))
        if repository_id is None:
            return {}
        digests = all_digests(tx, repository_id)
        rows = find_manifests(tx, repository_id, digests)
        found: dict[str, Any] = {digest: [] for digest in digests}
        for digest, row in rows.items():
            found[digest] = [
                sorted(tags_of(tx, [row.id])),
                sorted(child.digest for child in children_of(tx, [row.id])),
                sorted(blobs_of(tx, [row.id])),
            ]
        return found

    return registry.read(read)


def stored(registry: Registry) -> int:
    """Bytes in the store, when the worker has done all there is to do."""
    settle(registry)
    wait_days(registry, 1 / 1440)
    settle(registry)
    return sum(found.size for found in registry.blobs.list())


def expire(registry: Registry) -> int:
    """Free whatever is over; how many operations that was."""
    count = 0
    while expire_operations(registry):
        count += 1
    return count


def assert_explained(registry: Registry) -> None:
    """The bill adds up to the disk, with what is soft-deleted shown as such."""
    bill = usage.registry_totals(registry)
    parts = (bill.tagged_bytes, bill.untagged_bytes, bill.leased_bytes, bill.soft_deleted_bytes)
    assert min(parts) >= 0
    assert sum(parts) + bill.uploading_bytes + bill.pending_bytes == bill.disk_bytes
    total, unexplained = usage.unexplained(registry)
    assert (total, unexplained) == (bill.disk_bytes, 0)
    for lines in (usage.by_repository(registry, WITHOUT_ACCOUNTS), usage.by_namespace(registry)):
        assert sum(line.fair_share_bytes for line in lines) == sum(parts)


def one_tag(registry: Registry, tag: str, name: str = "app") -> Digest | None:
    for digest, (tags, _, _) in stands(registry, name).items():
        if tag in tags:
            return Digest(digest)
    return None
