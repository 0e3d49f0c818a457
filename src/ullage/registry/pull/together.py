"""Reading for many requests at once: one question about all that they ask.

What is not in an answer is not there or may not be pulled; `read` says which, in an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.errors import NameUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.pull.read import Page, tags_page
from ullage.registry.queries.content import blobs, manifests
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.registry.queries.content.manifests import StoredManifest


class ManifestAt(NamedTuple):
    """A manifest, by what names it in a repository."""

    name: RepositoryName
    reference: Tag | Digest


class BlobAt(NamedTuple):
    """A blob of a repository."""

    name: RepositoryName
    digest: Digest


class TagsOf(NamedTuple):
    """Up to `n` tags of a repository after `last`."""

    name: RepositoryName
    n: int
    last: str | None


def find_manifests(
    registry: Registry, asked: Sequence[ManifestAt]
) -> dict[ManifestAt, StoredManifest]:
    """Those that may be pulled. Bytes that are in memory are not read again.

    What names which manifest is read each time; a manifest's id names the same bytes for ever.
    Raises Unavailable.
    """
    cache = registry.manifest_cache

    def find(tx: Transaction) -> dict[ManifestAt, StoredManifest]:
        found = manifests.find_to_pull(tx, asked)
        raws = {row.id: raw for row in found.values() if (raw := cache.get(row.id)) is not None}
        missing = {row.id for row in found.values()} - raws.keys()
        for manifest_id, raw in manifests.raw_manifests(tx, missing).items():
            cache.keep(manifest_id, raw)
            raws[manifest_id] = raw
        # One without bytes was deleted between the two statements.
        return {
            at: StoredManifest(row.id, row.digest, row.media_type, raws[row.id])
            for at in asked
            if (row := found.get(at)) is not None and row.id in raws
        }

    return registry.read(find)


def find_blobs(registry: Registry, asked: Sequence[BlobAt]) -> dict[BlobAt, StoredBlob]:
    """Those that may be pulled. Raises Unavailable."""
    found = registry.read(lambda tx: blobs.find_blobs(tx, asked))
    return {at: blob for at in asked if (blob := found.get(at)) is not None}


def find_tags(registry: Registry, asked: Sequence[TagsOf]) -> dict[TagsOf, Page]:
    """The pages of repositories that exist. Raises Unavailable."""

    def find(tx: Transaction) -> dict[TagsOf, Page]:
        found = {}
        for page in asked:
            try:
                found[page] = tags_page(tx, *page)
            except NameUnknown:
                continue
        return found

    return registry.read(find)
