"""What sources of deployments keep from being deleted (deletion.md section 9).

A source names images as its cluster knows them: by the digest that was pulled, mostly an index's,
by the digest of a config, or by a tag. Protected is the manifest, every index that lists it, all
that these list, all that refers to any of them, in whichever repository it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.locks.spreading import spread
from ullage.registry.queries import deployments
from ullage.registry.queries.content.remove_manifests import parents_of
from ullage.registry.queries.deployments import Naming


@dataclass(frozen=True, slots=True)
class Deployed:
    """By whose word an image is protected."""

    source: str
    place: str
    # Set if the source does not report it any more.
    until: datetime | None
    # Set if the source is late: when it reported last.
    silent_since: datetime | None

    def in_words(self) -> str:
        """For people: the source, what runs it, and how fresh that is."""
        late = self.silent_since
        words = f"deployed in {self.source}"
        words += f" (stale, last reported {late.isoformat(timespec='seconds')})" if late else ""
        words += f": {self.place}" if self.place else ""
        if self.until is not None:
            words += f", not any more, kept until {self.until.isoformat(timespec='seconds')}"
        return words


def deployed_in(tx: Transaction, repository_id: int, now: datetime) -> dict[int, Deployed]:
    """The manifests of a repository that are protected so. One question if no source says anything.

    In a transaction that writes it stays true until that ends.
    """
    found = deployments.named_in(tx, repository_id, now)
    if not found:
        return {}
    named: dict[int, tuple[Digest, Deployed]] = {}
    for each in found:
        named.setdefault(each.manifest_id, (each.digest, _protection(each, now)))
    covered: dict[int, Deployed] = {}
    spread(tx, repository_id, _indexes(tx, named) | named, covered)
    return covered


def _protection(naming: Naming, now: datetime) -> Deployed:
    late = naming.reported_at + naming.ttl < now
    silent_since = naming.reported_at if late else None
    return Deployed(naming.source, naming.place, naming.until, silent_since)


def _indexes(
    tx: Transaction, named: dict[int, tuple[Digest, Deployed]]
) -> dict[int, tuple[Digest, Deployed]]:
    """All indexes that list these, or list such an index, and so on."""
    found: dict[int, tuple[Digest, Deployed]] = {}
    below = {id_: by for id_, (_, by) in named.items()}
    while below:
        above: dict[int, Deployed] = {}
        for child, parents in parents_of(tx, below.keys()).items():
            for id_, digest in parents.items():
                if id_ not in found:
                    found[id_] = digest, below[child]
                    above[id_] = below[child]
        below = above
    return found
