"""Giving a repository a blob: the link, the lease that protects it, the look at it afterwards."""

from __future__ import annotations

from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.context import Caller, Registry
from ullage.registry.queries.content.blobs import link_blob, referenced_among
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

    Until a manifest refers to it, somebody has to look at it again when the promise ends. A new
    blob comes `counted` (reclaim.adopt_blob).
    """
    new = link_blob(tx, repository_id, digest, size, now, counted=counted)
    until = registry.leases.grant(tx, repository_id, digest, caller.holder, now)
    # Nothing in the repository can refer to what it did not link until now.
    if new or not referenced_among(tx, repository_id, [digest]):
        schedule_review(tx, repository_id, digest, until)
