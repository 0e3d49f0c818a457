"""A page of a repository's images with what each takes and would free: it costs what is shown.

The bill of a whole repository reads all of it (images.py). A page in the order of pushes reads only
the images on it and what they have to do with; one in another order needs the whole ranking.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ullage.database.transaction import Transaction
from ullage.deletion.closure import is_attached, subjects_of
from ullage.oci.attached import attached_tags, attached_to
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.listings import require_manifest, require_repository, require_tag
from ullage.registry.pull.pull_log import LastPull, last_pulls, write_pulls
from ullage.registry.queries import listings
from ullage.registry.queries.content.manifests import ManifestRow, find_manifests
from ullage.registry.queries.content.remove_manifests import parents_of, referrers_of
from ullage.registry.queries.listings import ManifestDetails, Order, Position
from ullage.registry.queries.references.manifests import children, tagged, tags_on
from ullage.usage.images import ImageEntry, MemoryGraph, image_entries, image_line
from ullage.usage.queries import usage
from ullage.usage.queries.usage import BlobRow
from ullage.usage.ranking import Sorting, place_behind, ranked

# Platforms and signatures are no images: so many manifests are looked at for each of a page.
LOOKED_AT = 10


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image: a manifest that has a tag of its own, or that nothing else keeps."""

    details: ManifestDetails
    line: ImageEntry
    # Those that name it, without those by which it is attached to another one.
    tags: Sequence[str]
    last_pull: LastPull | None


@dataclass(frozen=True, slots=True)
class ImagePage:
    """Some images; `next` is where the next page starts. `total` where all were counted."""

    images: Sequence[ShownImage]
    next: str | None
    total: int | None = None


def newest_images(registry: Registry, name: RepositoryName, n: int, last: str | None) -> ImagePage:
    """Up to `n` images, pushed or tagged last, behind the manifest `last`. Raises NameUnknown.

    There may be fewer where most of what was pushed are platforms; `next` says if there are more.
    """
    write_pulls(registry)

    def read(tx: Transaction) -> ImagePage:
        repository_id = require_repository(tx, name)
        looked_at = n * LOOKED_AT
        rows = listings.manifest_page(
            tx, repository_id, Order.NEWEST_FIRST, _behind(tx, repository_id, last), looked_at
        )
        some = _images_among(tx, repository_id, rows)
        first = some[:n]
        end = first[-1].digest if len(some) > n else rows[-1].digest if rows else None
        more = len(some) > n or len(rows) == looked_at
        return ImagePage(_shown(tx, repository_id, first), end if more else None)

    return registry.snapshot(read)


def ranked_images(
    registry: Registry,
    name: RepositoryName,
    sorting: Sorting,
    n: int,
    last: str | None,
    *,
    text: str = "",
    orphans: bool = False,
) -> ImagePage:
    """Up to `n` images behind `last`, in any order; those with a text in a tag or the digest.

    `orphans`: those without a tag. Reads all that is in the repository. Raises NameUnknown.
    """
    write_pulls(registry)

    def read(tx: Transaction) -> ImagePage:
        repository_id = require_repository(tx, name)
        whole = image_entries(tx, repository_id, by_tag=False)
        chosen = (entry for entry in whole if not (orphans and entry.tags))
        entries = ranked(chosen, sorting, text)
        start = place_behind(entries, last)
        some = entries[start : start + n]
        digests = [Digest(entry.digest) for entry in some]
        found = listings.manifests_named(tx, repository_id, digests)
        details = [found[digest] for digest in digests if digest in found]
        more = start + n < len(entries) and bool(some)
        shown = _shown(tx, repository_id, details)
        return ImagePage(shown, some[-1].digest if more else None, len(entries))

    return registry.snapshot(read)


# --- one image ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageParts:
    """An image with the manifests that belong to it and the blobs that they refer to."""

    image: ShownImage
    raw: bytes
    # Those that it lists and those that refer to it, with what they are.
    manifests: Mapping[Digest, ManifestDetails]
    blobs: Mapping[Digest, BlobRow]


def image_parts(registry: Registry, name: RepositoryName, reference: Tag | Digest) -> ImageParts:
    """One image, whole. Raises ManifestUnknown, TagUnknown."""
    write_pulls(registry)

    def read(tx: Transaction) -> ImageParts:
        if isinstance(reference, Digest):
            digest = reference
        else:
            digest = require_tag(tx, name, reference).digest
        details = require_manifest(tx, name, digest)
        repository_id = require_repository(tx, name)
        graph = _around(tx, repository_id, [digest])
        parts = graph.parts(details.id)
        digests = [graph.rows[part].digest for part in parts if part != details.id]
        blobs = [blob for part in parts for blob in graph.blobs.get(part, ())]
        return ImageParts(
            _shown_in(tx, graph, [details])[0],
            listings.manifest_bytes(tx, details.id),
            listings.manifests_named(tx, repository_id, digests),
            {blob.digest: blob for blob in blobs},
        )

    return registry.snapshot(read)


# --- what is around some images -------------------------------------------------------------------


def _behind(tx: Transaction, repository_id: int, last: str | None) -> Position | None:
    at = listings.manifest_updated_at(tx, repository_id, last) if last else None
    return None if at is None or last is None else Position(last, at)


def _images_among(
    tx: Transaction, repository_id: int, rows: Sequence[ManifestDetails]
) -> list[ManifestDetails]:
    """Those that stand for themselves: no platform of an index, no signature of what is there."""
    subjects = {
        row.id: {subject for tag in row.tags or () if (subject := attached_to(tag)) is not None}
        for row in rows
        if row.tags and not _own_tags(row)
    }
    there = find_manifests(tx, repository_id, {s for some in subjects.values() for s in some})
    return [row for row in rows if row.tags != () and not (subjects.get(row.id, set()) & {*there})]


def _own_tags(details: ManifestDetails) -> list[str]:
    return [tag for tag in details.tags or () if not is_attached(tag, details.digest)]


def _shown(
    tx: Transaction, repository_id: int, some: Sequence[ManifestDetails]
) -> list[ShownImage]:
    return _shown_in(tx, _around(tx, repository_id, [each.digest for each in some]), some)


def _shown_in(
    tx: Transaction, graph: MemoryGraph, some: Sequence[ManifestDetails]
) -> list[ShownImage]:
    pulled = last_pulls(tx, [each.id for each in some])
    return [
        ShownImage(
            each,
            image_line(graph, each.id, graph.parts(each.id)),
            _own_tags(each) or each.tags or (),
            pulled.get(each.id),
        )
        for each in some
    ]


def _around(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> MemoryGraph:
    """These manifests with all that may go with them and all that may keep it.

    As many statements as manifests are nested deep, whatever the repository holds.
    """
    graph = MemoryGraph({})
    reached = [*find_manifests(tx, repository_id, digests).values()]
    while fresh := _add(graph, reached):
        ids, names = {row.id for row in fresh}, {row.digest for row in fresh}
        listed = children(tx, ids)
        for parent, row in listed:
            graph.listed.setdefault(parent, []).append(row.id)
        referring = referrers_of(tx, repository_id, names)
        for row in referring:
            if row.subject is not None:
                graph.referring.setdefault(row.subject, []).append(row.id)
        attached = tagged(tx, repository_id, [tag for name in names for tag in attached_tags(name)])
        graph.named.update((tag, row.id) for tag, row in attached.items())
        reached = [*(row for _, row in listed), *referring, *attached.values()]
    parts = {*graph.rows}
    graph.listing = parents_of(tx, parts)
    graph.tags_on = tags_on(tx, parts)
    graph.blobs = usage.blobs_of_manifests(tx, parts)
    subjects = {s for row in graph.rows.values() for s in _subjects(graph, row)}
    _add(graph, find_manifests(tx, repository_id, subjects).values())
    return graph


def _subjects(graph: MemoryGraph, row: ManifestRow) -> set[Digest]:
    return subjects_of(row, graph.tags_on.get(row.id, ()))


def _add(graph: MemoryGraph, rows: Collection[ManifestRow]) -> list[ManifestRow]:
    """Those of these manifests that are new to it."""
    fresh = [row for row in {row.id: row for row in rows}.values() if row.id not in graph.rows]
    graph.rows.update((row.id, row) for row in fresh)
    graph.ids.update((row.digest, row.id) for row in fresh)
    return fresh
