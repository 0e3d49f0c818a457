"""Pushing what blobs are for: mounts and manifests. Bytes first (deletion.md section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import DigestInvalid, ManifestBlobUnknown, ManifestInvalid, ManifestTooLarge
from ullage.oci.manifest.descriptor import Descriptor
from ullage.oci.manifest.limits import ManifestLimits
from ullage.oci.manifest.parsing import Manifest, parse_manifest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks
from ullage.registry.push.platforms import platform_of
from ullage.registry.push.prepared import Prepared, in_one_go
from ullage.registry.queries.content.blobs import linked_among, lock_blobs
from ullage.registry.queries.content.manifests import (
    add_references,
    find_manifests,
    insert_manifest,
    media_type_of,
    touch_manifest,
)
from ullage.registry.queries.content.remove_manifests import blobs_of, children_of
from ullage.registry.queries.content.repositories import (
    ensure_repository,
    touch_repository,
)
from ullage.registry.queries.content.tags import put_tag
from ullage.registry.queries.reclaim.reviews import cancel_reviews


@dataclass(frozen=True, slots=True)
class PutResult:
    """A stored manifest: its digest, its subject if it names one, and the tags now on it."""

    digest: Digest
    subject: Digest | None
    tags: tuple[Tag, ...]


# --- mounts ---------------------------------------------------------------------------------------


# --- manifests ------------------------------------------------------------------------------------


def prepare_manifest(
    registry: Registry,
    name: RepositoryName,
    reference: Tag | Digest,
    raw: bytes,
    media_type: str | None,
    caller: Caller,
    tags: Sequence[Tag] = (),
) -> Prepared[PutResult]:
    """The first half of `put_manifest`: what can be said of it by itself.

    That stores a manifest under its digest and points tags to it; all of it or nothing.

    Raises ManifestTooLarge, ManifestInvalid, DigestInvalid (`reference` is the digest of other
    bytes), ManifestBlobUnknown if something it needs is not in this repository; Locked if the
    repository, this manifest or one of the tags may not be written.
    """
    if len(raw) > registry.limits.max_manifest_bytes:
        raise ManifestTooLarge(
            {"max_bytes": registry.limits.max_manifest_bytes}, "the manifest is too large"
        )
    by_digest = isinstance(reference, Digest)
    digest = digest_of(raw, reference.algorithm if isinstance(reference, Digest) else "sha256")
    if by_digest and digest != reference:
        raise DigestInvalid(
            {"expected": reference, "found": digest}, "the manifest does not have this digest"
        )
    limits = ManifestLimits(max_descriptors=registry.limits.max_manifest_descriptors)
    manifest = parse_manifest(raw, media_type, limits)
    wanted = tuple(dict.fromkeys(tags)) if isinstance(reference, Digest) else (reference, *tags)
    now = registry.now()
    platform = platform_of(registry, name, digest, manifest)
    failpoint("manifest.put.before_row")

    def put(tx: Transaction) -> None:
        repository = ensure_repository(tx, name, now)
        attribute_locks.require_row_writable(repository)
        repository_id = repository.id
        attribute_locks.require_tags_writable(tx, repository_id, name, wanted)
        references = _require_blobs(tx, repository_id, manifest)
        children = _require_children(tx, repository_id, manifest)
        known = find_manifests(tx, repository_id, [digest]).get(digest)
        if known is None:
            manifest_id = insert_manifest(
                tx,
                repository_id,
                digest,
                manifest,
                raw,
                blobs=references,
                children=children,
                platform=platform,
                now=now,
            )
            cancel_reviews(tx, repository_id, references)
            registry.leases.redeem(tx, repository_id, references, caller.pusher)
        else:
            _require_same_type(tx, known.id, manifest)
            manifest_id = known.id
            attribute_locks.require_manifest_writable(tx, name, manifest_id, digest)
            touch_manifest(tx, manifest_id, now)
            if manifest.optional_blobs or manifest.optional_children:
                _hold_what_came_since(tx, repository_id, manifest_id, references, children)
            # Whoever pushes it once more has asked for its config; whoever merely tags it has not,
            # and what was promised to this client is for another push.
            config = manifest.config.digest if manifest.config else None
            registry.leases.redeem(tx, repository_id, references, caller.pusher, witness=config)
        failpoint("manifest.put.in_transaction")
        for tag in wanted:
            put_tag(tx, repository_id, tag, manifest_id, now)
        touch_repository(tx, repository_id, now)
        detail = {"tags": wanted, "media_type": manifest.media_type, "bytes": len(raw)}
        registry.audit(tx, caller, "manifest.push", repository=name, target=digest, detail=detail)

    def ended(_: None) -> PutResult:
        failpoint("manifest.put.after_row")
        return PutResult(digest, manifest.subject.digest if manifest.subject else None, wanted)

    return Prepared(put, ended)


put_manifest = in_one_go(prepare_manifest)


def _require_blobs(tx: Transaction, repository_id: int, manifest: Manifest) -> list[Digest]:
    """The blobs this manifest will hold, locked, in digest order; those it needs are all here."""
    named = {blob.digest: blob for blob in (*manifest.optional_blobs, *manifest.required_blobs)}
    sizes = lock_blobs(tx, named.keys())
    # A statement after the lock, so that it sees what was decided while the lock was waited for.
    here = linked_among(tx, repository_id, sizes.keys())
    for blob in manifest.required_blobs:
        if blob.digest not in here:
            raise ManifestBlobUnknown(
                {"digest": blob.digest},
                f"blob {blob.digest} is not in this repository; upload or mount it first",
            )
    for digest in here:
        _require_size(named[digest], sizes[digest])
    return sorted(here)


def _require_children(tx: Transaction, repository_id: int, manifest: Manifest) -> list[int]:
    """The ids of the manifests this index lists; those it needs are all here."""
    named = {
        child.digest: child for child in (*manifest.optional_children, *manifest.required_children)
    }
    here = find_manifests(tx, repository_id, named.keys())
    for child in manifest.required_children:
        if child.digest not in here:
            raise ManifestBlobUnknown(
                {"digest": child.digest},
                f"manifest {child.digest} is not in this repository; push it first",
            )
    for digest, row in here.items():
        _require_size(named[digest], row.size)
    return sorted(row.id for row in here.values())


def _hold_what_came_since(
    tx: Transaction,
    repository_id: int,
    manifest_id: int,
    references: list[Digest],
    children: list[int],
) -> None:
    """What a stored manifest could do without, foreign layers mostly, may be here by now."""
    held = blobs_of(tx, [manifest_id])
    listed = {row.id for row in children_of(tx, [manifest_id])}
    blobs = [digest for digest in references if digest not in held]
    new_children = [child for child in children if child not in listed]
    add_references(tx, repository_id, manifest_id, blobs=blobs, children=new_children)
    cancel_reviews(tx, repository_id, blobs)


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
