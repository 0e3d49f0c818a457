"""Pushing manifests. Bytes first (deletion.md section 3.3).

What can be said of a manifest by itself is checked before the transaction that stores it; what
depends on its repository is checked in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import DigestInvalid, ManifestBlobUnknown, ManifestInvalid, ManifestTooLarge
from ullage.oci.manifest.descriptor import Descriptor
from ullage.oci.manifest.limits import ManifestLimits
from ullage.oci.manifest.parsing import Manifest, parse_manifest
from ullage.oci.reference import RepositoryName, Tag
from ullage.oci.sparse import Sparse
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks, immutable_tags
from ullage.registry.push.platforms import platform_of
from ullage.registry.push.prepared import Prepared
from ullage.registry.queries.content.absent_parts import absent_of, add_absent
from ullage.registry.queries.content.blobs import linked_among, lock_blobs
from ullage.registry.queries.content.manifests import (
    ManifestRow,
    Platform,
    add_references,
    find_manifests,
    insert_manifest,
    media_type_of,
    touch_manifest,
)
from ullage.registry.queries.content.remove_manifests import blobs_of, children_of
from ullage.registry.queries.content.repositories import count_push, ensure_repository
from ullage.registry.queries.content.tags import find_tag, put_tag
from ullage.registry.queries.reclaim.reviews import cancel_reviews


@dataclass(frozen=True, slots=True)
class PutResult:
    """A stored manifest: its digest, its subject if it names one, and the tags now on it."""

    digest: Digest
    subject: Digest | None
    tags: tuple[Tag, ...]


def prepare_manifest(
    registry: Registry,
    name: RepositoryName,
    reference: Tag | Digest,
    raw: bytes,
    media_type: str | None,
    caller: Caller,
    tags: Sequence[Tag] = (),
) -> Prepared[PutResult]:
    """A manifest to be stored under its digest, with tags that point to it; all of it or nothing.

    Raises ManifestTooLarge, ManifestInvalid, DigestInvalid (`reference` is the digest of other
    bytes). Its transaction raises ManifestBlobUnknown if something it needs is not in this
    repository; Locked if the repository, this manifest or one of the tags may not be written;
    OperationDisallowed if one of the tags points to another manifest and is immutable by a rule.
    """
    _require_length(raw, registry.limits.max_manifest_bytes)
    digest = _require_digest(raw, reference)
    limits = ManifestLimits(max_descriptors=registry.limits.max_manifest_descriptors)
    manifest = parse_manifest(raw, media_type, limits)
    if not isinstance(reference, Digest):
        tags = (reference, *tags)
    now = registry.now()
    platform = platform_of(registry, name, digest, manifest)
    failpoint("manifest.put.before_row")
    unique_tags = tuple(dict.fromkeys(tags))
    return _ManifestPush(registry, name, caller, digest, raw, manifest, unique_tags, platform, now)


def _require_length(raw: bytes, limit: int) -> None:
    if len(raw) > limit:
        raise ManifestTooLarge({"max_bytes": limit}, "the manifest is too large")


def _require_digest(raw: bytes, reference: Tag | Digest) -> Digest:
    """The manifest's digest: the one that it is pushed by, if it is pushed by digest."""
    if not isinstance(reference, Digest):
        return digest_of(raw)
    digest = digest_of(raw, reference.algorithm)
    if digest != reference:
        raise DigestInvalid(
            {"expected": reference, "found": digest}, "the manifest does not have this digest"
        )
    return digest


@dataclass(frozen=True, slots=True)
class _ManifestPush(Prepared[PutResult]):
    """A manifest that is right by itself, on its way into its repository."""

    registry: Registry
    name: RepositoryName
    caller: Caller
    digest: Digest
    raw: bytes
    manifest: Manifest
    tags: tuple[Tag, ...]
    platform: Platform
    now: datetime

    def record(self, tx: Transaction) -> PutResult:
        repository = ensure_repository(tx, self.name, self.now)
        attribute_locks.require_row_writable(repository)
        attribute_locks.require_tags_writable(tx, repository.id, self.name, self.tags)
        known = find_manifests(tx, repository.id, [self.digest]).get(self.digest)
        lenient = _Lenient(self.registry.limits.sparse_indexes.of(self.name), known)
        parts = _require_parts(tx, repository.id, self.manifest, lenient)
        if known is None:
            manifest_id = self._store(tx, parts)
        else:
            manifest_id = self._store_again(tx, known.id, parts)
        failpoint("manifest.put.in_transaction")
        new_tags = sum(self._put_tag(tx, repository.id, tag, manifest_id) for tag in self.tags)
        new = [len(self.raw)] if known is None else []
        count_push(tx, repository.id, new, new_tags, self.now)
        self._audit(tx)
        subject = self.manifest.subject
        return PutResult(self.digest, subject.digest if subject else None, self.tags)

    def recorded(self, result: PutResult) -> None:
        failpoint("manifest.put.after_row")

    def _store(self, tx: Transaction, parts: _Parts) -> int:
        manifest_id = insert_manifest(
            tx,
            parts.repository_id,
            self.digest,
            self.manifest,
            self.raw,
            blobs=parts.blobs,
            children=parts.children,
            platform=self.platform,
            now=self.now,
        )
        add_absent(tx, manifest_id, blobs=parts.absent_blobs, children=parts.absent_children)
        cancel_reviews(tx, parts.repository_id, parts.blobs)
        self._redeem(tx, parts)
        return manifest_id

    def _store_again(self, tx: Transaction, manifest_id: int, parts: _Parts) -> int:
        manifest = self.manifest
        _require_same_type(tx, manifest_id, manifest)
        attribute_locks.require_manifest_writable(tx, self.name, manifest_id, self.digest)
        touch_manifest(tx, manifest_id, self.now)
        if manifest.optional_blobs or manifest.optional_children:
            _add_what_came_since(tx, manifest_id, parts)
        # A client that pushes it once more has asked for its config; one that merely tags it has
        # not, and what was promised to this client is for another push.
        self._redeem(tx, parts, witness=manifest.config.digest if manifest.config else None)
        return manifest_id

    def _put_tag(self, tx: Transaction, repository_id: int, tag: Tag, manifest_id: int) -> bool:
        """Whether the tag is new."""
        there = find_tag(tx, repository_id, tag)
        if there is not None and there.manifest_id != manifest_id:
            immutable_tags.require_movable(there.immutable_tags, self.name, tag)
        return put_tag(tx, repository_id, tag, manifest_id, self.now, there)

    def _redeem(self, tx: Transaction, parts: _Parts, witness: Digest | None = None) -> None:
        leases, pusher = self.registry.leases, self.caller.pusher
        leases.redeem(tx, parts.repository_id, parts.blobs, pusher, witness=witness)

    def _audit(self, tx: Transaction) -> None:
        audit, name, digest = self.registry.audit, self.name, self.digest
        media_type = self.manifest.media_type
        detail = {"tags": self.tags, "media_type": media_type, "bytes": len(self.raw)}
        audit(tx, self.caller, "manifest.push", repository=name, target=digest, detail=detail)
        tx.after_commit(lambda: self.registry.tallies.add("pushes", _kind_of(self.manifest)))


# Of schema 1 there is no config.
_IMAGE_CONFIGS = frozenset(
    [
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    ]
)


def _kind_of(manifest: Manifest) -> str:
    """An index, an image, or something else that is kept beside images."""
    if manifest.manifests:
        return "index"
    config = manifest.config
    return "image" if config is None or config.media_type in _IMAGE_CONFIGS else "artifact"


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a manifest refers to in its repository: blobs in digest order, and manifests' ids."""

    repository_id: int
    blobs: list[Digest]
    children: list[int]
    # What it needs and does without.
    absent_blobs: list[Descriptor]
    absent_children: list[Descriptor]


def _require_parts(
    tx: Transaction, repository_id: int, manifest: Manifest, lenient: _Lenient
) -> _Parts:
    blobs, absent_blobs = _require_blobs(tx, repository_id, manifest, lenient)
    children, absent_children = _require_children(tx, repository_id, manifest, lenient)
    return _Parts(repository_id, blobs, children, absent_blobs, absent_children)


@dataclass(frozen=True, slots=True)
class _Lenient:
    """What a manifest may do without: by the rules, or because it is stored and does already."""

    sparse: Sparse
    known: ManifestRow | None

    def refused(
        self, tx: Transaction, absent: Sequence[Descriptor], *, allowed: bool
    ) -> Digest | None:
        """The first part that must not be absent."""
        if allowed or not absent:
            return None
        without = absent_of(tx, self.known.id) if self.known is not None else set()
        return next((part.digest for part in absent if part.digest not in without), None)


def _require_blobs(
    tx: Transaction, repository_id: int, manifest: Manifest, lenient: _Lenient
) -> tuple[list[Digest], list[Descriptor]]:
    """The blobs this manifest will refer to, locked, in digest order; and what it does without."""
    named = {blob.digest: blob for blob in (*manifest.optional_blobs, *manifest.required_blobs)}
    sizes = lock_blobs(tx, named.keys())
    # A statement after the lock, so that it sees what was decided while the lock was waited for.
    here = linked_among(tx, repository_id, sizes.keys())
    absent = [blob for blob in manifest.required_blobs if blob.digest not in here]
    # What is here and damaged is not absent: it is healed by the push of its bytes.
    damaged = linked_among(tx, repository_id, [blob.digest for blob in absent])
    allowed = lenient.sparse is Sparse.ALLOW
    broken = next((blob.digest for blob in absent if blob.digest in damaged), None)
    refused = broken or lenient.refused(tx, absent, allowed=allowed)
    if refused is not None:
        raise ManifestBlobUnknown(
            {"digest": refused},
            f"blob {refused} is not in this repository; upload or mount it first",
        )
    for digest in here:
        _require_size(named[digest], sizes[digest])
    return sorted(here), absent


def _require_children(
    tx: Transaction, repository_id: int, manifest: Manifest, lenient: _Lenient
) -> tuple[list[int], list[Descriptor]]:
    """The ids of the manifests here that this index lists, and what it does without."""
    named = {
        child.digest: child for child in (*manifest.optional_children, *manifest.required_children)
    }
    here = find_manifests(tx, repository_id, named.keys())
    absent = [child for child in manifest.required_children if child.digest not in here]
    allowed = lenient.sparse is not Sparse.DENY
    refused = lenient.refused(tx, absent, allowed=allowed)
    if refused is not None:
        raise ManifestBlobUnknown(
            {"digest": refused},
            f"manifest {refused} is not in this repository; push it first, or allow sparse "
            "indexes (--sparse-indexes)",
        )
    for digest, row in here.items():
        _require_size(named[digest], row.size)
    return sorted(row.id for row in here.values()), absent


def _add_what_came_since(tx: Transaction, manifest_id: int, parts: _Parts) -> None:
    """What a stored manifest could do without, foreign layers mostly, may be here by now."""
    referenced = blobs_of(tx, [manifest_id])
    listed = {row.id for row in children_of(tx, [manifest_id])}
    blobs = [digest for digest in parts.blobs if digest not in referenced]
    children = [child for child in parts.children if child not in listed]
    add_references(tx, parts.repository_id, manifest_id, blobs=blobs, children=children)
    cancel_reviews(tx, parts.repository_id, blobs)


def _require_size(named: Descriptor, stored: int) -> None:
    if named.size != stored:
        raise ManifestInvalid(
            {"digest": named.digest, "named": named.size, "stored": stored},
            f"the manifest gives {named.digest} a size of {named.size} bytes, it has {stored}",
        )


def _require_same_type(tx: Transaction, manifest_id: int, manifest: Manifest) -> None:
    """One digest must not mean two things (CVE-2021-41190)."""
    stored = media_type_of(tx, manifest_id)
    if stored != manifest.media_type:
        raise ManifestInvalid(
            {"pushed": manifest.media_type, "stored": stored},
            f"this manifest is stored as {stored} already",
        )
