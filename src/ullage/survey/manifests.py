"""What manifests of others name: read as far as it can be read, so that nothing is given up.

What Ullage itself accepts is decided in oci/manifest, which refuses what could be read in two ways.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from ullage.oci.digest import parse_digest
from ullage.oci.errors import DigestInvalid
from ullage.oci.manifest.media_type import (
    BLOB_TYPES,
    DOCKER_IMAGE,
    DOCKER_LIST,
    NON_DISTRIBUTABLE,
    OCI_IMAGE,
    OCI_INDEX,
)
from ullage.survey.digests import Digests, Rows

# As much as distribution accepts of a manifest.
MOST_BYTES = 4 * 1024 * 1024


class Kind(IntEnum):
    """What distribution takes a manifest for: it stops collecting at what it cannot read."""

    IMAGE = 0
    INDEX = 1
    # Docker's first: version 3 does not know it any more.
    SCHEMA_1 = 2
    # Well formed, and of a type that distribution does not know.
    FOREIGN = 3
    DAMAGED = 4


@dataclass(frozen=True, slots=True)
class Named:
    """A digest that a manifest names, the size it says, None if it says none; and whether it is
    no fault that it is not there."""

    digest: str
    size: int | None = None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """What one manifest says."""

    kind: Kind
    blobs: tuple[Named, ...] = ()
    children: tuple[Named, ...] = ()
    subject: str | None = None


def read_contents(raw: bytes) -> Contents:
    """What there is in a manifest that can be understood."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return Contents(Kind.DAMAGED)
    if not isinstance(body, dict):
        return Contents(Kind.DAMAGED)
    if body.get("schemaVersion") == 1:
        layers = _items(body.get("fsLayers"))
        sums = (_named(layer.get("blobSum"), None) for layer in layers)
        return Contents(Kind.SCHEMA_1, tuple(each for each in sums if each))
    listed = _items(body.get("manifests"))
    children = [each for each in listed if not _is_blob(each)]
    parts = [*_items([body.get("config")]), *_items(body.get("layers")), *_items(body.get("blobs"))]
    parts += [each for each in listed if _is_blob(each)]
    subject = body.get("subject")
    named = _descriptor(subject) if isinstance(subject, dict) else None
    return Contents(
        _kind(body), _descriptors(parts), _descriptors(children), named.digest if named else None
    )


def _kind(body: dict[str, Any]) -> Kind:
    if body.get("schemaVersion") != 2:
        return Kind.FOREIGN
    is_index = isinstance(body.get("manifests"), list)
    match body.get("mediaType") or "":
        case "":
            return Kind.INDEX if is_index else Kind.IMAGE
        case media_type if media_type in (OCI_INDEX, DOCKER_LIST):
            return Kind.INDEX if "config" not in body and "layers" not in body else Kind.FOREIGN
        case media_type if media_type in (OCI_IMAGE, DOCKER_IMAGE):
            return Kind.FOREIGN if is_index else Kind.IMAGE
        case _:
            return Kind.FOREIGN


def _items(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _is_blob(listed: dict[str, Any]) -> bool:
    return str(listed.get("mediaType")).lower().startswith(BLOB_TYPES)


def _descriptors(values: list[dict[str, Any]]) -> tuple[Named, ...]:
    return tuple(filter(None, map(_descriptor, values)))


def _descriptor(value: dict[str, Any]) -> Named | None:
    size = value.get("size")
    elsewhere = str(value.get("mediaType")).lower() in NON_DISTRIBUTABLE or bool(value.get("urls"))
    return _named(value.get("digest"), size if type(size) is int else None, elsewhere)


def _named(digest: Any, size: int | None, elsewhere: bool = False) -> Named | None:
    try:
        return Named(parse_digest(str(digest)), size, elsewhere)
    except DigestInvalid:
        return None


class Manifests:
    """The manifests of a registry, each read once, kept as numbers of digests."""

    def __init__(self, digests: Digests, raw: Callable[[str], bytes | None]) -> None:
        self._digests = digests
        self._raw = raw
        self._rows: dict[int, int] = {}
        self._kinds = bytearray()
        self._blobs, self._children = Rows(), Rows()
        self._subjects = array("l")
        # Manifests by number: a layer is not there, a size is not the one that is said.
        self.incomplete: set[int] = set()
        self.of_other_size: set[int] = set()

    def read_below(self, number: int) -> None:
        """Read a manifest, and those that it lists."""
        waiting = [number]
        while waiting:
            each = waiting.pop()
            if each not in self._rows and self._digests.is_there(each):
                self._read(each)
                waiting.extend(self.children(each))

    def _read(self, number: int) -> None:
        raw = self._raw(self._digests.digest(number))
        contents = Contents(Kind.DAMAGED) if raw is None else read_contents(raw)
        self._rows[number] = len(self._kinds)
        self._kinds.append(contents.kind)
        self._blobs.append([self._digests.number(each.digest) for each in contents.blobs])
        self._children.append([self._digests.number(each.digest) for each in contents.children])
        subject = contents.subject
        self._subjects.append(self._digests.number(subject) if subject else -1)
        self._judge(number, contents)

    def _judge(self, number: int, contents: Contents) -> None:
        for each in (*contents.blobs, *contents.children):
            named = self._digests.number(each.digest)
            if self._digests.is_there(named):
                if each.size not in (None, self._digests.sizes[named]):
                    self.of_other_size.add(number)
            elif each in contents.blobs and not each.elsewhere:
                self.incomplete.add(number)

    def __contains__(self, number: int) -> bool:
        """Whether it is there, and was read."""
        return number in self._rows

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def kind(self, number: int) -> Kind:
        return Kind(self._kinds[self._rows[number]])

    def blobs(self, number: int) -> array[int]:
        return self._blobs[self._rows[number]]

    def children(self, number: int) -> array[int]:
        return self._children[self._rows[number]]

    def subject(self, number: int) -> int:
        """-1 if there is none."""
        return self._subjects[self._rows[number]]
