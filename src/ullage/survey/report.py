"""What a survey says: a document for programs, and one screen for people."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest

from ullage.documents import Document
from ullage.survey.account import Amount
from ullage.survey.collectors import Collection, collections
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


def report(place: str, tree: Tree, top: int) -> Survey:
    """The document of what was found, with the `top` largest repositories."""
    reach = Reach(tree)
    amounts = tree.account.amounts
    total = Amount()
    for amount in amounts.values():
        total.files += amount.files
        total.bytes += amount.bytes
        total.disk_bytes += amount.disk_bytes
    return Survey(
        format="survey/1",
        place=place,
        kind=tree.kind,
        counts=Counts(
            len(tree.repositories),
            sum(len(each.tags) for each in tree.repositories),
            len(tree.manifests),
            len(tree.digests.sizes),
        ),
        categories={str(name): _amounts(amount) for name, amount in amounts.items()},
        total=_amounts(total),
        collections=[_collected(each) for each in collections(tree, reach)],
        faults=list(_faults(tree)),
        repositories=_largest(reach.repositories, top),
        moved=tree.account.moved,
    )


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


def _faults(tree: Tree) -> Iterator[FaultCount]:
    for fault, count in sorted(tree.faults.counts.items()):
        yield FaultCount(fault.name.lower(), str(fault), count, tree.faults.names[fault])


def _largest(repositories: list[RepositoryBytes], top: int) -> list[RepositoryAmounts]:
    chosen = nlargest(top, repositories, lambda each: each.tagged + each.untagged + each.uploads)
    return [
        RepositoryAmounts(each.name, each.tagged, each.untagged, each.uploads) for each in chosen
    ]
