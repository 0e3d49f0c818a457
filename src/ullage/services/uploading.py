"""Upload sessions: from a POST to a blob. Bytes first (docs/design/deletion.md)."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from ullage.blobs import Append, KeyUnknown, Reader
from ullage.failpoints import failpoint
from ullage.metadata import content, reclaim, reserved, uploads
from ullage.metadata.claims import CLAIM_PERIOD
from ullage.metadata.content import HeldRepository, StoredBlob
from ullage.metadata.database import Transaction
from ullage.metadata.uploads import Upload
from ullage.oci.digest import ALGORITHMS, Digest, Hasher
from ullage.oci.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    RangeInvalid,
    RegistryError,
    StorageFull,
    TooManyRequests,
    Unavailable,
)
from ullage.oci.reference import RepositoryName
from ullage.services import Caller, Registry, locks, store_errors
from ullage.services.fresh import FreshSession, FreshSessions
from ullage.services.halves import Half, complete, done, whole
from ullage.services.linking import link_and_lease

__all__ = ["AppendSession", "StoredBlob", "Upload"]

log = logging.getLogger(__name__)

# How much of a stored upload is read at once when it has to be hashed again.
_REHASH_BYTES = 4 * 1024 * 1024
# Storage keys are reserved this many at a time: one commit for as many uploads.
KEYS_AT_ONCE = 256


# --- upload sessions ------------------------------------------------------------------------------


def start_upload(
    registry: Registry,
    name: RepositoryName,
    caller: Caller,
    algorithm: str = "sha256",
) -> Upload:
    """Open an upload session in a repository, which need not exist yet.

    `algorithm` is what the client says it will name the blob by; another one costs a second look at
    the bytes.
    Raises TooManyRequests, StorageFull, Locked, DigestInvalid for an algorithm nobody knows.
    """
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(
            {"algorithm": algorithm}, f"digest algorithm: expected one of {', '.join(ALGORITHMS)}"
        )
    _require_room(registry)
    if registry.fresh is not None:
        return _start_fresh(registry, registry.fresh, name, caller, algorithm)
    return _start_stored(registry, name, caller, algorithm)


def starts_at_once(registry: Registry) -> bool:
    """Whether start_upload would not have to wait for a disk."""
    return registry.fresh is not None and registry.fresh.has_key


def _start_fresh(
    registry: Registry, fresh: FreshSessions, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session in memory; the database knows of nothing but its key (services/fresh.py)."""

    def look(tx: Transaction) -> tuple[int, bool]:
        return uploads.count_uploads_for(tx, name)

    stored, writable = registry.recall(("uploading", name), look, lambda _: 0)
    locks.require(name, writable=writable)
    _require_few(registry, stored + len(fresh))
    key = fresh.take_key() or _reserve_keys(registry, fresh)
    upload = Upload(registry.fresh_key(), None, caller.subject, key, algorithm, 0)
    fresh.add(FreshSession(upload, name, registry.now() + registry.limits.upload_idle))
    return upload


def _reserve_keys(registry: Registry, fresh: FreshSessions) -> str:
    """One storage key for now, and many for later, that a crash cannot hide."""
    first, *others = (registry.fresh_key() for _ in range(KEYS_AT_ONCE))
    registry.write(lambda tx: reserved.reserve(tx, (first, *others)))
    failpoint("upload.reserve.after_row")
    fresh.add_keys(others)
    return first


def _require_few(registry: Registry, count: int) -> None:
    if count >= registry.limits.max_uploads:
        raise TooManyRequests(message="too many open uploads; finish or cancel some first")


def _start_stored(
    registry: Registry, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session as a row, for any process to go on with."""
    now = registry.now()
    upload_id, key = registry.fresh_key(), registry.fresh_key()

    def open_session(tx: Transaction) -> Upload:
        _require_few(registry, uploads.count_uploads(tx))
        repository = content.ensure_repository(tx, name, now)
        locks.require_held_writable(repository)
        upload = Upload(upload_id, repository.id, caller.subject, key, algorithm, 0)
        uploads.insert_upload(tx, upload, now, now + registry.limits.upload_idle)
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
    upload = registry.fresh.find(name, upload_id) if registry.fresh is not None else None
    if upload is None:
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
            append = _open(registry, upload)
    except KeyUnknown as error:
        registry.release_claim(upload_id, token)
        raise BlobUploadUnknown({"upload": upload_id}) from error
    except BaseException:
        registry.release_claim(upload_id, token)
        raise
    return AppendSession(registry, name, upload, append, token, caller)


def _open(registry: Registry, upload: Upload) -> Append:
    """The session's bytes, to add to. Raises KeyUnknown if it has ended, or they are committed."""
    if upload.repository_id is not None:
        return registry.blobs.append(upload.key, upload.offset)
    if _fresh(registry).begin(upload):
        return registry.blobs.begin(upload.key)
    try:
        return registry.blobs.append(upload.key, 0)
    except KeyUnknown:
        # An earlier request may have found no room to begin with.
        return _begin_again(registry, upload.key)


def _begin_again(registry: Registry, key: str) -> Append:
    try:
        registry.blobs.create(key)
    except FileExistsError as error:
        raise KeyUnknown(key) from error
    return registry.blobs.append(key, 0)


def _fresh(registry: Registry) -> FreshSessions:
    """Where a session without a row is."""
    assert registry.fresh is not None
    return registry.fresh


class AppendSession:
    """One request's hold on an upload session. Ends with exactly one of end, finish or abandon."""

    def __init__(
        self,
        registry: Registry,
        name: RepositoryName,
        upload: Upload,
        append: Append,
        token: str,
        caller: Caller,
    ) -> None:
        self._registry = registry
        self._name = name
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
            kept = registry.write(lambda tx: self._keep(tx, offset))
            failpoint("upload.append.after_offset_row")
        except BaseException:
            self.abandon()
            raise
        _forget_fresh(registry, upload)
        if kept is not None and self._hasher is not None:
            registry.hashers.keep(upload.id, self._hasher)
        self._let_go()
        if kept is None:
            raise BlobUploadUnknown({"upload": upload.id})
        return kept

    def _keep(self, tx: Transaction, offset: int) -> Upload | None:
        """Record that so many bytes are safe; None if the session has ended meanwhile."""
        upload, now = self._upload, self._registry.now()
        expires_at = now + self._registry.limits.upload_idle
        if upload.repository_id is None:
            return _store_session(tx, self._name, upload, offset, now, expires_at)
        if not uploads.set_offset(tx, upload.id, offset, expires_at):
            return None
        return dataclasses.replace(upload, offset=offset)

    def finish(self, digest: Digest) -> StoredBlob:
        """Turn the session into the blob `digest`.

        Raises DigestInvalid if the bytes are others: the session then is as before this request.
        """
        return complete(self._registry, self.commit(digest))

    def commit(self, digest: Digest) -> Half[StoredBlob]:
        """The first half of `finish`: the bytes are safe, and those of the blob `digest`."""
        try:
            found = self._digest(digest.algorithm)
            if found != digest:
                raise DigestInvalid(
                    {"expected": digest, "found": found},
                    "the uploaded bytes do not have this digest",
                )
            self._commit_bytes()
            failpoint("upload.finish.before_row")
        except BaseException:
            self.abandon()
            raise
        registry, size = self._registry, self._append.offset

        def adopt(tx: Transaction) -> StoredBlob:
            now = registry.now()
            return _adopt(tx, registry, self._name, self._upload, digest, size, self._caller, now)

        return Half(adopt, self._adopted, self.abandon)

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

    def _commit_bytes(self) -> None:
        failpoint("upload.finish.before_commit")
        try:
            with store_errors():
                self._append.commit()
        except KeyUnknown as error:
            raise BlobUploadUnknown({"upload": self._upload.id}) from error
        self._append.close()

    def _adopted(self, blob: StoredBlob) -> StoredBlob:
        registry, upload = self._registry, self._upload
        try:
            failpoint("upload.finish.after_row")
        finally:
            _forget_fresh(registry, upload)
            registry.hashers.forget(upload.id)
            self._let_go()
        if blob.key != upload.key:
            registry.wake()
        return blob

    def _digest(self, algorithm: str) -> Digest:
        if self._hasher is not None and self._hasher.algorithm == algorithm:
            return self._hasher.digest()
        hasher = Hasher(algorithm)
        with store_errors():
            # Until then a reader need not see all of them.
            self._append.sync()
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
        if upload.repository_id is None:
            _fresh(registry).prolong(upload.id, expires_at)
            return
        registry.write(lambda tx: uploads.prolong(tx, upload.id, expires_at))

    def _let_go(self) -> None:
        self._append.close()
        self._registry.release_claim(self._upload.id, self._token)


def _store_session(
    tx: Transaction,
    name: RepositoryName,
    upload: Upload,
    offset: int,
    now: datetime,
    expires_at: datetime,
) -> Upload | None:
    """Give a session that was in memory its row; None if it has ended. Raises Locked."""
    if not reserved.release(tx, upload.key):
        return None
    repository = content.ensure_repository(tx, name, now)
    locks.require_held_writable(repository)
    stored = dataclasses.replace(upload, repository_id=repository.id, offset=offset)
    uploads.insert_upload(tx, stored, now, expires_at)
    return stored


def _forget_fresh(registry: Registry, upload: Upload) -> None:
    """The database knows more of this session now than memory does."""
    if upload.repository_id is None:
        _fresh(registry).remove(upload.id)


def _adopt(
    tx: Transaction,
    registry: Registry,
    name: RepositoryName,
    upload: Upload,
    digest: Digest,
    size: int,
    caller: Caller,
    now: datetime,
) -> StoredBlob:
    """The session's bytes become the blob, linked in its repository and leased to its pusher."""
    repository_id = _end_in(tx, name, upload, now).id
    failpoint("upload.finish.in_transaction")
    # Nobody ever read the copy that is not needed, so it may go at once.
    key = reclaim.adopt_blob(tx, repository_id, digest, size, upload.key, now=now, due_at=now)
    link_and_lease(tx, registry, repository_id, digest, size, caller, now)
    forget_at = now + registry.limits.finished_upload
    uploads.remember_finished(tx, upload, repository_id, digest, forget_at)
    detail = {"bytes": size, "stored": key == upload.key}
    registry.audit(tx, caller, "blob.upload", repository=name, target=digest, detail=detail)
    return StoredBlob(digest, size, key, repository_id)


def _end_in(tx: Transaction, name: RepositoryName, upload: Upload, now: datetime) -> HeldRepository:
    """End the session for the sake of a blob in its repository; the caller answers for its key.

    Raises BlobUploadUnknown if it has ended, or its repository is gone; Locked.
    """
    repository: HeldRepository | None
    if upload.repository_id is None:
        repository = content.ensure_repository(tx, name, now)
        ended = reserved.release(tx, upload.key)
    else:
        repository = content.hold_repository(tx, upload.repository_id)
        ended = repository is not None and uploads.delete_upload(tx, upload.id)
    if repository is None or not ended:
        raise BlobUploadUnknown({"upload": upload.id})
    locks.require_held_writable(repository)
    return repository


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


def commit_upload(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    digest: Digest,
    last: Iterable[bytes] = (),
    start: int | None = None,
) -> Half[StoredBlob]:
    """The first half of `finish_upload`: the blob's bytes are safe.

    That turns a session into a blob, once `last`, which starts at `start` if that is said, is
    added.

    A client that lost the answer and asks again is told the same once more.
    Raises BlobUploadUnknown, DigestInvalid (the session stays), RangeInvalid, Unavailable,
    StorageFull.
    """
    try:
        session = append_upload(registry, name, upload_id, caller, start)
    except BlobUploadUnknown:
        blob = _finished(registry, name, upload_id, caller, digest)
        return done(blob or _finish_committed(registry, name, upload_id, caller, digest))
    for piece in last:
        session.write(piece)
    return session.commit(digest)


finish_upload = whole(commit_upload)


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
    upload = start_upload(registry, name, caller, digest.algorithm)
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
        blob = registry.write(
            lambda tx: _adopt(tx, registry, name, upload, digest, size, caller, registry.now())
        )
        _forget_fresh(registry, upload)
        return blob
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
    if upload.repository_id is None:
        return _end_fresh(registry, upload, only_if_expired=only_if_expired)
    repository_id = upload.repository_id
    size = registry.blobs.size(upload.key) or 0
    now = registry.now()

    def end(tx: Transaction) -> bool:
        if only_if_expired:
            ended = uploads.delete_expired_upload(tx, upload.id, now)
        else:
            ended = uploads.delete_upload(tx, upload.id)
        if not ended:
            return False
        content.drop_repository_if_empty(tx, repository_id)
        reclaim.bury(tx, repository_id, upload.key, size, now)
        return True

    ended = registry.write(end, freeing=True)
    failpoint("cancel.after_row")
    registry.hashers.forget(upload.id)
    if ended:
        registry.wake()
    return ended


def _end_fresh(registry: Registry, upload: Upload, *, only_if_expired: bool) -> bool:
    fresh, now = _fresh(registry), registry.now()
    session = fresh.remove(upload.id, expired_at=now if only_if_expired else None)
    if session is None:
        return False
    registry.hashers.forget(upload.id)
    if not session.began:
        # Nothing was ever written under it.
        fresh.add_keys([upload.key])
        return True
    try:
        _bury_reserved(registry, {upload.key: registry.blobs.size(upload.key)}, now)
    except BaseException:
        fresh.add(session)
        raise
    failpoint("cancel.after_row")
    registry.wake()
    return True


def _bury_reserved(registry: Registry, sizes: Mapping[str, int | None], now: datetime) -> int:
    """Cross reserved keys out, with tombstones for what is stored under them; how many those are.

    Whoever calls this knows that nobody will write there any more: `sizes` (bytes, None where
    nothing is) were asked for since.
    """

    def bury(tx: Transaction) -> int:
        buried = 0
        for key, size in sizes.items():
            if reserved.release(tx, key) and size is not None:
                reclaim.bury(tx, 0, key, size, now)
                buried += 1
        return buried

    return registry.write(bury, freeing=True)


def end_forgotten_sessions(registry: Registry) -> int:
    """At a start: give back what a crash left of sessions that were in memory; how many had bytes.

    Only where this process alone owns the database.
    """
    keys = registry.read(reserved.reserved_keys)
    failpoint("recover.after_claim")
    if not keys:
        return 0
    buried = _bury_reserved(
        registry, {key: registry.blobs.size(key) for key in keys}, registry.now()
    )
    failpoint("recover.after_row")
    return buried


def keep_fresh_sessions(registry: Registry) -> None:
    """At an orderly stop: sessions that were in memory get a row, so that they can go on."""
    for session in registry.fresh.all() if registry.fresh is not None else ():
        upload = session.upload
        try:
            with store_errors():
                if not session.began:
                    registry.blobs.create(upload.key)
            registry.write(
                lambda tx, session=session: _store_session(  # type: ignore[misc]
                    tx, session.name, session.upload, 0, registry.now(), session.expires_at
                )
            )
            _forget_fresh(registry, upload)
        except RegistryError as error:
            # The next start gives its bytes back.
            log.warning("upload %s is forgotten: %s", upload.id, error.message)


def _require_room(registry: Registry) -> None:
    free = registry.blobs.free_bytes()
    if free is not None and free < registry.limits.min_free_bytes:
        raise StorageFull(
            {"free": free, "kept_free": registry.limits.min_free_bytes},
            "no space left for uploads; delete something first",
        )
