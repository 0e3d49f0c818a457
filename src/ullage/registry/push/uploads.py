"""Bytes into upload sessions, and sessions into blobs. Bytes first (deletion.md section 3.3)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from datetime import datetime

from ullage.blobs.protocol import Append, KeyUnknown, Reader
from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest, Hasher
from ullage.oci.errors import BlobUploadUnknown, DigestInvalid, RangeInvalid, Unavailable
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.locks import attribute_locks
from ullage.registry.push.links import link_and_lease
from ullage.registry.push.prepared import Prepared, already_done, commit, in_one_go
from ullage.registry.push.sessions import (
    end_upload,
    forget_memory_session,
    get_upload,
    memory_sessions_of,
    start_upload,
    store_session,
)
from ullage.registry.queries import reserved_keys, uploads
from ullage.registry.queries.content.blobs import StoredBlob, find_blob
from ullage.registry.queries.content.repositories import (
    RepositoryForUpdate,
    ensure_repository,
    lock_repository_row,
)
from ullage.registry.queries.reclaim.adopt_blob import adopt_blob
from ullage.registry.queries.upload_claims import CLAIM_PERIOD
from ullage.registry.queries.uploads import Upload

__all__ = ["AppendSession", "StoredBlob"]

# How much of a stored upload is read at once when it has to be hashed again.
_REHASH_BYTES = 4 * 1024 * 1024


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
    if memory_sessions_of(registry).begin(upload):
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
        forget_memory_session(registry, upload)
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
            return store_session(tx, self._name, upload, offset, now, expires_at)
        if not uploads.set_offset(tx, upload.id, offset, expires_at):
            return None
        return dataclasses.replace(upload, offset=offset)

    def finish(self, digest: Digest) -> StoredBlob:
        """Turn the session into the blob `digest`.

        Raises DigestInvalid if the bytes are others: the session then is as before this request.
        """
        return commit(self._registry, self.commit(digest))

    def commit(self, digest: Digest) -> Prepared[StoredBlob]:
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

        return Prepared(adopt, self._adopted, self.abandon)

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
            forget_memory_session(registry, upload)
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
            memory_sessions_of(registry).prolong(upload.id, expires_at)
            return
        registry.write(lambda tx: uploads.prolong(tx, upload.id, expires_at))

    def _let_go(self) -> None:
        self._append.close()
        self._registry.release_claim(self._upload.id, self._token)


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
    key, new = adopt_blob(tx, repository_id, digest, size, upload.key, now=now, due_at=now)
    link_and_lease(tx, registry, repository_id, digest, size, caller, now, counted=new)
    forget_at = now + registry.limits.finished_upload
    uploads.remember_finished(tx, upload, repository_id, digest, forget_at)
    detail = {"bytes": size, "stored": key == upload.key}
    registry.audit(tx, caller, "blob.upload", repository=name, target=digest, detail=detail)
    return StoredBlob(digest, size, key, repository_id)


def _end_in(
    tx: Transaction, name: RepositoryName, upload: Upload, now: datetime
) -> RepositoryForUpdate:
    """End the session for the sake of a blob in its repository; the caller answers for its key.

    Raises BlobUploadUnknown if it has ended, or its repository is gone; Locked.
    """
    repository: RepositoryForUpdate | None
    if upload.repository_id is None:
        repository = ensure_repository(tx, name, now)
        ended = reserved_keys.release(tx, upload.key)
    else:
        repository = lock_repository_row(tx, upload.repository_id)
        ended = repository is not None and uploads.delete_upload(tx, upload.id)
    if repository is None or not ended:
        raise BlobUploadUnknown({"upload": upload.id})
    attribute_locks.require_row_writable(repository)
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


def prepare_blob(
    registry: Registry,
    name: RepositoryName,
    upload_id: str,
    caller: Caller,
    digest: Digest,
    last: Iterable[bytes] = (),
    start: int | None = None,
) -> Prepared[StoredBlob]:
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
        return already_done(blob or _finish_committed(registry, name, upload_id, caller, digest))
    for piece in last:
        session.write(piece)
    return session.commit(digest)


finish_upload = in_one_go(prepare_blob)


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
        return find_blob(tx, name, digest)

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
        forget_memory_session(registry, upload)
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
