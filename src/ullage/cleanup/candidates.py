"""Choosing what a cleanup takes of a repository (azure.md section 4.2, deletion.md section 2).

Nothing here changes anything. What is chosen is looked at again when it is deleted (job/batch.py).

Only what nothing leads to is a candidate: no tag, no index that is there, no subject that is there.
So what a locked index lists, or what refers to a live image, never is. What goes along with a
candidate is what would go if it were deleted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from ullage.cleanup.filters import tag_goes
from ullage.cleanup.guardrails import RepositoryShare
from ullage.cleanup.queries import candidates
from ullage.cleanup.queries.candidates import Candidate, TagCandidate
from ullage.cleanup.queries.jobs import Item, ItemKind
from ullage.database.transaction import Transaction
from ullage.deletion.closure import Closure, KeepReason, KeptBy, StoredGraph, Why
from ullage.deletion.unlocked import kept_by, unlocked
from ullage.oci.attached import image_named_in
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.patterns import Matches
from ullage.registry.context import Registry
from ullage.registry.locks import image_locks, immutable_tags
from ullage.registry.locks.image_locks import NOTHING, Covered
from ullage.registry.locks.immutable_tags import ImmutableTags
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests

PAGE = 1000
# Behind every moment that is written down.
FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TagScope:
    """Which tags go: those that match, were updated before the cutoff, behind the newest."""

    matches: Matches
    cutoff: datetime
    keep: int = 0


@dataclass(frozen=True, slots=True)
class OrphanScope:
    """Which manifests go, of those that nothing leads to."""

    cutoff: datetime
    keep: int = 0
    # Only those that were updated since.
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What to take of one repository. What tags leave behind goes with the orphans."""

    tags: Sequence[TagScope] = ()
    orphans: OrphanScope | None = None
    include_locked: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that would have gone, but for a lock, a rule, or that it is deployed."""

    repository: RepositoryName
    digest: Digest
    tags: tuple[Tag, ...]
    by: KeptBy


def _not_reported(kept: Kept) -> None:
    """What stays is of no interest."""


@dataclass(slots=True)
class Selection:
    """What is chosen so far."""

    # What is locked with a reason or deployed, what rules make immutable, and what takes note of
    # what stays.
    covered: Covered
    immutable: ImmutableTags
    stays: Callable[[Kept], None] = _not_reported
    tags: set[Tag] = field(default_factory=set)
    # How many of a manifest's tags go.
    losing: dict[int, int] = field(default_factory=dict)
    manifests: int = 0


# What of all that keeps a manifest is for people to lift.
_LOCKS = (KeepReason.LOCK, KeepReason.HOLD, KeepReason.IMMUTABLE, KeepReason.DEPLOYED)


class _GraphWithout(StoredGraph):
    """A repository as it will be without some of its tags."""

    def __init__(self, tx: Transaction, repository_id: int, tags: Collection[Tag]) -> None:
        super().__init__(tx, repository_id)
        self._without = tags

    def tags(self, ids: Collection[int]) -> Mapping[int, Sequence[Tag]]:
        left = {
            id_: [tag for tag in tags if tag not in self._without]
            for id_, tags in super().tags(ids).items()
        }
        return {id_: tags for id_, tags in left.items() if tags}

    def tagged(self, tags: Collection[Tag]) -> Mapping[Tag, ManifestRow]:
        return super().tagged([tag for tag in tags if tag not in self._without])


def choose(
    registry: Registry,
    repository_id: int,
    name: RepositoryName,
    scope: Scope,
    add: Callable[[Item], None],
    *,
    named: bool,
    stays: Callable[[Kept], None] = _not_reported,
) -> RepositoryShare | None:
    """Hand everything that goes to `add`, tags first; None if the repository is not there.

    What locks keep is handed to `stays`. Reads page by page, so that no transaction is long.
    """
    sums = registry.read(lambda tx: candidates.sums(tx, repository_id))
    if sums is None:
        return None
    taken = _selection(registry, repository_id, name, stays)
    if sums.writable:
        for tag_scope in scope.tags:
            wanted = _tags(registry, repository_id, name, tag_scope, scope.include_locked, taken)
            for tag in islice(wanted, tag_scope.keep, None):
                if tag.name in taken.tags:
                    continue
                add(_tag_item(repository_id, name, tag))
                taken.tags.add(tag.name)
                taken.losing[tag.manifest_id] = taken.losing.get(tag.manifest_id, 0) + 1
        if scope.orphans is not None:
            _choose_orphans(registry, repository_id, name, scope, taken, add)
    return RepositoryShare(
        name, sums.manifests, taken.manifests, sums.tags, len(taken.tags), named=named
    )


def take(
    registry: Registry,
    repository_id: int,
    name: RepositoryName,
    tags: Sequence[TagCandidate],
    orphans: Sequence[Candidate],
    add: Callable[[Item], None],
) -> int:
    """Hand tags to `add` that were decided about, and manifests: how many these are.

    Along with the tags go the images that lose their last one by it.
    """
    taken = _selection(registry, repository_id, name)
    for tag in tags:
        if taken.covered.of_tag(tag.name, tag.manifest_id) or taken.immutable.of(tag.name):
            continue
        add(_tag_item(repository_id, name, tag))
        taken.tags.add(tag.name)
        taken.losing[tag.manifest_id] = taken.losing.get(tag.manifest_id, 0) + 1
    bared = registry.read(
        lambda tx: list(candidates.left_alone(tx, repository_id, FAR_FUTURE, taken.losing))
    )
    found = [*orphans, *bared]
    by_rule = _immutable(registry, taken, found)
    free = [each for each in found if not each.locked and each.id not in by_rule]
    compound = [each for each in free if not each.alone]
    for each in free:
        if each.alone:
            add(_manifest_item(repository_id, name, each))
            taken.manifests += 1
    if compound:
        _choose_compound(registry, repository_id, name, Scope(), taken, compound, add)
    return taken.manifests


def _selection(
    registry: Registry,
    repository_id: int,
    name: RepositoryName,
    stays: Callable[[Kept], None] = _not_reported,
) -> Selection:
    """Nothing is chosen yet."""

    def read(tx: Transaction) -> Selection:
        covered = image_locks.covered(tx, repository_id, registry.now())
        return Selection(covered, immutable_tags.in_force(tx, name), stays)

    return registry.read(read)


def _immutable(
    registry: Registry, taken: Selection, found: Collection[Candidate]
) -> Mapping[int, str]:
    """Which of these an immutable tag keeps: one such as `sha256-….sig`, which alone keeps none."""
    if not taken.immutable:
        return {}
    ids = [each.id for each in found]
    return registry.read(lambda tx: immutable_tags.on_manifests(tx, taken.immutable, ids))


# --- tags -----------------------------------------------------------------------------------------


def _tags(
    registry: Registry,
    repository_id: int,
    name: RepositoryName,
    scope: TagScope,
    include_locked: bool,
    taken: Selection,
) -> Iterator[TagCandidate]:
    """Every tag that may go, newest first."""
    after: TagCandidate | None = None
    while True:
        page = registry.read(
            lambda tx, after=after: candidates.tag_page(  # type: ignore[misc]
                tx, repository_id, scope.cutoff, after, PAGE
            )
        )
        wanted = [
            tag
            for tag in page
            if tag_goes(
                tag.name,
                tag.updated_at,
                locked=False,
                cutoff=scope.cutoff,
                matches=scope.matches,
            )
        ]
        eligible: list[TagCandidate] = []
        for tag in without_attached(registry, repository_id, wanted):
            lock = taken.covered.of_tag(tag.name, tag.manifest_id)
            by_rule = taken.immutable.of(tag.name)
            if lock is not None:
                taken.stays(Kept(name, tag.digest, (tag.name,), kept_by(lock)))
            elif by_rule is not None:
                by = KeptBy(KeepReason.IMMUTABLE, by_rule)
                taken.stays(Kept(name, tag.digest, (tag.name,), by))
            elif tag.locked and not include_locked:
                by = KeptBy(KeepReason.LOCK, f"tag '{tag.name}' is locked")
                taken.stays(Kept(name, tag.digest, (tag.name,), by))
            else:
                eligible.append(tag)
        yield from eligible
        if len(page) < PAGE:
            return
        after = page[-1]


def without_attached(
    registry: Registry, repository_id: int, tags: list[TagCandidate]
) -> list[TagCandidate]:
    """Signatures in tags such as sha256-….sig live as long as their image (cosign#507)."""
    images = {tag.name: image_named_in(tag.name) for tag in tags}
    wanted = {digest for digest in images.values() if digest is not None}
    if not wanted:
        return tags
    there = registry.read(lambda tx: candidates.digests_there(tx, repository_id, wanted))
    return [tag for tag in tags if images[tag.name] not in there]


def _tag_item(repository_id: int, name: RepositoryName, tag: TagCandidate) -> Item:
    return Item(repository_id, name, "tag", tag.name, tag.digest, tag.manifest_id, tag.updated_at)


# --- manifests ------------------------------------------------------------------------------------


def _choose_orphans(
    registry: Registry,
    repository_id: int,
    name: RepositoryName,
    scope: Scope,
    taken: Selection,
    add: Callable[[Item], None],
) -> None:
    assert scope.orphans is not None
    compound: list[Candidate] = []
    found = _orphans(registry, repository_id, scope.orphans, taken)
    free = _movable(registry, found, name, taken) if taken.immutable else found
    eligible = _unlocked(free, name, taken, scope.include_locked)
    for candidate in islice(eligible, scope.orphans.keep, None):
        if not candidate.alone:
            compound.append(candidate)
            continue
        add(_manifest_item(repository_id, name, candidate))
        taken.manifests += 1
    if compound:
        _choose_compound(registry, repository_id, name, scope, taken, compound, add)


def _movable(
    registry: Registry, found: Iterator[Candidate], name: RepositoryName, taken: Selection
) -> Iterator[Candidate]:
    """Those without an immutable tag."""
    while some := list(islice(found, PAGE)):
        by_rule = _immutable(registry, taken, some)
        for each in some:
            if each.id in by_rule:
                by = KeptBy(KeepReason.IMMUTABLE, by_rule[each.id])
                taken.stays(Kept(name, each.digest, (), by))
            else:
                yield each


def _unlocked(
    found: Iterator[Candidate], name: RepositoryName, taken: Selection, include_locked: bool
) -> Iterator[Candidate]:
    for each in found:
        locks = taken.covered.of([each.id]) if taken.covered is not NOTHING else {}
        if locks:
            taken.stays(Kept(name, each.digest, (), kept_by(locks[each.id])))
        elif each.locked and not include_locked:
            by = KeptBy(KeepReason.LOCK, f"manifest '{each.digest}' is locked")
            taken.stays(Kept(name, each.digest, (), by))
        else:
            yield each


def _orphans(
    registry: Registry, repository_id: int, scope: OrphanScope, taken: Selection
) -> Iterator[Candidate]:
    """What nothing leads to, now or without the tags that go, newest first."""
    bared = registry.read(
        lambda tx: list(candidates.left_alone(tx, repository_id, scope.cutoff, taken.losing))
    )
    key = _newest_first
    return heapq.merge(
        _orphan_pages(registry, repository_id, scope),
        sorted(bared, key=key, reverse=True),
        key=key,
        reverse=True,
    )


def _newest_first(candidate: Candidate) -> tuple[datetime, str]:
    return candidate.updated_at, candidate.digest


def _orphan_pages(
    registry: Registry, repository_id: int, scope: OrphanScope
) -> Iterator[Candidate]:
    after: Candidate | None = None
    while True:
        page = registry.read(
            lambda tx, after=after: candidates.orphan_page(  # type: ignore[misc]
                tx, repository_id, scope.cutoff, after, PAGE, scope.since
            )
        )
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1]


def _manifest_item(repository_id: int, name: RepositoryName, candidate: Candidate) -> Item:
    return Item(
        repository_id,
        name,
        "manifest",
        None,
        candidate.digest,
        candidate.id,
        candidate.updated_at,
    )


def _choose_compound(
    registry: Registry,
    repository_id: int,
    name: RepositoryName,
    scope: Scope,
    taken: Selection,
    roots: list[Candidate],
    add: Callable[[Item], None],
) -> None:
    """Indexes and what others refer to, with all that goes along, as one moment has it."""

    def read(tx: Transaction) -> tuple[Closure, dict[int, candidates.Standing]]:
        rows = find_manifests(tx, repository_id, [root.digest for root in roots])
        graph = _GraphWithout(tx, repository_id, taken.tags)
        despite = [row.id for row in rows.values()] if scope.include_locked else []
        ordered = [rows[root.digest] for root in roots if root.digest in rows]
        closure = unlocked(tx, name, repository_id, ordered, graph, registry.now(), despite)
        return closure, candidates.standing(tx, closure.going.keys())

    closure, standing = registry.snapshot(read)
    for member, keeping in closure.kept.values():
        locks = [each for each in keeping if each.kind in _LOCKS]
        if locks:
            taken.stays(Kept(name, member.row.digest, (), locks[0]))
    for id_, member in closure.going.items():
        kind: ItemKind = "manifest" if member.why is Why.ASKED else "along"
        digest, seen_at = member.row.digest, standing[id_].updated_at
        add(Item(repository_id, name, kind, None, digest, id_, seen_at))
    taken.manifests += len(closure.going)
