"""What holds what: the questions that decide, before a deletion, what it takes and what it frees.

Every answer costs what it is about, never what the registry holds: indexes lead everywhere.
"""

from ullage.metadata.holding.blobs import (
    HeldBlob,
    alone_in,
    held_blobs,
    references_among,
    refers_more_often,
    shared_in,
    some_holders,
)
from ullage.metadata.holding.links import LinkState, erasing, links_in, links_of
from ullage.metadata.holding.losses import Losing, losing
from ullage.metadata.holding.manifests import all_manifests, children, tagged, tags_on
from ullage.metadata.holding.repositories import Share, Stamp, share, stamp

__all__ = [
    "HeldBlob",
    "LinkState",
    "Losing",
    "Share",
    "Stamp",
    "all_manifests",
    "alone_in",
    "children",
    "erasing",
    "held_blobs",
    "links_in",
    "links_of",
    "losing",
    "references_among",
    "refers_more_often",
    "share",
    "shared_in",
    "some_holders",
    "stamp",
    "tagged",
    "tags_on",
]
