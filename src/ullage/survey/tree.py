"""What was found in a registry's storage, whatever its layout is."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from ullage.oci.digest import Digest
from ullage.survey.account import Account, disk_size
from ullage.survey.digests import Digests
from ullage.survey.faults import Fault, Faults
from ullage.survey.folders import Folder
from ullage.survey.manifests import Manifests


def _numbers() -> array[int]:
    return array("l")


@dataclass(slots=True)
class Repository:
    """A repository: all digests are numbers of `Digests`."""

    name: str
    # Manifests with a link of their own, by number: those that are there by their digests.
    revisions: array[int] = field(default_factory=_numbers)
    # What each tag points to now, and all that tags have pointed to.
    tags: array[int] = field(default_factory=_numbers)
    history: array[int] = field(default_factory=_numbers)
    layers: array[int] = field(default_factory=_numbers)
    uploads: int = 0
    # What distribution's collectors look for.
    has_manifests: bool = False
    has_layers: bool = False
    has_tags: bool = False
    # Links that they cannot read, and stop at.
    bad_revisions: int = 0
    bad_tags: int = 0

    def links_all(self, numbers: Iterable[int]) -> bool:
        """Whether each of these manifests has a link here."""
        return all(_holds(self.revisions, number) for number in numbers)


def _holds(ordered: array[int], number: int) -> bool:
    place = bisect_left(ordered, number)
    return place < len(ordered) and ordered[place] == number


@dataclass(slots=True)
class Tree:
    """A registry's storage."""

    digests: Digests
    manifests: Manifests
    repositories: list[Repository]
    account: Account
    faults: Faults
    # Whether a manifest can only be pulled from a repository that has a link to it.
    needs_links: bool = True

    def add_blob(
        self, folder: Folder, name: str, status: os.stat_result, digest: Digest, *, deep: bool
    ) -> None:
        """A file that is a blob; its bytes are compared with its digest if it is looked at deep."""
        again = self.account.is_counted(status)
        self.digests.add(
            digest.algorithm, digest.hex, status.st_size, disk_size(status), again=again
        )
        if deep and folder.hashed(name, digest.algorithm) not in (None, digest.hex):
            self.faults.add(Fault.WRONG_BYTES, digest)
