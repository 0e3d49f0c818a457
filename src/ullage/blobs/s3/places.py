"""Where things lie in a bucket, below the prefix.

ab/<key>            the object of one attempt; ab is the first two digits of its key
t/<key>.<random>    a tail: bytes of an upload that do not fill a part; each has a new name
registry-id         the label: which registry these bytes belong to
probe/<random>      what a start finds out with whether the bucket can be used
"""

from __future__ import annotations

import re
import secrets

from ullage.blobs.protocol import validate_key

LABEL = "registry-id"
TAILS = "t/"
PROBES = "probe/"
_OBJECT = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{30})")
_TAIL = re.compile(r"t/([0-9a-f]{32})\.[0-9a-f]{16}")


def object_place(key: str) -> str:
    """Raises ValueError for what is no key."""
    return f"{validate_key(key)[:2]}/{key}"


def new_tail_place(key: str) -> str:
    return f"{TAILS}{validate_key(key)}.{secrets.token_hex(8)}"


def key_of_object(place: str) -> str | None:
    """None for what is no object's place."""
    found = _OBJECT.fullmatch(place)
    return found[2] if found else None


def key_of_tail(place: str) -> str | None:
    """None for what is no tail's place."""
    found = _TAIL.fullmatch(place)
    return found[1] if found else None
