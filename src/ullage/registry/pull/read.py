"""Reading: manifests, blobs, tags, the catalog, referrers."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from ullage.authorization import Principal
from ullage.blobs.protocol import KeyUnknown, Reader
from ullage.database.transaction import Transaction
from ullage.documents import UNSET, Document, UnsetType, plain
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUnknown, ManifestUnknown, NameUnknown, RegistryError, Unavailable
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import SHORT_OF_FILES, database_errors, is_short_of_files
from ullage.registry.locks import attribute_locks
from ullage.registry.quarantine import quarantine_blob
from ullage.registry.queries.attributes import Lock
from ullage.registry.queries.content import manifests, repositories, tags
from ullage.registry.queries.content.blobs import StoredBlob, find_blob
from ullage.registry.queries.content.manifests import ReferrerRow, StoredManifest
from ullage.registry.queries.content.repositories import repository_exists, require_repository

log = logging.getLogger(__name__)

# One answer of the referrers API: this many descriptors, or as many as fit into this many bytes.
REFERRERS_PAGE = 100
REFERRERS_BYTES = 1024 * 1024

_DAMAGED = "the stored bytes of this blob are damaged"
# At most what a tag takes in memory.
TAG_BYTES = 200
# What is read of a blob to see that it is there.
LOOK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """Some names in byte order, and whether there are more after the last one."""

    items: tuple[str, ...]
    more: bool


class Descriptor(Document, frozen=True, rename="camel"):
    """distribution-spec, "Listing Referrers": a descriptor of the answer."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | UnsetType = UNSET
    annotations: dict[str, str] | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """Some referrers; `next` is where the next page starts, if any."""

    descriptors: tuple[Descriptor, ...]
    next: str | None


def get_manifest(
    registry: Registry, name: RepositoryName, reference: Tag | Digest
) -> StoredManifest:
    """The manifest that a tag or digest names, byte for byte as it was pushed.

    Raises NameUnknown if the repository has no manifest at all, else ManifestUnknown; Locked.
    """

    def find(tx: Transaction) -> StoredManifest:
        found = manifests.get_manifest(tx, name, reference)
        if found is not None:
            if found.unreadable is not None:
                raise attribute_locks.locked(name, found.unreadable)
            return found
        if not repository_exists(tx, name):
            raise NameUnknown({"name": name})
        what = f"{reference}" if isinstance(reference, Digest) else f'tagged by "{reference}"'
        raise ManifestUnknown(
            {"Name": name, "Revision": reference}, f"manifest {what} is not found"
        )

    return registry.cached_read(("manifest", name, reference), find, lambda found: len(found.raw))


def stat_blob(registry: Registry, name: RepositoryName, digest: Digest) -> StoredBlob:
    """What a repository may read under this digest. Raises BlobUnknown, Locked."""
    blob = _find_blob(registry, name, digest)
    if not blob.readable:
        raise attribute_locks.locked(name, Lock("repository", name, "read_enabled"))
    return blob


def _find_blob(registry: Registry, name: RepositoryName, digest: Digest) -> StoredBlob:
    blob = registry.cached_read(
        ("blob", name, digest), lambda tx: find_blob(tx, name, digest), lambda _: 0
    )
    if blob is None:
        raise BlobUnknown({"digest": digest})
    return blob


def stat_blob_for_push(
    registry: Registry, name: RepositoryName, digest: Digest, caller: Caller
) -> StoredBlob:
    """As stat_blob, for a caller that may push: the answer is a promise that the blob stays.

    Its push may leave the upload out, so the blob is leased until the manifest comes. That hands
    out no bytes, so it goes on where nothing may be pulled. Raises BlobUnknown.
    """
    blob = _find_blob(registry, name, digest)
    while not _promised(registry, blob, caller):
        again = _find_blob(registry, name, digest)
        if again.repository_id == blob.repository_id:
            # It is being deleted at this moment: the client uploads it, which is always safe.
            raise BlobUnknown({"digest": digest})
        # The repository was deleted in between, and another push keeps the blob in the next one.
        blob = again
    return blob


def _promised(registry: Registry, blob: StoredBlob, caller: Caller) -> bool:
    with database_errors():
        return registry.leases.offer(
            registry.db, blob.repository_id, blob.digest, caller.pusher, registry.now()
        )


class BlobReader:
    """A blob's bytes, open for reading. Stays readable when the blob is deleted meanwhile."""

    def __init__(
        self,
        key: str,
        reader: Reader,
        first: bytes,
        refusal: Callable[[KeyUnknown | OSError], RegistryError],
        *,
        there: bool,
    ) -> None:
        """`there`: the store has looked; `refusal` says what to raise if it finds nothing later."""
        # The storage key that the bytes lie under.
        self.key = key
        self.there = there
        self._reader = reader
        # Bytes that were read already, and where they begin.
        self._first, self._first_at = first, 0
        self._refusal = refusal

    @property
    def size(self) -> int:
        return self._reader.size

    def ready(self, start: int, stop: int) -> bytes | None:
        """The bytes [start, stop) if they were read already."""
        begin = self._first_at
        if begin <= start and stop <= begin + len(self._first):
            return self._first[start - begin : stop - begin]
        return None

    def look(self, start: int, stop: int) -> None:
        """Read the first of these bytes now, so that an answer can still say that there are none.

        Raises what `open_blob` does.
        """
        try:
            self._first = self._reader.read_at(start, min(stop - start, LOOK_BYTES))
        except (KeyUnknown, OSError) as error:
            raise self._refusal(error) from error
        self._first_at, self.there = start, True

    def read_at(self, offset: int, n: int) -> bytes:
        try:
            return self._reader.read_at(offset, n)
        except KeyUnknown as error:
            raise self._refusal(error) from error

    def read_now(self, offset: int, n: int) -> bytes | None:
        """Up to `n` bytes if they are in memory; None if a disk must be waited for."""
        if self._first and offset == self._first_at:
            piece, self._first = self._first[:n], self._first[n:]
            self._first_at += len(piece)
            return piece
        return self._reader.read_now(offset, n)

    def close(self) -> None:
        self._reader.close()


def open_blob(
    registry: Registry, name: RepositoryName, digest: Digest, *, read_ahead: int = 0
) -> BlobReader:
    """Open a blob for reading; one of at most `read_ahead` bytes is read at once.

    Raises BlobUnknown, also if the stored bytes are missing or have another size, which puts the
    blob in quarantine; Unavailable if they cannot be read now.
    """
    return open_found_blob(registry, name, stat_blob(registry, name, digest), read_ahead=read_ahead)


def open_found_blob(
    registry: Registry, name: RepositoryName, blob: StoredBlob, *, read_ahead: int = 0
) -> BlobReader:
    """As open_blob, of a blob that was looked for just now."""

    def refusal(error: KeyUnknown | OSError) -> RegistryError:
        if isinstance(error, OSError):
            return _unreadable(blob.digest, error)
        return _lost(registry, name, blob, "its bytes are missing")

    try:
        reader = registry.blobs.open(blob.key, blob.size)
    except (KeyUnknown, OSError) as error:
        raise refusal(error) from error
    try:
        if reader.size != blob.size:
            size = f"{reader.size} bytes instead of {blob.size}"
            raise _lost(registry, name, blob, f"its bytes are others: {size}")
        first = reader.read_at(0, blob.size) if 0 < blob.size <= read_ahead else b""
        if len(first) == blob.size:
            registry.blob_cache.keep(blob.key, first)
        # A store that is far away looks when it is read from.
        there = registry.blobs.sizes_appends or bool(first)
        return BlobReader(blob.key, reader, first, refusal, there=there)
    except (KeyUnknown, OSError) as error:
        reader.close()
        raise refusal(error) from error
    except BaseException:
        reader.close()
        raise


def _lost(registry: Registry, name: RepositoryName, blob: StoredBlob, what: str) -> RegistryError:
    """What to say of a blob whose bytes are not there; nobody is told again that it is."""
    # Deleted since the row was read, or replaced by a push, is no damage: this look says so.
    if stat_blob(registry, name, blob.digest).key != blob.key:
        return Unavailable(message="this blob has just been pushed again; try again", retry_after=1)
    if quarantine_blob(registry, blob.digest, blob.key, what):
        return BlobUnknown({"digest": blob.digest}, f"{_DAMAGED}; push an image that has it again")
    return Unavailable({"digest": blob.digest}, f"{_DAMAGED}; ask the registry's operator")


def _unreadable(digest: Digest, error: OSError) -> Unavailable:
    if is_short_of_files(error):
        return Unavailable({"digest": digest}, SHORT_OF_FILES, retry_after=1)
    log.error("blob %s cannot be read: %s", digest, error)
    return Unavailable({"digest": digest}, f"{_DAMAGED}; ask the registry's operator")


def list_tags(registry: Registry, name: RepositoryName, n: int, last: str | None) -> Page:
    """Up to `n` tags after `last`. Raises NameUnknown."""

    def find(tx: Transaction) -> Page:
        repository_id = require_repository(tx, name)
        return page_of(tags.list_tags(tx, repository_id, n + 1, last), n)

    return registry.cached_read(
        ("tags", name, n, last), find, lambda page: TAG_BYTES * len(page.items)
    )


def list_repositories(registry: Registry, n: int, last: str | None, principal: Principal) -> Page:
    """Up to `n` repositories after `last` that have a manifest and that the caller may read."""
    readable = set(principal.readable())
    patterns = None if "*" in readable else readable
    found = registry.read(lambda tx: repositories.list_repositories(tx, n + 1, last, patterns))
    return page_of(found, n)


def list_referrers(
    registry: Registry,
    name: RepositoryName,
    digest: Digest,
    artifact_type: str | None,
    n: int,
    last: str | None,
) -> ReferrersPage:
    """Manifests of this repository whose subject is `digest`, which need not exist itself.

    A page holds at most `n`, and fewer where annotations are large.
    """
    n = min(n, REFERRERS_PAGE)
    rows = registry.read(
        lambda tx: manifests.list_referrers(tx, name, digest, artifact_type, n + 1, last)
    )
    descriptors: list[Descriptor] = []
    size = 0
    for row in rows[:n]:
        descriptor = _descriptor(row)
        size += len(json.dumps(plain(descriptor)))
        if descriptors and size > REFERRERS_BYTES:
            break
        descriptors.append(descriptor)
    more = len(rows) > len(descriptors) > 0
    return ReferrersPage(tuple(descriptors), descriptors[-1].digest if more else None)


def _descriptor(row: ReferrerRow) -> Descriptor:
    return Descriptor(
        row.media_type,
        row.digest,
        row.size,
        row.artifact_type if row.artifact_type is not None else UNSET,
        row.annotations or UNSET,
    )


def page_of(items: list[str], n: int) -> Page:
    """The first `n` of what was read of a list; one more of it says that there are more."""
    return Page(tuple(items[:n]), more=len(items) > n)
