"""What distribution's own collectors would do: `registry garbage-collect`, with and without -m.

They mark what each repository's manifests name, then remove every blob that is not marked. With -m
(--delete-untagged) a manifest without a tag of its own is not marked, platforms of a tagged index
and referrers included.

Version 2 knows a repository by its `_layers`, and stops at one that never had a tag. Version 3
knows one by its `_manifests`; of one that never had a tag it removes blobs, but no link. It also
marks what a marked index lists, if it meets the index first and the platform has a link in the same
repository; and it removes links to layers that it has not marked by then. What they stop at, they
stop at before they have removed anything.

Sources: registry/storage/{garbagecollect,manifeststore,linkedblobstore,tagstore,vacuum}.go of 2.8
and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ullage.survey.digests import Digests
from ullage.survey.manifests import Kind
from ullage.survey.reach import Reach, Role
from ullage.survey.tree import Repository, Tree

_READ = {
    2: frozenset((Kind.IMAGE, Kind.INDEX, Kind.SCHEMA_1)),
    3: frozenset((Kind.IMAGE, Kind.INDEX)),
}


@dataclass(frozen=True, slots=True)
class Loss:
    """What tags reach and a collection removes: blobs, and manifests that are gone or broken."""

    blobs: int = 0
    bytes: int = 0
    manifests: dict[Role, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Collection:
    """What a run of one version removes; nothing at all if it stops at something."""

    version: int
    untagged: bool
    stops: str | None = None
    blobs: int = 0
    bytes: int = 0
    disk_bytes: int = 0
    links: int = 0
    link_bytes: int = 0
    loss: Loss = field(default_factory=Loss)


class _Stops(Exception):
    pass


def collections(tree: Tree, reach: Reach) -> Iterator[Collection]:
    """Of both versions, without -m and with it."""
    for untagged in (False, True):
        for version in (2, 3):
            run = _Run(tree, version, untagged=untagged)
            try:
                run.mark()
            except _Stops as reason:
                yield Collection(version, untagged, str(reason))
            else:
                yield run.collection(reach)


class _Run:
    def __init__(self, tree: Tree, version: int, *, untagged: bool) -> None:
        self._tree = tree
        self._version = version
        self._untagged = untagged
        self._marks = bytearray(len(tree.digests))
        # By repository: manifests whose links go, and layers.
        self._manifests: dict[str, list[int]] = {}
        self._layers: list[int] = []

    # --- marking ----------------------------------------------------------------------------------

    def mark(self) -> None:
        """Raises _Stops."""
        for repository in self._tree.repositories:
            # What they know a repository by; the blobs of others are not marked.
            if repository.has_layers if self._version == 2 else repository.has_manifests:
                self._mark_repository(repository)
        if self._version == 3:
            self._manifests = {
                name: [each for each in numbers if not self._marks[each]]
                for name, numbers in self._manifests.items()
            }

    def _mark_repository(self, repository: Repository) -> None:
        if repository.bad_revisions:
            raise _Stops(f"a link to a manifest of {repository.name} cannot be read")
        if self._untagged and repository.bad_tags and repository.revisions:
            raise _Stops(f"a tag of {repository.name} cannot be read")
        tagged, linked = set(repository.tags), set(repository.revisions)
        going: list[int] = []
        for number in filter(self._tree.digests.is_there, repository.revisions):
            if not self._untagged or number in tagged:
                self._marks[number] = 1
                self._mark_named(number, linked)
            elif repository.has_tags:
                going.append(number)
            elif self._version == 2:
                raise _Stops(f"{repository.name} never had a tag")
        if going:
            self._manifests[repository.name] = going
        if self._version == 3:
            if not repository.has_layers:
                raise _Stops(f"{repository.name} has no folder _layers")
            self._layers += [each for each in repository.layers if not self._marks[each]]

    def _mark_named(self, number: int, linked: set[int]) -> None:
        manifests = self._tree.manifests
        if manifests.kind(number) not in _READ[self._version]:
            raise _Stops(f"{self._tree.digests.digest(number)} is no manifest that it can read")
        for each in (*manifests.blobs(number), *manifests.children(number)):
            is_new = not self._marks[each]
            self._marks[each] = 1
            if self._version == 3 and is_new and each in linked and each in manifests:
                self._mark_named(each, linked)

    # --- what goes --------------------------------------------------------------------------------

    def collection(self, reach: Reach) -> Collection:
        digests = self._tree.digests
        unmarked = [each for each in range(len(digests.sizes)) if not self._marks[each]]
        links = [*self._layers, *self._links_of_manifests()]
        return Collection(
            self._version,
            self._untagged,
            None,
            len(unmarked),
            *digests.given_back(unmarked)[1:],
            len(links),
            sum(_link_size(digests, each) for each in links),
            self._loss(reach, unmarked),
        )

    def _links_of_manifests(self) -> Iterator[int]:
        """Of manifests that go: their own, and those in the history of tags."""
        for repository in self._tree.repositories:
            going = self._manifests.get(repository.name)
            if going:
                yield from going
                gone = set(going)
                yield from (each for each in repository.history if each in gone)

    def _loss(self, reach: Reach, unmarked: list[int]) -> Loss:
        digests = self._tree.digests
        lost = [each for each in unmarked if reach.is_tagged(each)]
        manifests: dict[Role, int] = {}
        for repository in self._tree.repositories:
            unlinked = set(self._manifests.get(repository.name, ()))
            for number, role in reach.live(repository):
                if number in unlinked or self._is_broken(number):
                    manifests[role] = manifests.get(role, 0) + 1
        return Loss(len(lost), sum(digests.sizes[each] for each in lost), manifests)

    def _is_broken(self, number: int) -> bool:
        digests = self._tree.digests
        needed = (number, *self._tree.manifests.blobs(number))
        return any(digests.is_there(each) and not self._marks[each] for each in needed)


def _link_size(digests: Digests, number: int) -> int:
    return len(digests.digest(number))
