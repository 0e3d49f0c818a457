"""The bill of one repository's images: what each would free, and its fair share.

An image is a manifest that has a tag, or that nothing else refers to; its parts are the manifests
it lists and those that refer to it, and theirs. What a deletion of each would take is decided by
the same function as for the deletion itself, on a copy of the repository in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.deletion.closure import is_attached, what_goes
from ullage.documents import UNSET, Document, Time, UnsetType, changed
from ullage.oci.attached import attached_tags, attached_to
from ullage.oci.digest import Digest
from ullage.oci.reference import Tag
from ullage.registry.pull.pull_log import pulled_tags, pullers
from ullage.registry.queries import pulls
from ullage.registry.queries.content.manifests import ManifestRow
from ullage.registry.queries.references.manifests import all_manifests
from ullage.usage.queries import usage
from ullage.usage.queries.usage import BlobRow


@dataclass(slots=True)
class MemoryGraph:
    """A repository's manifests, as `Graph` wants them, and the blobs they refer to."""

    rows: dict[int, ManifestRow]
    ids: dict[Digest, int] = field(default_factory=dict)
    listed: dict[int, list[int]] = field(default_factory=dict)
    listing: dict[int, dict[int, Digest]] = field(default_factory=dict)
    referring: dict[Digest, list[int]] = field(default_factory=dict)
    tags_on: dict[int, list[Tag]] = field(default_factory=dict)
    named: dict[Tag, int] = field(default_factory=dict)
    blobs: dict[int, list[BlobRow]] = field(default_factory=dict)

    def children(self, ids: Collection[int]) -> Iterable[tuple[int, ManifestRow]]:
        return [(id_, self.rows[child]) for id_ in ids for child in self.listed.get(id_, ())]

    def referrers(self, digests: Collection[Digest]) -> Iterable[ManifestRow]:
        return [self.rows[id_] for digest in digests for id_ in self.referring.get(digest, ())]

    def parents(self, ids: Collection[int]) -> Mapping[int, Mapping[int, Digest]]:
        return {id_: self.listing[id_] for id_ in ids if id_ in self.listing}

    def tags(self, ids: Collection[int]) -> Mapping[int, Sequence[Tag]]:
        return {id_: self.tags_on[id_] for id_ in ids if id_ in self.tags_on}

    def tagged(self, tags: Collection[Tag]) -> Mapping[Tag, ManifestRow]:
        return {tag: self.rows[self.named[tag]] for tag in tags if tag in self.named}

    def find(self, digests: Collection[Digest]) -> Mapping[Digest, ManifestRow]:
        return {digest: self.rows[self.ids[digest]] for digest in digests if digest in self.ids}

    def is_image(self, row: ManifestRow) -> bool:
        """Whether it stands for itself: tagged, or held by nothing."""
        subjects = [row.subject, *map(attached_to, self._attaching(row))]
        held = row.id in self.listing or any(
            subject in self.ids for subject in subjects if subject is not None
        )
        return bool(self.own_tags(row)) or not held

    def own_tags(self, row: ManifestRow) -> list[Tag]:
        """Its tags without those that attach it to another image, there or not."""
        tags = self.tags_on.get(row.id, [])
        return [tag for tag in tags if not is_attached(tag, row.digest)]

    def _attaching(self, row: ManifestRow) -> list[Tag]:
        tags = self.tags_on.get(row.id, [])
        return [tag for tag in tags if is_attached(tag, row.digest)]

    def parts(self, root: int) -> set[int]:
        """The image with all it lists and all that refers to it."""
        found = {root}
        frontier = [root]
        while frontier:
            id_ = frontier.pop()
            digest = self.rows[id_].digest
            attached = (self.named.get(tag) for tag in attached_tags(digest))
            reached = [
                *self.listed.get(id_, ()),
                *self.referring.get(digest, ()),
                *(each for each in attached if each is not None),
            ]
            fresh = [each for each in reached if each not in found]
            found.update(fresh)
            frontier += fresh
        return found


def load(tx: Transaction, repository_id: int) -> MemoryGraph:
    """Read a whole repository; costs as much as is in it."""
    rows = {row.id: row for row in all_manifests(tx, repository_id)}
    graph = MemoryGraph(rows, {row.digest: row.id for row in rows.values()})
    for parent, child in usage.listings_in(tx, repository_id):
        graph.listed.setdefault(parent, []).append(child)
        graph.listing.setdefault(child, {})[parent] = rows[parent].digest
    for row in rows.values():
        if row.subject is not None:
            graph.referring.setdefault(row.subject, []).append(row.id)
    for manifest_id, tag in usage.tags_in(tx, repository_id):
        graph.tags_on.setdefault(manifest_id, []).append(tag)
        graph.named[tag] = manifest_id
    linked = {blob.digest: blob for blob in usage.blobs_linked(tx, repository_id)}
    for manifest_id, digest in usage.references_in(tx, repository_id):
        graph.blobs.setdefault(manifest_id, []).append(linked[digest])
    return graph


class ImageEntry(Document, frozen=True, kw_only=True):
    """A line of the bill: an image, or one `tag` of it."""

    tag: str | UnsetType = UNSET
    digest: str
    bytes: int
    exclusive_bytes: int
    shared_bytes: int
    manifest_count: int
    tags: list[str] | UnsetType = UNSET
    fair_share_bytes: int = 0
    # By a class of pullers that counts.
    last_pull: Time | None = None


def image_entries(tx: Transaction, repository_id: int, *, by_tag: bool) -> list[ImageEntry]:
    """A line for each image, or one for each tag of it; largest fair share first.

    A part of several images counts for each of them in equal parts, an image with several tags for
    each tag. A byte is shared by all manifests of the registry that refer to it.
    """
    graph = load(tx, repository_id)
    images = [row.id for row in graph.rows.values() if graph.is_image(row)]
    parts = {image: graph.parts(image) for image in images}
    images_of: dict[int, int] = {}
    for some in parts.values():
        for part in some:
            images_of[part] = images_of.get(part, 0) + 1
    fair = {
        id_: sum(blob.size / blob.manifest_refs for blob in graph.blobs.get(id_, ()))
        for id_ in graph.rows
    }
    counted = pullers(tx).counted
    pulled = pulls.of_manifests(tx, images, counted)
    by_name = {tag: image for image in images for tag in graph.tags_on.get(image, ())}
    pulled_by_name = pulled_tags(tx, repository_id, by_name, counted) if by_tag else {}
    lines: list[ImageEntry] = []
    for image in images:
        share = sum(fair[part] / images_of[part] for part in parts[image])
        line = image_line(graph, image, parts[image])
        tags = graph.tags_on.get(image, [])
        if by_tag:
            one_of = round(share / len(tags)) if tags else 0
            for tag in tags:
                last = _moment(pulled_by_name.get(tag))
                lines.append(changed(line, tag=tag, fair_share_bytes=one_of, last_pull=last))
        else:
            last = _moment(pulled.get(image))
            whole = round(share)
            lines.append(changed(line, tags=[*tags], fair_share_bytes=whole, last_pull=last))
    return sorted(lines, key=lambda line: (-line.fair_share_bytes, line.digest, line.tag or ""))


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def image_line(graph: MemoryGraph, image: int, parts: Collection[int]) -> ImageEntry:
    """What an image of these parts takes, and what deleting it would free."""
    size = sum(
        {blob.digest: blob.size for part in parts for blob in graph.blobs.get(part, ())}.values()
    )
    exclusive = _exclusive_bytes(graph, image)
    return ImageEntry(
        digest=graph.rows[image].digest,
        bytes=size,
        exclusive_bytes=exclusive,
        shared_bytes=size - exclusive,
        manifest_count=len(parts),
    )


def _exclusive_bytes(graph: MemoryGraph, image: int) -> int:
    """What deleting the image alone would free, when every promise to a pusher has ended."""
    losing: dict[BlobRow, int] = {}
    for id_ in what_goes(graph, [graph.rows[image]]).going:
        for blob in graph.blobs.get(id_, ()):
            losing[blob] = losing.get(blob, 0) + 1
    # Referred to by nothing else anywhere. A link without a reference is only a lease.
    return sum(blob.size for blob, count in losing.items() if blob.manifest_refs == count)
