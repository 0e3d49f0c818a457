"""Which bytes a deletion frees, at once or later, and which it does not, and why not.

A blob goes with its last link, and a link with its repository's last reference to the blob, unless
it is leased (deletion.md section 3.1). So two numbers kept beside each blob, how many manifests
refer to it and how many repositories link it, say what a deletion would leave; only blobs that it
would leave without a reference are looked at any closer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from ullage.database.transaction import Transaction
from ullage.deletion.queries import losses
from ullage.oci.digest import Digest
from ullage.registry.leases.lease import Leases
from ullage.registry.queries.references import links as links_queries
from ullage.registry.queries.references.blobs import (
    ReferencedBlob,
    alone_in,
    referenced_blobs,
    references_among,
    shared_in,
)
from ullage.registry.queries.references.links import links_in, links_of, promised_links


class Outcome(StrEnum):
    """What becomes of a blob."""

    FREED = "freed"
    LATER = "later"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one blob; `until` is when a later one may go, if not asked for again."""

    digest: Digest
    size: int
    outcome: Outcome
    until: datetime | None = None
    because: str | None = None


# Until when a blob stays, and why.
_Wait: TypeAlias = tuple[datetime, str]

LEASED = "leased"
ERASING = "a deleted repository is being erased"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a deletion takes from blobs: so many references of each, and links of `repository_ids`.

    Of `whole` repositories every link goes, but what is `promised` lives on in the next one of that
    name; else a link goes with the last reference.
    """

    repository_ids: frozenset[int]
    references: Mapping[Digest, int]
    links: Mapping[Digest, int]
    whole: bool = False
    promised: Mapping[Digest, _Wait] = field(default_factory=dict)


def forecast(
    tx: Transaction,
    leases: Leases,
    repository_id: int,
    references: Mapping[Digest, int],
    now: datetime,
) -> list[Fate]:
    """The fate of every blob that loses references in a repository, in the order of their digests.

    True until one of these blobs is pushed, deleted or asked for; a caller that has locked their
    rows (lock_blobs, to_drop) rules that out, except that they may still be leased.
    """
    loss = Loss(frozenset({repository_id}), references, dict.fromkeys(references, 1))
    return _fates(tx, leases, referenced_blobs(tx, references.keys()), loss, now)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What becomes of blobs. Of those that nothing else needs, and that go, only the sum is known:
    there may be hundreds of thousands."""

    alone_bytes: int
    fates: list[Fate]
    # What the blobs that have a fate of their own lose.
    references: Mapping[Digest, int]
    # As alone_bytes, of what goes later: a promise of it may have been forgotten in a crash.
    doubted_bytes: int = 0
    # Which repositories give up how much of what comes back, at once or later: all of it together.
    parts: Mapping[int, int] = field(default_factory=dict)

    @property
    def freed_bytes(self) -> int:
        """Bytes that come back at once."""
        return self.alone_bytes + total(self.fates, Outcome.FREED)

    @property
    def later_bytes(self) -> int:
        """Bytes that come back when promises end."""
        return self.doubted_bytes + total(self.fates, Outcome.LATER)


class _Givers:
    """Which repository gives up what."""

    def __init__(self) -> None:
        self.alone: dict[int, int] = {}
        self.sharing: dict[Digest, list[int]] = {}

    def parts(self, fates: Collection[Fate]) -> dict[int, int]:
        """Bytes that come back by repository; what several give up counts in equal parts."""
        parts = dict(self.alone)
        for fate in fates:
            givers = self.sharing.get(fate.digest)
            if givers is None or fate.outcome is Outcome.KEPT:
                continue
            each, left = divmod(fate.size, len(givers))
            for number, repository_id in enumerate(givers):
                parts[repository_id] += each + (number < left)
        return parts


def forecast_whole(
    tx: Transaction,
    leases: Leases,
    repository_ids: frozenset[int],
    now: datetime,
    *,
    hidden: bool = False,
) -> Forecast:
    """As forecast, for all that these repositories link; references are those to shared blobs.

    Most blobs are linked by one repository only, and go with it. In `hidden` ones nothing is
    promised.
    """
    blobs: dict[Digest, ReferencedBlob] = {}
    links: dict[Digest, int] = {}
    promised: dict[Digest, _Wait] = {}
    fates: list[Fate] = []
    givers = _Givers()
    alone_bytes = 0
    for repository_id in sorted(repository_ids):
        # With what is promised in it, whose fate is its own.
        givers.alone[repository_id] = alone_in(tx, repository_id)
        alone_bytes += givers.alone[repository_id]
        for digest, size, wait in () if hidden else _promised_in(tx, leases, repository_id, now):
            promised[digest] = max(wait, promised.get(digest, wait))
            if size is not None:
                alone_bytes -= size
                fates.append(Fate(digest, size, Outcome.LATER, *wait))
        for digest, blob in shared_in(tx, repository_id):
            blobs[digest] = blob
            links[digest] = links.get(digest, 0) + 1
            givers.sharing.setdefault(digest, []).append(repository_id)
    alone = [digest for digest, blob in blobs.items() if blob.repository_count == links[digest]]
    for digest in alone:
        size = blobs.pop(digest).size
        waits = digest in promised
        fates.append(
            Fate(digest, size, Outcome.LATER, *promised[digest])
            if waits
            else Fate(digest, size, Outcome.FREED)
        )
    references = references_among(tx, repository_ids, blobs.keys())
    loss = Loss(repository_ids, references, links, whole=True, promised=promised)
    fates += _fates(tx, leases, blobs, loss, now)
    fates.sort(key=lambda fate: fate.digest)
    return Forecast(alone_bytes, fates, references, parts=givers.parts(fates))


def _promised_in(
    tx: Transaction, leases: Leases, repository_id: int, now: datetime
) -> Iterator[tuple[Digest, int | None, _Wait]]:
    """What pushers are promised in a repository; with its size if no other links it."""
    links = promised_links(tx, repository_id, leases.leased_in(tx, repository_id, now))
    for link, until in leases.peek(tx, links.keys(), now).items():
        blob = links[link]
        yield link.digest, blob.size if blob.repository_count <= 1 else None, (until, LEASED)


def forecast_manifests(
    tx: Transaction, leases: Leases, going: Mapping[int, Collection[int]], now: datetime
) -> Forecast:
    """As forecast, for any number of manifests of several repositories: its id -> their ids."""
    blobs: dict[Digest, ReferencedBlob] = {}
    references: dict[Digest, int] = {}
    links: dict[Digest, int] = {}
    givers = _Givers()
    alone_bytes = doubted_bytes = 0
    for repository_id, ids in sorted(going.items()):
        promised = leases.leased_in(tx, repository_id, now)
        losing = losses.losing(tx, repository_id, ids, promised)
        alone_bytes += losing.alone_bytes
        doubted_bytes += losing.doubted_bytes
        givers.alone[repository_id] = losing.alone_bytes + losing.doubted_bytes
        for digest, (number, blob) in losing.others.items():
            blobs[digest] = blob
            references[digest] = references.get(digest, 0) + number
            links[digest] = links.get(digest, 0) + 1
            givers.sharing.setdefault(digest, []).append(repository_id)
    loss = Loss(frozenset(going), references, links)
    fates = _fates(tx, leases, blobs, loss, now)
    return Forecast(alone_bytes, fates, references, doubted_bytes, givers.parts(fates))


def _fates(
    tx: Transaction,
    leases: Leases,
    blobs: Mapping[Digest, ReferencedBlob],
    loss: Loss,
    now: datetime,
) -> list[Fate]:
    erasing = links_queries.erasing(tx, blobs.keys())
    left = {
        digest
        for digest, blob in blobs.items()
        if blob.manifest_refs <= loss.references.get(digest, 0) + erasing.get(digest, 0)
    }
    waits = _leased_here(tx, leases, left, loss, now)
    elsewhere = [digest for digest in left if blobs[digest].repository_count > loss.links[digest]]
    for digest, wait in _wait_elsewhere(tx, leases, elsewhere, loss, now).items():
        waits[digest] = max(wait, waits.get(digest, wait))
    fates: list[Fate] = []
    for digest in sorted(blobs):
        size = blobs[digest].size
        if digest not in left:
            fates.append(Fate(digest, size, Outcome.KEPT))
        elif digest in waits:
            fates.append(Fate(digest, size, Outcome.LATER, *waits[digest]))
        elif digest in erasing and not loss.whole:
            fates.append(Fate(digest, size, Outcome.LATER, now, ERASING))
        else:
            fates.append(Fate(digest, size, Outcome.FREED))
    return fates


def _leased_here(
    tx: Transaction, leases: Leases, digests: Collection[Digest], loss: Loss, now: datetime
) -> dict[Digest, _Wait]:
    """Promises that keep a repository's own links, or those of the next one of its name."""
    if loss.whole:
        return {digest: loss.promised[digest] for digest in digests if digest in loss.promised}
    links = [
        link
        for repository_id in loss.repository_ids
        for link in links_in(tx, repository_id, digests)
    ]
    leased = leases.peek(tx, links, now)
    return {link.digest: (until, LEASED) for link, until in leased.items()}


def _wait_elsewhere(
    tx: Transaction, leases: Leases, digests: Collection[Digest], loss: Loss, now: datetime
) -> dict[Digest, _Wait]:
    """Links of other repositories that no manifest uses: promised, or about to be looked at."""
    states = [
        state
        for some in links_of(tx, digests).values()
        for state in some
        if state.name is not None and state.link.repository_id not in loss.repository_ids
    ]
    leased = leases.peek(tx, [state.link for state in states], now)
    waits: dict[Digest, _Wait] = {}
    for state in states:
        wait = (leased.get(state.link) or state.review_at or now, LEASED)
        digest = state.link.digest
        waits[digest] = max(wait, waits.get(digest, wait))
    return waits


def total(fates: Collection[Fate], outcome: Outcome) -> int:
    """Bytes of the blobs with this fate."""
    return sum(fate.size for fate in fates if fate.outcome is outcome)
