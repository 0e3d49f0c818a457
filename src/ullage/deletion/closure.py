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
from ullage.oci.attached import attached_tags, attached_to
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests
from ullage.registry.queries.content.remove_manifests import parents_of, referrers_of
from ullage.registry.queries.references import manifests
from ullage.registry.queries.references.manifests import tagged, tags_on


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
    # A tag of it that a rule makes immutable (immutable_tags.py).
    IMMUTABLE = "immutable"
    # A source of deployments names it (registry/locks/deployed.py).
    DEPLOYED = "deployed"


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

    def tagged(self, tags: Collection[Tag]) -> Mapping[Tag, ManifestRow]:
        """What those of these tags that exist point to."""

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

    def tagged(self, tags: Collection[Tag]) -> Mapping[Tag, ManifestRow]:
        return tagged(self._tx, self._repository_id, tags)

    def find(self, digests: Collection[Digest]) -> Mapping[Digest, ManifestRow]:
        return find_manifests(self._tx, self._repository_id, digests)


def what_goes(graph: Graph, roots: Iterable[ManifestRow]) -> Closure:
    """`roots`, their referrers and the children that nothing else keeps, and theirs, and so on.

    What was asked for stays only if a live index lists it. A referrer goes with its subject, tagged
    or not, unless a live index lists it. What a tag such as `sha256-….sig` attaches to an image is
    its referrer, too, but stays if it has another tag. A child stays if it has a tag of its own,
    another live parent, or a live subject. A tag that attaches it to what goes or is not there
    keeps nothing. Each round looks again at what an earlier one kept: what
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
    referrers = [(row.subject, row) for row in graph.referrers(set(digests.values()))]
    names = {tag: digest for digest in digests.values() for tag in attached_tags(digest)}
    referrers += [(names[tag], row) for tag, row in graph.tagged(names).items()]
    for subject, row in referrers:
        known = reached.get(row.id)
        attached = known is not None and known.why is Why.REFERRER and not _follows(known)
        if known is None or known.why is Why.CHILD or (attached and subject == row.subject):
            reached[row.id] = Member(row, Why.REFERRER, subject)


def _kept(
    graph: Graph, members: Mapping[int, Member], going: Mapping[int, Member]
) -> dict[int, list[KeptBy]]:
    """What keeps those of `members` that something keeps that does not go itself."""
    kept: dict[int, list[KeptBy]] = {}
    for child, parents in graph.parents(members.keys()).items():
        for parent, digest in sorted(parents.items()):
            if parent not in going:
                kept.setdefault(child, []).append(KeptBy(KeepReason.INDEX, digest))
    hanging = {id_: member for id_, member in members.items() if member.why in _HANGING}
    tags = graph.tags(hanging.keys())
    subjects = {id_: subjects_of(member.row, tags.get(id_, ())) for id_, member in hanging.items()}
    there = graph.find({digest for some in subjects.values() for digest in some})
    for id_, member in hanging.items():
        living = {digest for digest, row in there.items() if row.id not in going} & subjects[id_]
        if not _follows(member):
            own = (tag for tag in tags.get(id_, ()) if not is_attached(tag, member.row.digest))
            kept.setdefault(id_, []).extend(KeptBy(KeepReason.TAG, tag) for tag in own)
        keeping = [KeptBy(KeepReason.SUBJECT, digest) for digest in sorted(living)]
        kept.setdefault(id_, []).extend(keeping)
    return {id_: keeping for id_, keeping in kept.items() if keeping}


# What goes only because something else does.
_HANGING = (Why.CHILD, Why.REFERRER)


def _follows(member: Member) -> bool:
    """Whether it goes with its subject whatever tags it has: it names the subject itself."""
    return member.why is Why.REFERRER and member.of == member.row.subject


def is_attached(tag: str, digest: Digest) -> bool:
    """Whether a tag on this manifest attaches it to another one, there or not."""
    return attached_to(tag) not in (None, digest)


def subjects_of(row: ManifestRow, tags: Iterable[Tag]) -> set[Digest]:
    """What a manifest refers to, by itself or by its tags."""
    named = {row.subject, *(attached_to(tag) for tag in tags)}
    return {digest for digest in named if digest is not None and digest != row.digest}
