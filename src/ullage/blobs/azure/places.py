"""Where things lie in a container, below the prefix.

ab/<key>            the blob of one attempt, and its blocks before; ab is the key's first two digits
registry-id         the label: which registry these bytes belong to
probe/<random>      what a start finds out with whether the container can be used
"""

from __future__ import annotations

import re

from ullage.blobs.protocol import validate_key

LABEL = "registry-id"
PROBES = "probe/"
_OBJECT = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{30})")


def object_place(key: str) -> str:
    """Raises ValueError for what is no key."""
    return f"{validate_key(key)[:2]}/{key}"


def key_of_object(place: str) -> str | None:
    """None for what is no object's place."""
    found = _OBJECT.fullmatch(place)
    return found[2] if found else None
