"""Signed URLs for pulls that read a blob from the store itself (buckets.md section 5).

One is signed for each blob and process in every `--signed-url`, however often it is pulled, and
handed out for as long as enough of it is left. What it may read stays until it has ended, whatever
is deleted meanwhile: that is written down before it is signed.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from ullage.oci.errors import BlobUnknown, RegistryError
from ullage.registry.context import Registry
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.registry.queries.reclaim.signed_reads import allow_signed_read

log = logging.getLogger(__name__)


def remembered_link(registry: Registry, key: str) -> str | None:
    """A URL for this storage key that was handed out before and lasts long enough; asks nothing."""
    return registry.signed_links.get(key, registry.now())


def signed_link(registry: Registry, blob: StoredBlob) -> str | None:
    """A URL that reads a blob for at least half of `Limits.signed_read`, and no longer than that.

    None if the blob is to be served without one: the store signs none, the database takes no
    change, or all this took too long. Raises BlobUnknown if it is not there any more.
    """
    if not registry.limits.signed_read or registry.unready is not None:
        return None
    return registry.signing.join(blob.key, blob, lambda _: _link(registry, blob))


def _link(registry: Registry, blob: StoredBlob) -> str | None:
    # Another request for it may have been faster.
    return remembered_link(registry, blob.key) or _sign(registry, blob)


def _sign(registry: Registry, blob: StoredBlob) -> str | None:
    longest = registry.limits.signed_read
    until = registry.now() + longest
    try:
        key = registry.write(lambda tx: allow_signed_read(tx, blob.digest, until))
    except RegistryError as error:
        # A full disk, say: nobody is kept from pulling by that.
        log.warning("no URL can be signed, blobs are served from here: %s", error.message)
        return None
    if key is None:
        raise BlobUnknown({"digest": blob.digest})
    now = registry.now()
    # Whole seconds, and the last of them is gone soon: a signature's time is cut to seconds, too.
    seconds = int((until - now).total_seconds())
    if timedelta(seconds=seconds) < longest / 2:
        return None
    try:
        url = registry.blobs.link(key, seconds)
    except OSError as error:
        log.warning("no URL can be signed, blobs are served from here: %s", error)
        return None
    if url is not None:
        good_until = now + timedelta(seconds=seconds - 1) - longest / 2
        registry.signed_links.keep(key, url, now, good_until)
    return url
