"""The bill: how many bytes there are, what they are, and whose (docs/design/accounting.md).

Exclusive bytes are those that deleting this alone would free. Shared bytes are needed elsewhere
too. A fair share is a byte's equal part for each that needs it, so that all shares sum to the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ullage.authorization import Action, Principal
from ullage.database.transaction import Transaction
from ullage.documents import UNSET, Document, Time, UnsetType, any_of
from ullage.oci.reference import RepositoryName
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.pull.pull_log import write_pulls
from ullage.registry.queries.content.repositories import require_repository
from ullage.registry.queries.counters import totals
from ullage.registry.stored_objects import unnamed
from ullage.usage.images import ImageEntry, image_entries
from ullage.usage.queries import usage
from ullage.usage.queries.tagged import Sums, leased_sums, tagged_sums
from ullage.usage.queries.usage import Portion, RepositoryRow, Space

LISTED_TOGETHER = 500
# The namespace of all that was deleted softly: no repository has this name.
SOFT_DELETED = ""


class Totals(Document, frozen=True):
    """Every byte of the blob store by what it is; `disk_bytes` is their sum.

    Manifests are rows of the database and counted beside it.
    """

    disk_bytes: int
    # A tag leads to it; manifests need it, but no tag leads there; no manifest needs it (yet).
    tagged_bytes: int
    untagged_bytes: int
    leased_bytes: int
    # Only what was deleted softly needs it.
    soft_deleted_bytes: int
    # Upload sessions; deleted and not off the disk yet.
    uploading_bytes: int
    pending_bytes: int
    blob_count: int
    manifest_count: int
    manifest_bytes: int
    # Taken off the disk since the registry was made.
    reclaimed_bytes: int
    # Of the disk that the store is on: how large it is, and what is free; null in a bucket.
    capacity_bytes: int | None
    free_bytes: int | None
    # Where the store was listed: what is in it, and what of that nothing names.
    store_bytes: int | UnsetType = UNSET
    unexplained_bytes: int | UnsetType = UNSET


class Entry(Document, frozen=True):
    """One line of the bill. `name` is None for what deleted repositories still take.

    With an `operation` it is what that one keeps of the repository, deleted softly. `bytes` are
    tagged, untagged and leased ones; of what was deleted they are none of these.
    """

    name: str | None
    operation: str | None
    bytes: int
    exclusive_bytes: int
    shared_bytes: int
    fair_share_bytes: int
    manifest_count: int
    tag_count: int
    manifest_bytes: int
    tagged_bytes: int
    untagged_bytes: int
    leased_bytes: int


if TYPE_CHECKING:
    Line = Entry | ImageEntry
else:
    Line = any_of(Entry, ImageEntry)


class Usage(Document, frozen=True, kw_only=True):
    """The bill: lines, the largest fair share first, and what they are parts of."""

    # A moment at which all of it was exact; UNSET: when it was asked for.
    as_of: Time | UnsetType = UNSET
    repository: Entry | UnsetType = UNSET
    by: str | UnsetType = UNSET
    entries: Sequence[Line] | UnsetType = UNSET
    # How many lines there are more.
    omitted: int | UnsetType = UNSET
    registry: Totals | UnsetType = UNSET


def sees_everything(principal: Principal) -> bool:
    """Whether the caller may read all repositories, and so the registry's sums.

    An administrator's token that was made for one repository does not say so.
    """
    return principal.may(Action.METADATA_READ, "*")


# --- the registry ---------------------------------------------------------------------------------


class Counted(NamedTuple):
    """What a transaction sees of the registry's sums. `sessions`: storage key, bytes recorded."""

    counters: dict[str, int]
    tagged_bytes: int
    leased_bytes: int
    soft_deleted_bytes: int
    sessions: list[tuple[str, int]]


def count_registry(tx: Transaction) -> Counted:
    """One pass over what tags lead to; everything else comes from counters."""
    return Counted(
        totals(tx),
        usage.tagged_bytes(tx),
        usage.leased_bytes(tx),
        usage.soft_deleted_bytes(tx),
        usage.sessions(tx),
    )


def registry_totals(registry: Registry) -> Totals:
    """What is on the disk, by the database's word; uploads by the store's, where that is cheap.

    Elsewhere a session to which bytes are arriving may have 64 MiB more than is said here. Costs
    as count_registry.
    """
    return totals_of(registry, registry.snapshot(count_registry))


def totals_of(registry: Registry, found: Counted) -> Totals:
    """The sums, with what uploads have in the store now."""
    counted, sessions = found.counters, [*found.sessions]
    if registry.memory_sessions is not None:
        began = registry.memory_sessions.began()
        sessions += [(each.upload.key, each.stored) for each in began]
    if registry.blobs.sizes_appends:
        uploading = sum(_size_of(registry, key) for key, _ in sessions)
    else:
        uploading = sum(stored for _, stored in sessions)
    room = room_of(registry)
    return Totals(
        disk_bytes=counted["blob_bytes"] + counted["pending_bytes"] + uploading,
        tagged_bytes=found.tagged_bytes,
        untagged_bytes=counted["blob_bytes"]
        - found.tagged_bytes
        - found.leased_bytes
        - found.soft_deleted_bytes,
        leased_bytes=found.leased_bytes,
        soft_deleted_bytes=found.soft_deleted_bytes,
        uploading_bytes=uploading,
        pending_bytes=counted["pending_bytes"],
        blob_count=counted["blob_count"],
        manifest_count=counted["manifest_count"],
        manifest_bytes=counted["manifest_bytes"],
        reclaimed_bytes=counted["reclaimed_bytes"],
        capacity_bytes=room.capacity,
        free_bytes=room.free,
    )


class Room(NamedTuple):
    """How large the disk of the store is, and what of it is free; None where there is no such."""

    capacity: int | None
    free: int | None


def room_of(registry: Registry) -> Room:
    """The room of this moment."""
    with store_errors():
        return Room(registry.blobs.capacity_bytes(), registry.blobs.free_bytes())


def _size_of(registry: Registry, key: str) -> int:
    with store_errors():
        return registry.blobs.size(key) or 0


def unexplained(registry: Registry) -> tuple[int, int]:
    """(bytes in the store, bytes of them that nothing in the database names): lists the store."""
    stored = unknown = 0
    with store_errors():
        listing = iter(registry.blobs.list())
        while some := list(islice(listing, LISTED_TOGETHER)):
            stored += sum(found.size for found in some)
            unknown += sum(found.size for found in unnamed(registry, some))
    return stored, unknown


# --- repositories and namespaces ------------------------------------------------------------------


def by_repository(registry: Registry, principal: Principal) -> list[Entry]:
    """A line for each repository the caller may read, largest fair share first.

    For a caller that sees all of them, the fair shares sum to the bytes of all blobs. One look at
    each blob, at the links of those that are shared, and one pass over what tags lead to.
    """
    entries = repository_entries(registry.snapshot(read_parts))
    return [entry for entry in entries if may_see(principal, entry)]


@dataclass(frozen=True, slots=True)
class Parts:
    """What lines are made of; see the queries that read it."""

    rows: Sequence[RepositoryRow]
    portions: Sequence[Portion]
    tagged: Sums
    leased: Sums


def read_parts(tx: Transaction) -> Parts:
    """What the lines of all repositories are made of, as of this transaction."""
    return Parts(
        usage.repository_rows(tx), usage.shared_portions(tx), tagged_sums(tx), leased_sums(tx)
    )


def repository_entries(parts: Parts) -> list[Entry]:
    """A line for each repository, largest fair share first."""
    return _sorted(_entries(parts))


def may_see(principal: Principal, entry: Entry) -> bool:
    if entry.name is None:
        return sees_everything(principal)
    right = Action.METADATA_READ if entry.operation is None else Action.DELETED_READ
    return principal.may(right, entry.name)


def of_repository(registry: Registry, name: RepositoryName) -> Entry:
    """The repository's line, and what of it tags lead to. Raises NameUnknown.

    Costs as much as is in the repository, whatever else the registry does.
    """

    def read(tx: Transaction) -> Parts:
        repository_id = require_repository(tx, name)
        return Parts(
            usage.repository_rows(tx, repository_id),
            usage.shared_portions(tx, repository_id),
            Sums({repository_id: usage.tagged_bytes(tx, repository_id)}, {}),
            Sums({repository_id: usage.leased_bytes(tx, repository_id)}, {}),
        )

    (entry,) = _entries(registry.snapshot(read))
    return entry


def _entries(parts: Parts) -> list[Entry]:
    rows = parts.rows
    exclusive = {row.id: row.blob_bytes for row in rows}
    shared = {row.id: Fraction(0) for row in rows}
    for portion in parts.portions:
        exclusive[portion.repository_id] -= portion.bytes
        shared[portion.repository_id] += Fraction(portion.bytes, portion.repositories)
    shares = dict(zip(shared, apportioned(list(shared.values())), strict=True))
    tagged, leased = parts.tagged.of_repositories, parts.leased.of_repositories
    return [
        Entry(
            name=row.name,
            operation=row.operation,
            bytes=row.blob_bytes,
            exclusive_bytes=exclusive[row.id],
            shared_bytes=row.blob_bytes - exclusive[row.id],
            fair_share_bytes=exclusive[row.id] + shares[row.id],
            manifest_count=row.manifest_count,
            tag_count=row.tag_count,
            manifest_bytes=row.manifest_bytes,
            **_kinds(
                row.blob_bytes if row.name is not None and row.operation is None else None,
                tagged.get(row.id, 0),
                leased.get(row.id, 0),
            ),
        )
        for row in rows
        if row.blob_bytes or row.manifest_count
    ]


def _kinds(size: int | None, tagged: int, leased: int) -> dict[str, int]:
    """Bytes by what they are, as members of Entry; without a `size` they are none of these."""
    untagged = 0 if size is None else size - tagged - leased
    return {"tagged_bytes": tagged, "untagged_bytes": untagged, "leased_bytes": leased}


def apportioned(shares: Sequence[Fraction]) -> list[int]:
    """Whole bytes that sum to the sum of the shares: those with the largest remainders round up."""
    whole = [int(share) for share in shares]
    left = round(sum(shares, Fraction(0))) - sum(whole)
    by_remainder = sorted(range(len(shares)), key=lambda i: (whole[i] - shares[i], i))
    for index in by_remainder[:left]:
        whole[index] += 1
    return whole


def by_namespace(registry: Registry) -> list[Entry]:
    """A line for each namespace: what names have before their first slash, or all of it.

    For a caller that sees everything. Costs as by_repository.
    """
    parts, spaces = registry.snapshot(lambda tx: (read_parts(tx), usage.spaces(tx)))
    return namespace_entries(parts, spaces)


def namespace_entries(parts: Parts, spaces: Sequence[Space]) -> list[Entry]:
    """A line for each namespace, largest fair share first."""
    shared = {space.name: space for space in spaces}
    members: dict[str | None, list[Entry]] = {}
    for entry in _entries(parts):
        if entry.operation is not None:
            namespace: str | None = SOFT_DELETED
        else:
            namespace = entry.name.partition("/")[0] if entry.name is not None else None
        members.setdefault(namespace, []).append(entry)
    return _sorted(
        _joined(name, some, shared.get(name) if name is not None else None, parts)
        for name, some in members.items()
    )


def _joined(
    namespace: str | None, members: Sequence[Entry], shared: Space | None, parts: Parts
) -> Entry:
    """What one repository has alone, its namespace has; of what several have, each blob once."""
    alone = sum(entry.exclusive_bytes for entry in members)
    size = alone + (shared.bytes if shared else 0)
    exclusive = alone + (shared.own_bytes if shared else 0)
    name = namespace or SOFT_DELETED
    return Entry(
        name=namespace,
        operation=None,
        bytes=size,
        exclusive_bytes=exclusive,
        shared_bytes=size - exclusive,
        fair_share_bytes=sum(entry.fair_share_bytes for entry in members),
        manifest_count=sum(entry.manifest_count for entry in members),
        tag_count=sum(entry.tag_count for entry in members),
        manifest_bytes=sum(entry.manifest_bytes for entry in members),
        **_kinds(
            size if name else None,
            parts.tagged.of_namespaces.get(name, 0),
            parts.leased.of_namespaces.get(name, 0),
        ),
    )


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=_by_size)


def _by_size(entry: Entry) -> tuple[int, str, str]:
    return -entry.fair_share_bytes, entry.name or "", entry.operation or ""


# --- images and tags ------------------------------------------------------------------------------


def by_image(registry: Registry, name: RepositoryName, *, tags: bool) -> list[ImageEntry]:
    """A line for each image of a repository, or for each of its `tags`. Raises NameUnknown."""

    def read(tx: Transaction) -> list[ImageEntry]:
        repository_id = require_repository(tx, name)
        return image_entries(tx, repository_id, by_tag=tags)

    write_pulls(registry)
    return registry.snapshot(read)
