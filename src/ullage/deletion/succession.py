"""What pushers were promised in a repository outlives its deletion (deletion.md race R16).

The name is taken away in one transaction. What a push has been promised by then (an upload that was
acknowledged, a HEAD answered 200, a mount) and what it has open (upload sessions) lives on under
the same name: in a new repository without manifests, which is in no list. So its manifest is
accepted; or the promises end, and the bytes come back as those of any other push that never ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.deletion.queries.successors import copy_links, has_uploads, move_uploads
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry
from ullage.registry.leases.lease import Link
from ullage.registry.queries.content.blobs import lock_blobs
from ullage.registry.queries.content.repositories import (
    drop_repository_if_empty,
    ensure_repository,
)
from ullage.registry.queries.reclaim.reviews import schedule_reviews
from ullage.registry.queries.references.links import promised_links


def found_successors(
    tx: Transaction, registry: Registry, gone: Mapping[RepositoryName, int], now: datetime
) -> None:
    """Give what was promised in repositories, whose names were just taken away, new ones."""
    promised = {id_: registry.leases.leave(tx, id_, now) for id_ in gone.values()}
    links = {id_: promised_links(tx, id_, promised[id_]) for id_ in gone.values()}
    # The blobs of all of them after all repositories, and in one order, as every transaction does.
    lock_blobs(tx, {link.digest for some in links.values() for link in some})
    for name, id_ in gone.items():
        if links[id_] or promised[id_].digests or has_uploads(tx, id_):
            successor_id = ensure_repository(tx, name, now).id
            _hand_over(tx, registry, id_, successor_id, links[id_], now)
            # Promises that have ended, or were of nothing: then none is needed.
            drop_repository_if_empty(tx, successor_id)


def give_way(
    tx: Transaction, registry: Registry, repository_id: int, successor_id: int, now: datetime
) -> None:
    """Let a repository take over what was promised in one whose name was just taken away."""
    links = promised_links(tx, repository_id, registry.leases.leave(tx, repository_id, now))
    _hand_over(tx, registry, repository_id, successor_id, links, now)


def _hand_over(
    tx: Transaction,
    registry: Registry,
    repository_id: int,
    successor_id: int,
    links: Collection[Link],
    now: datetime,
) -> None:
    leased = registry.leases.peek(tx, links, now)
    until = {link.digest: end for link, end in leased.items()}
    copy_links(tx, repository_id, successor_id, until.keys())
    registry.leases.follow(tx, repository_id, successor_id)
    schedule_reviews(tx, successor_id, until)
    move_uploads(tx, repository_id, successor_id)
