"""Which bytes a deletion frees, at once or later, and which it does not, and why not.

A blob goes with its last link, and a link with its repository's last reference to the blob, unless
it is leased (docs/design/deletion.md). So two numbers kept beside each blob, how many manifests
refer to it and how many repositories link it, say what a deletion would leave; only blobs that it
would leave without a reference are looked at any closer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from ullage.metadata import holding
from ullage.metadata.database import Transaction
from ullage.metadata.holding import LinkState
from ullage.metadata.leases import Leases
from ullage.oci.digest import Digest


class Outcome(StrEnum):
    """What becomes of a blob."""

    FREED = "freed"
    LATER = "later"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one blob; `until` is when a later one may go, if nobody asks for it again."""

    digest: Digest
    size: int
    outcome: Outcome
    until: datetime | None = None
    because: str | None = None


LEASED = "leased"
ERASING = "a deleted repository is being erased"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a deletion takes from blobs: references, and links of these repositories."""

    repository_ids: frozenset[int]
    # Of each blob: how many references go. Everything that loses one is named.
    references: Mapping[Digest, int]
    # Whole repositories: every link of theirs goes, and no lease keeps it.
    whole: bool = False


def forecast(tx: Transaction, leases: Leases, loss: Loss, now: datetime) -> list[Fate]:
    """The fate of every blob that loses a reference or a link, in the order of their digests.

    True until somebody pushes, deletes or asks for one of these blobs; a caller that holds their
    rows (lock_blobs, to_drop) rules that out, except that they may still be leased.
    """
    blobs = holding.held_blobs(tx, loss.references.keys())
    erasing = holding.erasing(tx, loss.references.keys())
    fates: dict[Digest, Fate] = {}
    unreferenced: list[Digest] = []
    for digest in sorted(blobs):
        blob = blobs[digest]
        references = loss.references[digest] + erasing.get(digest, (0, 0))[1]
        if blob.manifest_refs > references:
            fates[digest] = Fate(digest, blob.size, Outcome.KEPT)
        else:
            unreferenced.append(digest)
    links = holding.links_of(tx, unreferenced)
    looked_at = [
        state.link for states in links.values() for state in states if _may_be_leased(state, loss)
    ]
    leased = leases.peek(tx, looked_at, now)
    for digest in unreferenced:
        waits = [
            (leased.get(state.link) or state.review_at or now, LEASED)
            for state in links.get(digest, [])
            if _may_be_leased(state, loss)
            and (state.link in leased or state.link.repository_id not in loss.repository_ids)
        ]
        if not loss.whole and digest in erasing:
            waits.append((now, ERASING))
        size = blobs[digest].size
        if waits:
            until, because = max(waits)
            fates[digest] = Fate(digest, size, Outcome.LATER, until, because)
        else:
            fates[digest] = Fate(digest, size, Outcome.FREED)
    return [fates[digest] for digest in sorted(fates)]


def _may_be_leased(state: LinkState, loss: Loss) -> bool:
    """Whether a promise would keep this link; not where its whole repository goes."""
    if state.name is None:
        return False
    return not (loss.whole and state.link.repository_id in loss.repository_ids)


def total(fates: Collection[Fate], outcome: Outcome) -> int:
    """Bytes of the blobs with this fate."""
    return sum(fate.size for fate in fates if fate.outcome is outcome)
