"""Listing what is there: repositories, tags and manifests with their attributes, page by page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from ullage.database.transaction import Transaction
from ullage.oci import strict_json
from ullage.oci.digest import Digest, parse_digest
from ullage.oci.errors import DigestInvalid, ManifestUnknown, NameUnknown, TagUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.oci.strict_json import JSONInvalid
from ullage.registry.context import Registry
from ullage.registry.push.platforms import platform_named
from ullage.registry.queries import listings
from ullage.registry.queries.attributes import Attributes
from ullage.registry.queries.content.manifests import Platform
from ullage.registry.queries.content.repositories import find_repository, repository_exists
from ullage.registry.queries.listings import (
    ManifestDetails,
    Order,
    Position,
    RepositoryDetails,
    TagDetails,
)

__all__ = [
    "Attributes",
    "ListingPage",
    "ManifestDetails",
    "Order",
    "Platform",
    "Reference",
    "RepositoryDetails",
    "TagDetails",
]

T = TypeVar("T", TagDetails, ManifestDetails)

# A cursor among times, such as `at~1700000000000000~v1`: no tag and no digest has a "~" in it.
_CURSOR = re.compile(r"at~([0-9]{1,18})~([^~]{1,200})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ListingPage(Generic[T]):
    """Some entries, and the cursor that the next page starts behind, if there is one."""

    items: tuple[T, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest that an index lists, and what the index says it runs on."""

    digest: Digest
    platform: Platform


# --- one of each ----------------------------------------------------------------------------------


def get_repository(registry: Registry, name: RepositoryName) -> RepositoryDetails:
    """A repository and its attributes. Raises NameUnknown."""
    return registry.snapshot(
        lambda tx: listings.repository_details(tx, require_repository(tx, name))
    )


def get_tag(registry: Registry, name: RepositoryName, tag: Tag) -> TagDetails:
    """A tag and its attributes. Raises TagUnknown, also where there is no such repository."""
    return registry.snapshot(lambda tx: require_tag(tx, name, tag))


def get_manifest(
    registry: Registry, name: RepositoryName, digest: Digest
) -> tuple[ManifestDetails, tuple[Reference, ...] | None]:
    """A manifest with its attributes; with what an index lists. Raises ManifestUnknown."""

    def find(tx: Transaction) -> tuple[ManifestDetails, bytes]:
        details = require_manifest(tx, name, digest)
        return details, listings.manifest_bytes(tx, details.id)

    details, raw = registry.snapshot(find)
    return details, references_in(raw)


def references_in(raw: bytes) -> tuple[Reference, ...] | None:
    """What an index lists, in its order; None for anything that is no index."""
    try:
        body = strict_json.loads(raw)
    except JSONInvalid:
        return None
    listed = body.get("manifests") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        return None
    found: list[Reference] = []
    for each in listed:
        digest = each.get("digest") if isinstance(each, dict) else None
        try:
            parsed = parse_digest(digest if isinstance(digest, str) else "")
        except DigestInvalid:
            continue
        assert isinstance(each, dict)
        found.append(Reference(parsed, platform_named(each.get("platform"))))
    return tuple(found)


def require_repository(tx: Transaction, name: RepositoryName) -> int:
    """The id of a repository that has a manifest. Raises NameUnknown."""
    repository_id = find_repository(tx, name)
    if repository_id is None or not repository_exists(tx, name):
        raise NameUnknown({"name": name})
    return repository_id


def require_tag(tx: Transaction, name: RepositoryName, tag: Tag) -> TagDetails:
    """Raises TagUnknown."""
    repository_id = find_repository(tx, name)
    found = listings.tag_details(tx, repository_id, tag) if repository_id is not None else None
    if found is None:
        raise TagUnknown({"name": name, "tag": tag})
    return found


def require_manifest(tx: Transaction, name: RepositoryName, digest: Digest) -> ManifestDetails:
    """Raises ManifestUnknown."""
    repository_id = find_repository(tx, name)
    found = (
        listings.manifest_details(tx, repository_id, digest) if repository_id is not None else None
    )
    if found is None:
        raise ManifestUnknown({"Name": name, "Revision": digest}, f"manifest {digest} is not found")
    return found


# --- pages ----------------------------------------------------------------------------------------


def list_tags(
    registry: Registry,
    name: RepositoryName,
    order: Order,
    n: int,
    last: str | None,
    digest: Digest | None = None,
) -> ListingPage[TagDetails]:
    """Up to `n` tags behind `last`, a cursor or a tag. Raises NameUnknown."""

    def find(tx: Transaction) -> list[TagDetails]:
        repository_id = require_repository(tx, name)
        after = _position(tx, repository_id, order, last, listings.tag_updated_at)
        return listings.tag_page(tx, repository_id, order, after, n + 1, digest)

    return _page(registry.snapshot(find), n, order, lambda tag: tag.name)


def list_manifests(
    registry: Registry, name: RepositoryName, order: Order, n: int, last: str | None
) -> ListingPage[ManifestDetails]:
    """Up to `n` manifests behind `last`, a cursor or a digest. Raises NameUnknown."""

    def find(tx: Transaction) -> list[ManifestDetails]:
        repository_id = require_repository(tx, name)
        after = _position(tx, repository_id, order, last, listings.manifest_updated_at)
        return listings.manifest_page(tx, repository_id, order, after, n + 1)

    return _page(registry.snapshot(find), n, order, lambda manifest: manifest.digest)


def _position(
    tx: Transaction,
    repository_id: int,
    order: Order,
    last: str | None,
    updated_at: Callable[[Transaction, int, str], datetime | None],
) -> Position | None:
    """The place that `last` names.

    A cursor says by itself where it stands. A plain name has a place among times only as long as
    it is there; afterwards the listing starts again, so that at least nothing is left out.
    """
    if not last:
        return None
    cursor = _CURSOR.fullmatch(last)
    if cursor is not None:
        at = _EPOCH + timedelta(microseconds=int(cursor[1]))
        return Position(cursor[2], at)
    if order is Order.NAME:
        return Position(last)
    found = updated_at(tx, repository_id, last)
    return None if found is None else Position(last, found)


def _page(found: Sequence[T], n: int, order: Order, name_of: Callable[[T], str]) -> ListingPage[T]:
    items = tuple(found[:n])
    if len(found) <= n or not items:
        return ListingPage(items, None)
    name = name_of(items[-1])
    if order is Order.NAME:
        return ListingPage(items, name)
    microseconds = (items[-1].updated_at - _EPOCH) // timedelta(microseconds=1)
    return ListingPage(items, f"at~{microseconds}~{name}")
