"""What a survey says: a document for programs, and one screen for people."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest

from ullage.documents import Document
from ullage.survey.account import Account, Amount
from ullage.survey.collectors import Collection, collections
from ullage.survey.faults import Faults
from ullage.survey.reach import Reach, RepositoryBytes, Role
from ullage.survey.tree import Tree


class Amounts(Document, frozen=True):
    """Entries, the sum of their sizes, and what the file system spends on them."""

    files: int
    bytes: int
    disk_bytes: int


class Destroyed(Document, frozen=True):
    """What tags reach and a collection would remove. The manifests are gone or lack parts then."""

    blobs: int
    bytes: int
    images: int
    platforms: int
    referrers: int


class Collected(Document, frozen=True):
    """What `garbage-collect` would do: `stops` says why it would end without removing anything."""

    version: int
    untagged: bool
    stops: str | None
    blobs: int
    bytes: int
    disk_bytes: int
    links: int
    link_bytes: int
    destroyed: Destroyed


class FaultCount(Document, frozen=True):
    """A kind of fault, how often it is there, and the first few by name."""

    fault: str
    text: str
    count: int
    examples: list[str]


class RepositoryAmounts(Document, frozen=True):
    """Distinct bytes of a repository; what it shares with others is in theirs, too."""

    name: str
    tagged_bytes: int
    untagged_bytes: int
    upload_bytes: int


class Counts(Document, frozen=True):
    repositories: int
    tags: int
    manifests: int
    blobs: int


class Survey(Document, frozen=True):
    """A registry's storage. Every byte of `total` is in one of the `categories`."""

    format: str
    place: str
    kind: str
    counts: Counts
    categories: dict[str, Amounts]
    total: Amounts
    collections: list[Collected]
    faults: list[FaultCount]
    repositories: list[RepositoryAmounts]
    # Entries that vanished while they were looked at.
    moved: int


class Reporter:
    """Adds up what is found, tree by tree; of each only its figures are kept."""

    def __init__(self, account: Account, faults: Faults, top: int) -> None:
        self._account = account
        self._faults = faults
        self._top = top
        self._counts = [0, 0, 0, 0]
        self._largest: list[RepositoryBytes] = []
        self._collections: list[Collected] = []

    def add(self, tree: Tree, *, collected: bool) -> None:
        """`collected` if distribution's collectors may be run on it: there is one tree then."""
        reach = Reach(tree)
        found = (
            len(tree.repositories),
            sum(len(each.tags) for each in tree.repositories),
            len(tree.manifests),
            len(tree.digests.sizes),
        )
        self._counts = [sum(pair) for pair in zip(self._counts, found, strict=True)]
        self._largest = nlargest(self._top, [*self._largest, *reach.repositories], _size)
        if collected:
            self._collections = [_collected(each) for each in collections(tree, reach)]

    def survey(self, place: str, kind: str) -> Survey:
        amounts = self._account.amounts
        total = Amount()
        for amount in amounts.values():
            total.add(amount.bytes, amount.disk_bytes, amount.files)
        return Survey(
            format="survey/1",
            place=place,
            kind=kind,
            counts=Counts(*self._counts),
            categories={str(name): _amounts(amount) for name, amount in amounts.items()},
            total=_amounts(total),
            collections=self._collections,
            faults=list(_fault_counts(self._faults)),
            repositories=[
                RepositoryAmounts(each.name, each.tagged, each.untagged, each.uploads)
                for each in self._largest
            ],
            moved=self._account.moved,
        )


def _size(repository: RepositoryBytes) -> int:
    return repository.tagged + repository.untagged + repository.uploads


def _amounts(amount: Amount) -> Amounts:
    return Amounts(amount.files, amount.bytes, amount.disk_bytes)


def _collected(run: Collection) -> Collected:
    loss = run.loss
    images, platforms, referrers = (loss.manifests.get(role, 0) for role in Role)
    return Collected(
        run.version,
        run.untagged,
        run.stops,
        run.blobs,
        run.bytes,
        run.disk_bytes,
        run.links,
        run.link_bytes,
        Destroyed(loss.blobs, loss.bytes, images, platforms, referrers),
    )


def _fault_counts(faults: Faults) -> Iterator[FaultCount]:
    for fault, count in sorted(faults.counts.items()):
        yield FaultCount(fault.name.lower(), str(fault), count, faults.names[fault])
