"""Reading for many requests at once: one question about all that they ask.

What is not in an answer is not there or may not be pulled; `read` says which, in an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ullage.database.transaction import Question
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.leases.offers import Offer, offer
from ullage.registry.pull.blob_cache import BlobCache
from ullage.registry.pull.read import Page, page_of
from ullage.registry.queries.content import blobs, manifests, tags
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
    cache: BlobCache, asked: Iterable[ManifestAt]
) -> Question[dict[ManifestAt, StoredManifest]]:
    """Those that may be pulled. Bytes that are in `cache`, by their digest, are not read again.

    What names which manifest is read each time; a digest names the same bytes for ever.
    """
    found = yield from manifests.find_to_pull(asked)
    raws = {row.id: raw for row in found.values() if (raw := cache.get(row.digest)) is not None}
    missing = {row.id: row.digest for row in found.values() if row.id not in raws}
    for manifest_id, raw in (yield from manifests.raw_manifests(missing.keys())).items():
        cache.keep(missing[manifest_id], raw)
        raws[manifest_id] = raw
    # One without bytes was deleted between the two statements.
    return {
        at: StoredManifest(row.id, row.digest, row.media_type, raws[row.id])
        for at in asked
        if (row := found.get(at)) is not None and row.id in raws
    }


def find_blobs(asked: Iterable[BlobAt]) -> Question[dict[BlobAt, StoredBlob]]:
    """Those that may be pulled."""
    found = yield from blobs.find_blobs(asked)
    return {at: blob for at in asked if (blob := found.get(at)) is not None}


def find_tags(asked: Iterable[TagsOf]) -> Question[dict[TagsOf, Page]]:
    """The pages that have a tag on them."""
    found = {}
    for at in asked:
        names = yield from tags.tags_named(at.name, at.n + 1, at.last)
        if names:
            found[at] = page_of(names, at.n)
    return found


def promise_blobs(registry: Registry, asked: Mapping[Offer, int]) -> Question[dict[Offer, int]]:
    """As read.stat_blob_for_push, of many at once, as often as each was asked for: their sizes.

    What is not in the answer may be promised alone.
    """
    return offer(asked, registry.leases.period, registry.now())
