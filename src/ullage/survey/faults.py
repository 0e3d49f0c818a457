"""What is wrong with the images of a registry, counted, some of each by name."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

NAMED = 5


class Fault(StrEnum):
    """What can be wrong, in words for a report."""

    TAG_WITHOUT_MANIFEST = "tags whose manifest is missing"
    LINK_TO_NOTHING = "links to manifests that are missing"
    BAD_LINK = "links that are empty or name something else"
    DAMAGED_MANIFEST = "manifests that are no manifests"
    WRONG_BYTES = "blobs whose bytes have another digest"
    LAYER_MISSING = "images without a layer or their configuration"
    PLATFORM_MISSING = "indexes without platforms"
    PLATFORM_UNLINKED = "indexes whose platforms are there, but not linked: to be mended"
    OTHER_SIZE = "manifests that give another size for what they name"
    SIGNATURE_WITHOUT_IMAGE = "signatures and the like whose image is gone"
    TAG_WITHOUT_LINK = "tags whose manifest has no link of its own: collectors remove it"


class Faults:
    """Counts by kind, and the first few names of each."""

    def __init__(self) -> None:
        self.counts: Counter[Fault] = Counter()
        self.names: dict[Fault, list[str]] = {}

    def add(self, fault: Fault, name: str) -> None:
        self.counts[fault] += 1
        names = self.names.setdefault(fault, [])
        if len(names) < NAMED:
            names.append(name)
