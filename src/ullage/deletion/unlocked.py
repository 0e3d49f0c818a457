"""What of a deletion may go: locks of either kind and deployments, of anything it takes along."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.deletion.closure import (
    Closure,
    Graph,
    KeepReason,
    KeptBy,
    Member,
    Why,
    what_goes,
)
from ullage.oci.reference import RepositoryName
from ullage.registry.locks import attribute_locks, image_locks, immutable_tags
from ullage.registry.locks.deployed import Deployed
from ullage.registry.locks.image_locks import Protection
from ullage.registry.queries import attributes
from ullage.registry.queries.content.manifests import ManifestRow
from ullage.registry.queries.content.repositories import (
    count_manifests,
)


def unlocked(
    tx: Transaction,
    name: RepositoryName,
    repository_id: int,
    roots: list[ManifestRow],
    graph: Graph,
    now: datetime,
    despite: Collection[int] = (),
) -> Closure:
    """What goes with those of `roots` that no lock forbids to delete: on them or what goes along.

    A deletion takes all of an image or nothing, so a locked part keeps the whole of it. Locks on
    the manifests `despite` which the caller deletes do not count; those with a reason always do,
    and so do immutable tags and that something is deployed.
    """
    covered = image_locks.covered(tx, repository_id, now)
    immutable = immutable_tags.in_force(tx, name)
    locked: dict[int, tuple[Member, tuple[KeptBy, ...]]] = {}
    while True:
        closure = what_goes(graph, roots)
        found = attributes.locks_on(tx, closure.going.keys() - set(despite))
        of = roots_of(closure) if found else {}
        blamed = {of[id_]: attribute_locks.described(name, lock) for id_, lock in found.items()}
        reasons = covered.of(closure.going.keys())
        by_rule = immutable_tags.on_manifests(tx, immutable, closure.going.keys())
        of = of or (roots_of(closure) if reasons or by_rule else {})
        kept = {of[id_]: reason for id_, reason in reasons.items()}
        fixed = {of[id_]: words for id_, words in by_rule.items()}
        if (
            not blamed
            and not kept
            and not fixed
            and len(closure.going) == count_manifests(tx, repository_id)
        ):
            # The repository would go with the last image in it.
            own = attribute_locks.lock_of_repository(tx, repository_id, name)
            blamed = {row.id: attribute_locks.described(name, own) for row in roots} if own else {}
        if not blamed and not kept and not fixed:
            return Closure(closure.going, {**closure.kept, **locked})
        for row in roots:
            keeping = [kept_by(kept[row.id])] if row.id in kept else []
            keeping += [KeptBy(KeepReason.LOCK, blamed[row.id])] if row.id in blamed else []
            keeping += [KeptBy(KeepReason.IMMUTABLE, fixed[row.id])] if row.id in fixed else []
            if keeping:
                locked[row.id] = (Member(row, Why.ASKED), tuple(keeping))
        roots = [row for row in roots if row.id not in locked]


def kept_by(protection: Protection) -> KeptBy:
    """A lock with a reason, or a source of deployments, as what keeps a manifest."""
    deployed = isinstance(protection, Deployed)
    kind = KeepReason.DEPLOYED if deployed else KeepReason.HOLD
    return KeptBy(kind, image_locks.in_words(protection))


def roots_of(closure: Closure) -> dict[int, int]:
    """What was asked for that reaches each manifest that goes."""
    ids = {member.row.digest: id_ for id_, member in closure.going.items()}
    roots: dict[int, int] = {}
    # What is reached comes after what it is reached from.
    for id_, member in closure.going.items():
        roots[id_] = id_ if member.of is None else roots[ids[member.of]]
    return roots
