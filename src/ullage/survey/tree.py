"""What was found in a registry's storage, whatever its layout is."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from ullage.survey.account import Account
from ullage.survey.digests import Digests
from ullage.survey.faults import Faults
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

    kind: str
    digests: Digests
    manifests: Manifests
    repositories: list[Repository]
    account: Account
    faults: Faults
