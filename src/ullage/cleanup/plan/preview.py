"""What a deletion would do at this moment: the common ground of plans and of carrying them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ullage.cleanup.guardrails import Caps, RepositoryShare
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.closure import (
    Closure,
    Member,
    StoredGraph,
    Why,
)
from ullage.deletion.forecast import Fate, Outcome, forecast, forecast_whole, total
from ullage.deletion.soft_delete import SoftDelete
from ullage.deletion.unlocked import unlocked
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks, image_locks, immutable_tags
from ullage.registry.pull.pull_log import pulled_words, pullers
from ullage.registry.pull.user_agents import RECENTLY
from ullage.registry.queries import attributes, pulls, uploads
from ullage.registry.queries.content.blobs import lock_blobs
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests
from ullage.registry.queries.content.remove_manifests import blobs_of
from ullage.registry.queries.content.repositories import require_repository
from ullage.registry.queries.references import repositories as repositories_queries
from ullage.registry.queries.references.manifests import all_manifests, tagged, tags_on
from ullage.usage.queries import usage


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is to be deleted: whole repositories, or digests and tags of one."""

    repositories: tuple[RepositoryName, ...] = ()
    repository: RepositoryName | None = None
    digests: tuple[Digest, ...] = ()
    tags: tuple[Tag, ...] = ()
    caps: Caps = field(default_factory=Caps)
    # A filter or a program made the list, so that no person has read it.
    computed: bool = False

    def names(self) -> tuple[RepositoryName, ...]:
        """Every repository this is about."""
        return self.repositories if self.repository is None else (self.repository,)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a deletion would do now."""

    # Each repository's name, id and what goes and stays in it.
    closures: list[tuple[RepositoryName, int, Closure]]
    tags: dict[int, list[Tag]]
    # What each blob loses, and what becomes of it.
    references: Mapping[Digest, int]
    fates: list[Fate]
    parts: list[RepositoryShare]
    absent: list[str]
    # Open sessions, where whole repositories go: they stay, under the same names.
    uploads: int
    # Whole repositories that stay, with everything in them, and why.
    locked: Mapping[RepositoryName, str]
    # Whether it could be taken back, and as of when this was found out.
    policy: SoftDelete
    at: datetime
    # What of it was pulled lately, and when last.
    pulled: Mapping[int, datetime] = field(default_factory=dict)
    # Of blobs that nothing else needs, which have no fate of their own here.
    alone_bytes: int = 0
    # Of whole repositories: which gives up how much of what comes back.
    shares: Mapping[int, int] = field(default_factory=dict)

    @property
    def restorable_until(self) -> datetime | None:
        return self.policy.until(self.at) if self.policy.enabled else None

    @property
    def freed_bytes(self) -> int:
        return total(self.fates, Outcome.FREED) + (0 if self.policy.enabled else self.alone_bytes)

    @property
    def later_bytes(self) -> int:
        return total(self.fates, Outcome.LATER) + (self.alone_bytes if self.policy.enabled else 0)


def preview_of(
    tx: Transaction,
    registry: Registry,
    wanted: PlanRequest,
    now: datetime,
    *,
    to_delete: bool = False,
) -> Preview:
    """What deleting `wanted` would do, as of this transaction.

    `to_delete` locks the blobs until it ends. Raises NameUnknown.
    """
    policy = soft_delete.find_policy(tx)
    if wanted.repository is None:
        return _look_at_whole(tx, registry, wanted.repositories, now, policy)
    name = wanted.repository
    repository_id = require_repository(tx, name)
    roots, absent = _roots(tx, repository_id, wanted)
    closure = unlocked(tx, name, repository_id, roots, StoredGraph(tx, repository_id), now)
    references = blobs_of(tx, closure.going.keys())
    if to_delete:
        lock_blobs(tx, references.keys(), to_drop=True)
    tags = tags_on(tx, closure.going.keys() | closure.kept.keys())
    pulled = _pulled_lately(tx, closure, now)
    return Preview(
        closures=[(name, repository_id, closure)],
        tags=tags,
        references=references,
        fates=soft_delete.kept_fates(
            forecast(tx, registry.leases, repository_id, references, now), policy, now
        ),
        parts=[_part(tx, name, repository_id, closure, tags, pulled)],
        absent=absent,
        uploads=0,
        locked={},
        policy=policy,
        at=now,
        pulled=pulled,
    )


def _pulled_lately(tx: Transaction, closure: Closure, now: datetime) -> dict[int, datetime]:
    """What goes of what seems to be in use, and when it was pulled last."""
    last = pulls.of_manifests(tx, closure.going.keys(), pullers(tx).counted)
    return {id_: at for id_, at in last.items() if at >= now - RECENTLY}


def _look_at_whole(
    tx: Transaction,
    registry: Registry,
    names: Sequence[RepositoryName],
    now: datetime,
    policy: SoftDelete,
) -> Preview:
    closures: list[tuple[RepositoryName, int, Closure]] = []
    tags: dict[int, list[Tag]] = {}
    parts: list[RepositoryShare] = []
    sessions = 0
    locked: dict[RepositoryName, str] = {}
    pulled: dict[int, datetime] = {}
    for name in sorted(set(names)):
        repository_id = require_repository(tx, name)
        lock = attribute_locks.lock_of_repository(tx, repository_id, name)
        lock = lock or attributes.first_lock_in(tx, repository_id)
        with_reason = image_locks.covered(tx, repository_id, now).first()
        by_rule = immutable_tags.first_in(tx, repository_id, immutable_tags.in_force(tx, name))
        if with_reason is not None:
            locked[name] = image_locks.in_words(with_reason)
        elif lock is not None:
            locked[name] = attribute_locks.described(name, lock)
        elif by_rule is not None:
            locked[name] = by_rule
        if name in locked:
            closures.append((name, repository_id, Closure({}, {})))
            parts.append(_part(tx, name, repository_id, Closure({}, {}), {}, {}))
            continue
        rows = all_manifests(tx, repository_id)
        closure = Closure({row.id: Member(row, Why.REPOSITORY) for row in rows}, {})
        closures.append((name, repository_id, closure))
        own_tags: dict[int, list[Tag]] = {}
        for manifest_id, tag in usage.tags_in(tx, repository_id):
            own_tags.setdefault(manifest_id, []).append(tag)
        tags |= own_tags
        own_pulled = _pulled_lately(tx, closure, now)
        pulled |= own_pulled
        parts.append(_part(tx, name, repository_id, closure, own_tags, own_pulled))
        sessions += uploads.count_uploads_in(tx, repository_id)
    ids = frozenset(id_ for name, id_, _ in closures if name not in locked)
    found = forecast_whole(tx, registry.leases, ids, now)
    return Preview(
        closures,
        tags,
        found.references,
        soft_delete.kept_fates(found.fates, policy, now),
        parts,
        [],
        sessions,
        locked,
        policy,
        now,
        pulled,
        found.alone_bytes,
        found.parts,
    )


def _roots(
    tx: Transaction, repository_id: int, wanted: PlanRequest
) -> tuple[list[ManifestRow], list[str]]:
    """The manifests that were asked for, by digest or by tag, and what there is not.

    Raises ManifestUnknown if there is none at all.
    """
    by_tag = tagged(tx, repository_id, wanted.tags)
    by_digest = find_manifests(tx, repository_id, wanted.digests)
    absent: list[str] = [digest for digest in wanted.digests if digest not in by_digest]
    absent += [tag for tag in wanted.tags if tag not in by_tag]
    roots = {row.id: row for row in (*by_digest.values(), *by_tag.values())}
    if absent and not roots:
        raise ManifestUnknown({"name": wanted.repository, "unknown": absent[:10]})
    return list(roots.values()), absent


def _part(
    tx: Transaction,
    name: RepositoryName,
    repository_id: int,
    closure: Closure,
    tags: Mapping[int, Sequence[Tag]],
    pulled: Mapping[int, datetime],
) -> RepositoryShare:
    share, going = repositories_queries.share(tx, repository_id), closure.going.keys()
    last = max(pulled, key=lambda id_: (pulled[id_], id_), default=None)
    return RepositoryShare(
        repository=name,
        manifests=share.manifests,
        manifests_going=len(going),
        tags=share.tags,
        tags_going=sum(len(tags.get(manifest_id, ())) for manifest_id in going),
        newest_going=share.newest_tag if share.newest_manifest_id in going else None,
        pulled_going=len(pulled),
        pulled="" if last is None else pulled_words(closure.going[last].row.digest, pulled[last]),
    )
