"""What tags reach: an image with its platforms, layers and referrers, as deletion.md section 2."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from ullage.survey.account import Category
from ullage.survey.faults import Fault
from ullage.survey.manifests import Kind
from ullage.survey.tree import Repository, Tree

_TAGGED, _UNTAGGED = 1, 2
# By these flags: what a tag reaches is tagged, whatever else reaches it.
_CATEGORIES = (Category.UNREFERENCED, Category.TAGGED, Category.UNTAGGED, Category.TAGGED)


class Role(IntEnum):
    """What a manifest is reached as."""

    IMAGE = 0
    PLATFORM = 1
    REFERRER = 2


@dataclass(frozen=True, slots=True)
class RepositoryBytes:
    """Distinct bytes that a repository needs: for its tags, and only for manifests without."""

    name: str
    tagged: int
    untagged: int
    uploads: int


class Reach:
    """Which blobs of a tree are tagged, and which only untagged manifests need."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._flags = bytearray(len(tree.digests))
        # The repository, by its place among them, that met this digest last, counted from 1.
        self._met = array("l", bytes(array("l").itemsize * len(tree.digests)))
        self.repositories = [
            self._attribute(each, place) for place, each in enumerate(tree.repositories, 1)
        ]
        self._fill_account()

    def is_tagged(self, number: int) -> bool:
        return bool(self._flags[number] & _TAGGED)

    def live(self, repository: Repository) -> Iterator[tuple[int, Role]]:
        """The manifests that tags of a repository reach, each once."""
        yield from self._walk(repository, repository.tags, set())

    def _walk(
        self, repository: Repository, roots: Iterable[int], seen: set[int]
    ) -> Iterator[tuple[int, Role]]:
        manifests = self._tree.manifests
        referrers = self._referrers(repository)
        waiting = [(number, Role.IMAGE) for number in roots]
        while waiting:
            number, role = waiting.pop()
            if number in seen:
                continue
            seen.add(number)
            waiting += [(each, Role.REFERRER) for each in referrers.get(number, ())]
            if number in manifests:
                yield number, role
                waiting += [(each, Role.PLATFORM) for each in manifests.children(number)]

    def _referrers(self, repository: Repository) -> dict[int, list[int]]:
        """Manifests of a repository by what they are about."""
        found: dict[int, list[int]] = {}
        for number in repository.revisions:
            if number in self._tree.manifests:
                subject = self._tree.manifests.subject(number)
                if subject >= 0:
                    found.setdefault(subject, []).append(number)
        return found

    def _attribute(self, repository: Repository, stamp: int) -> RepositoryBytes:
        seen: set[int] = set()
        tagged = 0
        for number, _ in self._walk(repository, repository.tags, seen):
            tagged += self._mark(number, stamp, _TAGGED)
            self._judge(number, repository)
        untagged = 0
        for number, _ in self._walk(repository, repository.revisions, seen):
            untagged += self._mark(number, stamp, _UNTAGGED)
        return RepositoryBytes(repository.name, tagged, untagged, repository.uploads)

    def _mark(self, number: int, stamp: int, flag: int) -> int:
        """A manifest and its blobs; how many bytes of them are new to the repository."""
        digests, new = self._tree.digests, 0
        for each in (number, *self._tree.manifests.blobs(number)):
            self._flags[each] |= flag
            if self._met[each] != stamp and digests.is_there(each):
                self._met[each] = stamp
                new += digests.sizes[each]
        return new

    def _judge(self, number: int, repository: Repository) -> None:
        """The faults of a manifest that a tag reaches."""
        manifests, digests, faults = self._tree.manifests, self._tree.digests, self._tree.faults
        name = f"{repository.name}@{digests.digest(number)}"
        if manifests.kind(number) is Kind.DAMAGED:
            faults.add(Fault.DAMAGED_MANIFEST, name)
        if number in manifests.incomplete:
            faults.add(Fault.LAYER_MISSING, name)
        if number in manifests.of_other_size:
            faults.add(Fault.OTHER_SIZE, name)
        children = manifests.children(number)
        if not all(map(digests.is_there, children)):
            faults.add(Fault.PLATFORM_MISSING, name)
        elif self._tree.needs_links and not repository.links_all(children):
            faults.add(Fault.PLATFORM_UNLINKED, name)

    def _fill_account(self) -> None:
        digests = self._tree.digests
        for category in set(_CATEGORIES):
            numbers = (
                each
                for each in range(len(digests.sizes))
                if _CATEGORIES[self._flags[each]] is category
            )
            files, size, disk_size = digests.given_back(numbers)
            self._tree.account.amounts[category].add(size, disk_size, files)
