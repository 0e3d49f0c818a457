"""What a deletion takes along, and what keeps the rest (deletion.md section 2).

One function decides, for the deletion itself, for plans, and for the bill. It asks a `Graph`, which
is the database, or one repository's manifests in memory where every image is asked about.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests
from ullage.registry.queries.content.remove_manifests import parents_of, referrers_of
from ullage.registry.queries.references import manifests
from ullage.registry.queries.references.manifests import tags_on


class Why(StrEnum):
    """Why a manifest goes, or would have gone."""

    ASKED = "asked"
    CHILD = "child"
    REFERRER = "referrer"
    REPOSITORY = "repository"
    # It stays, and only loses tags.
    UNTAGGED = "untagged"


class KeepReason(StrEnum):
    """What keeps a manifest."""

    INDEX = "index"
    TAG = "tag"
    SUBJECT = "subject"
    LOCK = "lock"
    # A lock with a reason (image_locks.py).
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class KeptBy:
    """One thing that keeps a manifest: an index or subject by digest, a tag, or a lock."""

    kind: KeepReason
    by: str


@dataclass(frozen=True, slots=True)
class Member:
    """A manifest that a deletion reaches; `of` is the one it reached it from."""

    row: ManifestRow
    why: Why
    of: Digest | None = None


@dataclass(frozen=True, slots=True)
class Closure:
    """All that a deletion reaches: what goes, what it belongs to first, and what stays."""

    going: dict[int, Member]
    kept: dict[int, tuple[Member, tuple[KeptBy, ...]]]

    def rows(self) -> list[ManifestRow]:
        """The manifests that go."""
        return [member.row for member in self.going.values()]


class Graph(Protocol):
    """One repository's manifests and what they have to do with each other."""

    def children(self, ids: Collection[int]) -> Iterable[tuple[int, ManifestRow]]:
        """(parent's id, child) for each child of these."""

    def referrers(self, digests: Collection[Digest]) -> Iterable[ManifestRow]:
        """Those with one of these as their subject."""

    def parents(self, ids: Collection[int]) -> Mapping[int, Mapping[int, Digest]]:
        """Which manifests list these: child's id -> {parent's id: its digest}."""

    def tags(self, ids: Collection[int]) -> Mapping[int, Sequence[Tag]]:
        """The tags on those of these that have any."""

    def find(self, digests: Collection[Digest]) -> Mapping[Digest, ManifestRow]:
        """Those of these that exist."""


class StoredGraph:
    """A repository as the database has it at this moment."""

    def __init__(self, tx: Transaction, repository_id: int) -> None:
        self._tx = tx
        self._repository_id = repository_id

    def children(self, ids: Collection[int]) -> Iterable[tuple[int, ManifestRow]]:
        return manifests.children(self._tx, ids)

    def referrers(self, digests: Collection[Digest]) -> Iterable[ManifestRow]:
        return referrers_of(self._tx, self._repository_id, digests)

    def parents(self, ids: Collection[int]) -> Mapping[int, Mapping[int, Digest]]:
        return parents_of(self._tx, ids)

    def tags(self, ids: Collection[int]) -> Mapping[int, Sequence[Tag]]:
        return tags_on(self._tx, ids)

    def find(self, digests: Collection[Digest]) -> Mapping[Digest, ManifestRow]:
        return find_manifests(self._tx, self._repository_id, digests)


def what_goes(graph: Graph, roots: Iterable[ManifestRow]) -> Closure:
    """`roots`, their referrers and the children that nothing else keeps, and theirs, and so on.

    What was asked for stays only if a live index lists it. A referrer goes with its subject, tagged
    or not, unless a live index lists it. A child stays if it has a tag of its own, another live
    parent, or a live subject. Each round looks again at what an earlier one kept: what
    kept it last may have joined those that go.
    """
    going: dict[int, Member] = {}
    reached = {row.id: Member(row, Why.ASKED) for row in roots}
    while True:
        undecided = {id_: member for id_, member in reached.items() if id_ not in going}
        kept = _kept(graph, undecided, going)
        joining = [member for id_, member in undecided.items() if id_ not in kept]
        if not joining:
            return Closure(going, {id_: (undecided[id_], tuple(kept[id_])) for id_ in undecided})
        going.update((member.row.id, member) for member in joining)
        _reach(graph, joining, reached)


def _reach(graph: Graph, members: Sequence[Member], reached: dict[int, Member]) -> None:
    """Add what hangs on `members`. The stronger reason stands: asked for, referrer, child."""
    digests = {member.row.id: member.row.digest for member in members}
    for parent, row in graph.children(digests.keys()):
        reached.setdefault(row.id, Member(row, Why.CHILD, digests[parent]))
    for row in graph.referrers(set(digests.values())):
        known = reached.get(row.id)
        if known is None or known.why is Why.CHILD:
            reached[row.id] = Member(row, Why.REFERRER, row.subject)


def _kept(
    graph: Graph, members: Mapping[int, Member], going: Mapping[int, Member]
) -> dict[int, list[KeptBy]]:
    """What keeps those of `members` that something keeps that does not go itself."""
    kept: dict[int, list[KeptBy]] = {}
    for child, parents in graph.parents(members.keys()).items():
        for parent, digest in sorted(parents.items()):
            if parent not in going:
                kept.setdefault(child, []).append(KeptBy(KeepReason.INDEX, digest))
    children = {id_: member.row for id_, member in members.items() if member.why is Why.CHILD}
    for child, tags in graph.tags(children.keys()).items():
        kept.setdefault(child, []).extend(KeptBy(KeepReason.TAG, tag) for tag in tags)
    living = graph.find({row.subject for row in children.values() if row.subject is not None})
    for child, row in children.items():
        subject = living.get(row.subject) if row.subject is not None else None
        if subject is not None and subject.id not in going:
            kept.setdefault(child, []).append(KeptBy(KeepReason.SUBJECT, subject.digest))
    return kept
