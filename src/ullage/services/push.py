"""Writing: upload sessions, mounts, manifests. Bytes first (docs/design/deletion.md)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ullage.blobs import Append, KeyUnknown, Reader
from ullage.failpoints import failpoint
from ullage.metadata import content, reclaim, uploads
from ullage.metadata.claims import CLAIM_PERIOD
from ullage.metadata.content import StoredBlob
from ullage.metadata.database import Transaction
from ullage.metadata.uploads import Upload
from ullage.oci.digest import ALGORITHMS, Digest, Hasher, digest_of
from ullage.oci.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    RangeInvalid,
    StorageFull,
    TooManyRequests,
    Unavailable,
)
from ullage.oci.manifest import Descriptor, Manifest, ManifestLimits, parse_manifest
from ullage.oci.reference import RepositoryName, Tag
from ullage.services import Caller, Registry, locks, store_errors
from ullage.services.platforms import platform_of

__all__ = ["AppendSession", "PutResult", "StoredBlob", "Upload"]

# How much of a stored upload is read at once when it has to be hashed again.
_REHASH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PutResult:
    """A stored manifest: its digest, its subject if it names one, and the tags now on it."""

    digest: Digest
    subject: Digest | None
    tags: tuple[Tag, ...]


# --- upload sessions ------------------------------------------------------------------------------


def start_upload(
    registry: Registry,
    name: RepositoryName,
    caller: Caller,
    algorithm: str = "sha256",
    single: bool = False,
) -> Upload:
    """Open an upload session in a repository, which need not exist yet.

    `algorithm` is what the client says it will name the blob by; another one costs a second look at
    the bytes. `single`: the whole blob comes in this request, so nobody will resume it.
    Raises TooManyRequests, StorageFull, Locked, DigestInvalid for an algorithm nobody knows.
    """
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(
            {"algorithm": algorithm}, f"digest algorithm: expected one of {', '.join(ALGORITHMS)}"
        )
    _require_room(registry)
    now = registry.now()
    upload_id, key = registry.fresh_key(), registry.fresh_key()

    def open_session(tx: Transaction) -> Upload:
        if uploads.count_uploads(tx) >= registry.limits.max_uploads:
            raise TooManyRequests(message="too many open uploads; finish or cancel some first")
        repository_id = content.ensure_repository(tx, name, now)
        locks.require_writable(tx, repository_id, name)
        upload = Upload(upload_id, repository_id, caller.subject, key, algorithm, 0)
        expires_at = now + registry.limits.upload_idle
        uploads.insert_upload(tx, upload, single=single, now=now, expires_at=expires_at)
        return upload

    # The row names the key before a byte exists under it, so a crash leaves nothing unknown.
    upload = registry.write(open_session)
    failpoint("upload.start.after_row")
    try:
        with store_errors():
            registry.blobs.create(key)
    except BaseException:
        end_upload(registry, upload)
        raise
    return upload


def get_upload(registry: Registry, name: RepositoryName, upload_id: str, caller: Caller) -> Upload:
    """The session's state. Raises BlobUploadUnknown, also for another repository's or caller's."""
    upload = registry.read(lambda tx: uploads.find_upload(tx, name, upload_id))
    if upload is None or upload.subject != caller.subject:
        raise BlobUploadUnknown({"upload": upload_id})
    return upload


def require_offset(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller, start: int | None
) -> int:
    """Where the session's next byte goes. Raises BlobUploadUnknown; RangeInvalid if not `start`."""
    upload = get_upload(registry, name, upload_id, caller)
    if start is not None and start != upload.offset:
        raise RangeInvalid({"upload": upload_id}, offset=upload.offset)
    return upload.offset


def append_upload(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    start: int | None = None,
) -> AppendSession:
    """Claim the session for adding bytes to its end.

    Raises BlobUploadUnknown; RangeInvalid with the session's offset if the client's bytes `start`
    elsewhere; Unavailable while another request is at work on it; StorageFull.
    """
    token = registry.fresh_key()
    if not registry.claim(upload_id, token):
        # Where claims are kept with the sessions, there is none on a session that is not there.
        get_upload(registry, name, upload_id, caller)
        raise Unavailable(
            {"upload": upload_id}, "another request is working on this upload; try again"
        )
    try:
        # Looked at once it is claimed: until then, somebody else may have moved it on.
        upload = get_upload(registry, name, upload_id, caller)
        if start is not None and start != upload.offset:
            raise RangeInvalid({"upload": upload_id}, offset=upload.offset)
        with store_errors():
            append = registry.blobs.append(upload.key, upload.offset)
    except KeyUnknown as error:
        registry.release_claim(upload_id, token)
        raise BlobUploadUnknown({"upload": upload_id}) from error
    except BaseException:
        registry.release_claim(upload_id, token)
        raise
    return AppendSession(registry, upload, append, token, caller)


class AppendSession:
    """One request's hold on an upload session. Ends with exactly one of end, finish or abandon."""

    def __init__(
        self, registry: Registry, upload: Upload, append: Append, token: str, caller: Caller
    ) -> None:
        self._registry = registry
        self._upload = upload
        self._append = append
        self._token = token
        self._caller = caller
        self._hasher = registry.hashers.take(upload.id, upload.algorithm, upload.offset)
        self._renewed = time.monotonic()
        self._renew_every = min(
            CLAIM_PERIOD.total_seconds() / 3, registry.limits.upload_idle.total_seconds() / 4
        )

    @property
    def offset(self) -> int:
        """Bytes in the session so far, counting those of this request."""
        return self._append.offset

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Add bytes.

        Raises StorageFull, Unavailable; the session then goes back to where it was.
        """
        try:
            with store_errors():
                self._append.write(piece)
            if self._hasher is not None:
                self._hasher.update(piece)
            self._keep_alive()
        except BaseException:
            self.abandon()
            raise

    def end(self) -> Upload:
        """Keep what arrived: make it durable, record it, let go of the session."""
        registry, upload = self._registry, self._upload
        try:
            with store_errors():
                self._append.sync()
            offset = self._append.offset
            failpoint("upload.append.before_offset_row")
            expires_at = registry.now() + registry.limits.upload_idle
            alive = registry.write(lambda tx: uploads.set_offset(tx, upload.id, offset, expires_at))
            failpoint("upload.append.after_offset_row")
        except BaseException:
            self.abandon()
            raise
        if not alive:
            self._let_go()
            raise BlobUploadUnknown({"upload": upload.id})
        if self._hasher is not None:
            registry.hashers.keep(upload.id, self._hasher)
        self._let_go()
        return Upload(
            upload.id,
            upload.repository_id,
            upload.subject,
            upload.key,
            upload.algorithm,
            offset,
        )

    def finish(self, digest: Digest) -> StoredBlob:
        """Turn the session into the blob `digest`.

        Raises DigestInvalid if the bytes are others: the session then is as before this request.
        """
        try:
            found = self._digest(digest.algorithm)
            if found != digest:
                raise DigestInvalid(
                    {"expected": digest, "found": found},
                    "the uploaded bytes do not have this digest",
                )
            return self._store(digest)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Forget this request's bytes: the session is as before it, and their room is free."""
        registry, upload = self._registry, self._upload
        registry.hashers.forget(upload.id)
        self._append.close()
        try:
            if self._append.offset != upload.offset:
                registry.blobs.append(upload.key, upload.offset).close()
        except (KeyUnknown, OSError):
            # The session is gone, or its bytes are beyond repair; whoever asks next is told so.
            pass
        finally:
            self._let_go()

    def _store(self, digest: Digest) -> StoredBlob:
        registry, upload = self._registry, self._upload
        size = self._append.offset
        failpoint("upload.finish.before_commit")
        try:
            with store_errors():
                self._append.commit()
        except KeyUnknown as error:
            raise BlobUploadUnknown({"upload": upload.id}) from error
        self._append.close()
        failpoint("upload.finish.before_row")
        blob = registry.write(
            lambda tx: _adopt(tx, registry, upload, digest, size, self._caller, registry.now())
        )
        failpoint("upload.finish.after_row")
        registry.hashers.forget(upload.id)
        self._let_go()
        if blob.key != upload.key:
            registry.wake()
        return blob

    def _digest(self, algorithm: str) -> Digest:
        if self._hasher is not None and self._hasher.algorithm == algorithm:
            return self._hasher.digest()
        hasher = Hasher(algorithm)
        with self._registry.blobs.open(self._upload.key) as reader:
            while hasher.length < self._append.offset:
                wanted = min(_REHASH_BYTES, self._append.offset - hasher.length)
                piece = reader.read_at(hasher.length, wanted)
                if not piece:
                    raise BlobUploadUnknown({"upload": self._upload.id})
                hasher.update(piece)
                self._keep_alive()
        return hasher.digest()

    def _keep_alive(self) -> None:
        """A slow upload is not an idle one."""
        if time.monotonic() - self._renewed < self._renew_every:
            return
        self._renewed = time.monotonic()
        registry, upload = self._registry, self._upload
        now = registry.now()
        registry.renew_claim(upload.id, self._token)
        expires_at = now + registry.limits.upload_idle
        registry.write(lambda tx: uploads.prolong(tx, upload.id, expires_at))

    def _let_go(self) -> None:
        self._append.close()
        self._registry.release_claim(self._upload.id, self._token)


def _adopt(
    tx: Transaction,
    registry: Registry,
    upload: Upload,
    digest: Digest,
    size: int,
    caller: Caller,
    now: datetime,
) -> StoredBlob:
    """The session's bytes become the blob, linked in its repository and leased to its pusher."""
    repository = content.hold_repository(tx, upload.repository_id)
    if repository is None:
        raise BlobUploadUnknown({"upload": upload.id})
    locks.require_held_writable(repository)
    repository_id, name, _ = repository
    if not uploads.delete_upload(tx, upload.id):
        raise BlobUploadUnknown({"upload": upload.id})
    failpoint("upload.finish.in_transaction")
    # Nobody ever read the copy that is not needed, so it may go at once.
    key = reclaim.adopt_blob(tx, repository_id, digest, size, upload.key, now=now, due_at=now)
    _link_and_lease(tx, registry, repository_id, digest, size, caller, now)
    uploads.remember_finished(tx, upload, digest, now + registry.limits.finished_upload)
    detail = {"bytes": size, "stored": key == upload.key}
    registry.audit(tx, caller, "blob.upload", repository=name, target=digest, detail=detail)
    return StoredBlob(digest, size, key, repository_id)


def _link_and_lease(
    tx: Transaction,
    registry: Registry,
    repository_id: int,
    digest: Digest,
    size: int,
    caller: Caller,
    now: datetime,
) -> None:
    new = content.link_blob(tx, repository_id, digest, size, now)
    until = registry.leases.grant(tx, repository_id, digest, caller.holder, now)
    # Nothing in the repository can refer to what it did not link until now.
    if new or not content.referenced_among(tx, repository_id, [digest]):
        reclaim.schedule_review(tx, repository_id, digest, until)


def add_to_upload(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    start: int,
    pieces: Iterable[bytes],
) -> Upload:
    """Add bytes to the end of a session, which is at `start`; they are safe when this returns.

    Raises what `append_upload` and `AppendSession` do; the session is then as before.
    """
    session = append_upload(registry, name, upload_id, caller, start)
    for piece in pieces:
        session.write(piece)
    return session.end()


def finish_upload(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    digest: Digest,
    last: Iterable[bytes] = (),
    start: int | None = None,
) -> StoredBlob:
    """Turn a session into a blob, once `last`, which starts at `start` if that is said, is added.

    A client that lost the answer and asks again is told the same once more.
    Raises BlobUploadUnknown, DigestInvalid (the session stays), RangeInvalid, Unavailable,
    StorageFull.
    """
    try:
        session = append_upload(registry, name, upload_id, caller, start)
    except BlobUploadUnknown:
        blob = _finished(registry, name, upload_id, caller, digest)
        return blob or _finish_committed(registry, name, upload_id, caller, digest)
    for piece in last:
        session.write(piece)
    return session.finish(digest)


def upload_whole(
    registry: Registry,
    name: RepositoryName,
    caller: Caller,
    digest: Digest,
    pieces: Iterable[bytes],
) -> StoredBlob:
    """Store a whole blob. Raises what `start_upload` and `finish_upload` do; nothing is left then.

    distribution-spec, "Pushing a blob monolithically", with a single POST.
    """
    upload = start_upload(registry, name, caller, digest.algorithm, single=True)
    try:
        return finish_upload(registry, name, upload.id, caller, digest, pieces)
    except BaseException:
        # Nobody knows this session's address, so nobody can go on with it.
        end_upload(registry, upload)
        raise


def _finished(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller, digest: Digest
) -> StoredBlob | None:
    def find(tx: Transaction) -> StoredBlob | None:
        if uploads.find_finished(tx, name, upload_id) != (caller.subject, digest):
            return None
        return content.find_blob(tx, name, digest)

    return registry.read(find)


def _finish_committed(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller, digest: Digest
) -> StoredBlob:
    """Finish a session whose bytes are safe, but whose row an earlier attempt could not change.

    Raises BlobUploadUnknown if it is not in that state.
    """
    upload = get_upload(registry, name, upload_id, caller)
    token = registry.fresh_key()
    if not registry.claim(upload_id, token):
        raise Unavailable({"upload": upload_id}, "another request is finishing this upload")
    try:
        with registry.blobs.open(upload.key) as reader:
            found, size = _digest_of(reader, digest.algorithm), reader.size
        if found != digest:
            raise DigestInvalid({"expected": digest, "found": found})
        registry.blobs.commit(upload.key)
        return registry.write(
            lambda tx: _adopt(tx, registry, upload, digest, size, caller, registry.now())
        )
    except KeyUnknown as error:
        raise BlobUploadUnknown({"upload": upload_id}) from error
    finally:
        registry.release_claim(upload_id, token)


def _digest_of(reader: Reader, algorithm: str) -> Digest:
    hasher = Hasher(algorithm)
    while piece := reader.read_at(hasher.length, _REHASH_BYTES):
        hasher.update(piece)
    return hasher.digest()


def cancel_upload(registry: Registry, name: RepositoryName, upload_id: str, caller: Caller) -> None:
    """distribution-spec, end-14: drop the session and its bytes. Raises BlobUploadUnknown."""
    upload = get_upload(registry, name, upload_id, caller)
    if not end_upload(registry, upload):
        raise BlobUploadUnknown({"upload": upload_id})


def end_upload(registry: Registry, upload: Upload, *, only_if_expired: bool = False) -> bool:
    """End a session for whatever reason and bury its bytes; False if it had ended already."""
    size = registry.blobs.size(upload.key) or 0
    now = registry.now()

    def end(tx: Transaction) -> bool:
        if only_if_expired:
            ended = uploads.delete_expired_upload(tx, upload.id, now)
        else:
            ended = uploads.delete_upload(tx, upload.id)
        if not ended:
            return False
        content.drop_repository_if_empty(tx, upload.repository_id)
        reclaim.bury(tx, upload.repository_id, upload.key, size, now)
        return True

    ended = registry.write(end, freeing=True)
    failpoint("cancel.after_row")
    registry.hashers.forget(upload.id)
    if ended:
        registry.wake()
    return ended


def _require_room(registry: Registry) -> None:
    free = registry.blobs.free_bytes()
    if free is not None and free < registry.limits.min_free_bytes:
        raise StorageFull(
            {"free": free, "kept_free": registry.limits.min_free_bytes},
            "no space left for uploads; delete something first",
        )


# --- mounts ---------------------------------------------------------------------------------------


def mount_blob(
    registry: Registry,
    name: RepositoryName,
    source: RepositoryName,
    digest: Digest,
    caller: Caller,
) -> bool:
    """Link a blob of `source` in `name` as well. False if it cannot be: the client then uploads it.

    distribution-spec, "Mounting a blob from another repository". Where nothing may be pulled, there
    is nothing to mount either. Raises Locked if nothing may be pushed here.
    """
    now = registry.now()

    def mount(tx: Transaction) -> None:
        # The repository before the blob, as everybody does; undone if there is nothing to mount.
        repository_id = content.ensure_repository(tx, name, now)
        locks.require_writable(tx, repository_id, name)
        source_id = content.find_readable_repository(tx, source)
        sizes = content.lock_blobs(tx, [digest])
        if source_id is None or digest not in sizes:
            raise _NothingToMount
        if digest not in content.linked_among(tx, source_id, [digest]):
            raise _NothingToMount
        failpoint("mount.in_transaction")
        _link_and_lease(tx, registry, repository_id, digest, sizes[digest], caller, now)
        if caller.holder.asks_source and source_id != repository_id:
            # What it was promised in the source was for this mount.
            registry.leases.redeem(tx, source_id, [digest], caller.holder)
        detail = {"from": source, "bytes": sizes[digest]}
        registry.audit(tx, caller, "blob.mount", repository=name, target=digest, detail=detail)

    try:
        registry.write(mount)
    except _NothingToMount:
        return False
    failpoint("mount.after_row")
    return True


class _NothingToMount(Exception):
    """Undoes the transaction that found so."""


# --- manifests ------------------------------------------------------------------------------------


def put_manifest(
    registry: Registry,
    name: RepositoryName,
    reference: Tag | Digest,
    raw: bytes,
    media_type: str | None,
    caller: Caller,
    tags: Sequence[Tag] = (),
) -> PutResult:
    """Store a manifest under its digest and point tags to it; all of it or nothing.

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
        repository_id = content.ensure_repository(tx, name, now)
        locks.require_writable(tx, repository_id, name)
        locks.require_tags_writable(tx, repository_id, name, wanted)
        references = _require_blobs(tx, repository_id, manifest)
        children = _require_children(tx, repository_id, manifest)
        known = content.find_manifests(tx, repository_id, [digest]).get(digest)
        if known is None:
            manifest_id = content.insert_manifest(
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
            reclaim.cancel_reviews(tx, repository_id, references)
            registry.leases.redeem(tx, repository_id, references, caller.holder)
        else:
            _require_same_type(tx, known.id, manifest)
            manifest_id = known.id
            locks.require_manifest_writable(tx, name, manifest_id, digest)
            content.touch_manifest(tx, manifest_id, now)
            if manifest.optional_blobs or manifest.optional_children:
                _hold_what_came_since(tx, repository_id, manifest_id, references, children)
            # Whoever pushes it once more has asked for its config; whoever merely tags it has not,
            # and what was promised to this client is for another push.
            config = manifest.config.digest if manifest.config else None
            registry.leases.redeem(tx, repository_id, references, caller.holder, witness=config)
        failpoint("manifest.put.in_transaction")
        for tag in wanted:
            content.put_tag(tx, repository_id, tag, manifest_id, now)
        content.touch_repository(tx, repository_id, now)
        detail = {"tags": wanted, "media_type": manifest.media_type, "bytes": len(raw)}
        registry.audit(tx, caller, "manifest.push", repository=name, target=digest, detail=detail)

    registry.write(put)
    failpoint("manifest.put.after_row")
    return PutResult(digest, manifest.subject.digest if manifest.subject else None, wanted)


def _require_blobs(tx: Transaction, repository_id: int, manifest: Manifest) -> list[Digest]:
    """The blobs this manifest will hold, locked, in digest order; those it needs are all here."""
    named = {blob.digest: blob for blob in (*manifest.optional_blobs, *manifest.required_blobs)}
    sizes = content.lock_blobs(tx, named.keys())
    # A statement after the lock, so that it sees what was decided while the lock was waited for.
    here = content.linked_among(tx, repository_id, sizes.keys())
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
    here = content.find_manifests(tx, repository_id, named.keys())
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
    held = content.blobs_of(tx, [manifest_id])
    listed = {row.id for row in content.children_of(tx, [manifest_id])}
    blobs = [digest for digest in references if digest not in held]
    new_children = [child for child in children if child not in listed]
    content.hold(tx, repository_id, manifest_id, blobs=blobs, children=new_children)
    reclaim.cancel_reviews(tx, repository_id, blobs)


def _require_size(named: Descriptor, stored: int) -> None:
    if named.size != stored:
        raise ManifestInvalid(
            {"digest": named.digest, "named": named.size, "stored": stored},
            f"the manifest gives {named.digest} a size of {named.size} bytes, it has {stored}",
        )


def _require_same_type(tx: Transaction, manifest_id: int, manifest: Manifest) -> None:
    """One digest must not mean two things (CVE-2021-41190)."""
    stored = content.media_type_of(tx, manifest_id)
    if stored != manifest.media_type:
        raise ManifestInvalid(
            {"pushed": manifest.media_type, "stored": stored},
            f"this manifest is stored as {stored} already",
        )
