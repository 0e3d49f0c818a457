"""The writer of one request's bytes into an upload session."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ullage.blobs.protocol import Append, KeyUnknown, Reader
from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest, Hasher
from ullage.oci.errors import BlobUploadUnknown, DigestInvalid, RegistryError, Unavailable
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.push.adopted_upload import AdoptedUpload
from ullage.registry.push.end_sessions import (
    bury_leftover,
    end_upload,
    forget_memory_session,
    memory_sessions_of,
)
from ullage.registry.push.left_sessions import store_session
from ullage.registry.push.prepared import Prepared, commit
from ullage.registry.push.resumable_hash import begin_hash, restore_hash, saved_hash
from ullage.registry.push.tickets import Ticket
from ullage.registry.push.upload_claim import UploadClaim
from ullage.registry.queries import uploads
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.registry.queries.reclaim.adopt_blob import CopyUnseen
from ullage.registry.queries.reclaim.tombstones import bury_again
from ullage.registry.queries.uploads import Upload

# How much of a stored upload is read at once when it has to be hashed again.
_REHASH_BYTES = 4 * 1024 * 1024


class AppendSession:
    """Adds bytes to the end of an upload session, which no other request can do meanwhile.

    Ends with exactly one of close, commit and abandon; any method that raises has abandoned it.
    """

    def __init__(
        self,
        registry: Registry,
        name: RepositoryName,
        upload: Upload,
        append: Append,
        claim: UploadClaim,
        caller: Caller,
        *,
        last: bool = False,
        ticket: Ticket | None = None,
    ) -> None:
        """`last`: no other request is expected to go on with the session.

        `ticket`: what to spend when it becomes a blob (whole_blob.py).
        """
        self._registry = registry
        self._name = name
        self._upload = upload
        self._append = append
        self._claim = claim
        self._caller = caller
        self._ticket = ticket
        self._hasher = _hasher_of(registry, upload, last=last)
        self._committing = False

    @property
    def offset(self) -> int:
        """Bytes in the session so far, counting those of this request."""
        return self._append.offset

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Add bytes. Raises StorageFull, Unavailable."""
        with self._abandoned_on_error():
            with store_errors():
                self._append.write(piece)
            if self._hasher is not None:
                self._hasher.update(piece)
            self._keep_alive()

    def close(self) -> Upload:
        """Keep what arrived: make it durable, record it, let go of the session."""
        registry, upload = self._registry, self._upload
        with self._abandoned_on_error():
            with store_errors():
                state = self._append.sync()
            safe = dataclasses.replace(
                upload, offset=self._append.offset, state=state, hash=saved_hash(self._hasher)
            )
            failpoint("upload.append.before_offset_row")
            kept = registry.write(lambda tx: self._record(tx, safe))
            failpoint("upload.append.after_offset_row")
        forget_memory_session(registry, upload)
        if kept is not None and self._hasher is not None:
            registry.hashers.keep(upload.id, self._hasher)
        self._let_go()
        if kept is None:
            raise BlobUploadUnknown({"upload": upload.id})
        return kept

    def commit(self, digest: Digest) -> StoredBlob:
        """Turn the session into the blob `digest`.

        Raises DigestInvalid if the bytes are others: the session then is as before this request, or
        has ended if they had to be committed to be read.
        """
        return commit(self._registry, self.prepare(digest))

    def prepare(self, digest: Digest) -> Prepared[StoredBlob]:
        """As `commit`, up to where the bytes are safe, and are those of the blob `digest`."""
        with self._abandoned_on_error():
            found = self._digest(digest.algorithm)
            if found is not None:
                _require_same(digest, found)
            self._commit_bytes()
            if found is None:
                self._require_stored(digest)
            failpoint("upload.finish.before_row")
        adopted = AdoptedUpload(
            self._registry,
            self._name,
            self._caller,
            self._upload,
            self._claim.fence,
            digest,
            self.offset,
            self._ticket,
        )
        return _PreparedCommit(self, adopted)

    def abandon(self) -> None:
        """Forget this request's bytes: the session is as before it, and their room is free."""
        registry, upload = self._registry, self._upload
        registry.hashers.forget(upload.id)
        self._append.close()
        try:
            # Not where another request has the session by now: its bytes would be cut off.
            if self._append.offset != upload.offset and self._claim.renew():
                registry.blobs.resume(upload.key, upload.offset, upload.state).close()
        except (KeyUnknown, OSError, Unavailable):
            # The session is gone, or its bytes are beyond repair; its next request is told so.
            pass
        finally:
            self._bury_if_ended()
            self._let_go()

    def _bury_if_ended(self) -> None:
        """Give back what was committed after the session had ended: its tombstone may be done."""
        registry, key = self._registry, self._upload.key
        if not self._committing:
            return
        try:
            size = registry.blobs.size(key)
            if size is None:
                return
            now = registry.now()
            ended = registry.write(lambda tx: bury_again(tx, key, size, now), freeing=True)
        except (OSError, RegistryError):
            # The daily comparison finds it (reconcile.py).
            return
        if ended:
            registry.wake()

    # --- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _abandoned_on_error(self) -> Iterator[None]:
        try:
            yield
        except KeyUnknown as error:
            self.abandon()
            raise BlobUploadUnknown({"upload": self._upload.id}) from error
        except BaseException:
            self.abandon()
            raise

    def _record(self, tx: Transaction, safe: Upload) -> Upload | None:
        """Record how many bytes are safe; None if the session has ended, or is another's."""
        now = self._registry.now()
        expires_at = now + self._registry.limits.upload_idle
        if safe.repository_id is None:
            return store_session(tx, self._name, safe, now, expires_at)
        kept = uploads.set_offset(tx, safe, self._claim.fence, expires_at)
        self._bury_superseded(tx, safe, kept=kept)
        return safe if kept else None

    def _bury_superseded(self, tx: Transaction, new: Upload, *, kept: bool) -> None:
        """Of two states of the session, what only the one names that is not its row's goes."""
        if kept:
            bury_leftover(tx, self._registry, self._upload.state, new.state)
        elif new.state:
            # What was stored for this request alone; the rest is another's, or buried.
            current = uploads.find_upload(tx, self._name, new.id) or self._upload
            bury_leftover(tx, self._registry, new.state, current.state)

    def _digest(self, algorithm: str) -> Digest | None:
        """What was hashed along; None if it was not, or by another algorithm."""
        if self._hasher is not None and self._hasher.algorithm == algorithm:
            return self._hasher.digest()
        return None

    def _require_stored(self, digest: Digest) -> None:
        """Hash the committed bytes. If they are others the session ends: no more can follow."""
        registry, upload = self._registry, self._upload
        with store_errors(), registry.blobs.open(upload.key, self.offset) as reader:
            hasher = hash_stored(reader, digest.algorithm, self.offset, self._keep_alive)
        if hasher.length < self.offset:
            raise BlobUploadUnknown({"upload": upload.id})
        try:
            _require_same(digest, hasher.digest())
        except DigestInvalid:
            end_upload(registry, upload)
            raise

    def _commit_bytes(self) -> None:
        failpoint("upload.finish.before_commit")
        # What is committed is closed for good, also to a request that has the session by now.
        self._keep_alive()
        self._announce_commit()
        self._committing = True
        try:
            with store_errors():
                self._append.commit()
        except KeyUnknown as error:
            raise BlobUploadUnknown({"upload": self._upload.id}) from error
        self._append.close()

    def _announce_commit(self) -> None:
        """Where the store needs to be told of it later, record that a commit may have begun.

        Raises BlobUploadUnknown if the session has ended, or is another's.
        """
        with store_errors():
            state = self._append.before_commit()
        if state is None:
            return
        announced = dataclasses.replace(self._upload, state=state)
        if not self._record_state(announced):
            raise BlobUploadUnknown({"upload": announced.id})
        self._upload = announced

    def _record_state(self, announced: Upload) -> bool:
        registry, stored = self._registry, self.offset
        if announced.repository_id is None:
            sessions = memory_sessions_of(registry)
            return sessions.set_state(announced.id, announced.state, stored)

        def record(tx: Transaction) -> bool:
            kept = uploads.set_state(tx, announced, self._claim.fence, stored)
            self._bury_superseded(tx, announced, kept=kept)
            return kept

        return registry.write(record)

    def _keep_alive(self) -> None:
        self._claim.keep_alive(self._upload, self._append.offset)

    def _committed(self, blob: StoredBlob) -> None:
        registry, upload = self._registry, self._upload
        try:
            failpoint("upload.finish.after_row")
        finally:
            forget_memory_session(registry, upload)
            registry.hashers.forget(upload.id)
            self._append.close()
            self._claim.forget()
        if blob.key != upload.key:
            registry.wake()

    def _let_go(self) -> None:
        self._append.close()
        self._claim.release()


@dataclass(frozen=True, slots=True)
class _PreparedCommit(Prepared[StoredBlob]):
    session: AppendSession
    facts: AdoptedUpload

    def record(self, tx: Transaction) -> StoredBlob:
        return self.facts.record(tx)

    def again(self, outcome: Any) -> Any:
        if not isinstance(outcome, CopyUnseen):
            return outcome
        try:
            return self.facts.looking_at(outcome.storage_key).write()
        except BaseException as error:  # noqa: BLE001 - raised again once it is undone
            return error

    def recorded(self, result: StoredBlob) -> None:
        self.session._committed(result)

    def undo(self) -> None:
        self.session.abandon()


def _require_same(expected: Digest, found: Digest) -> None:
    if found != expected:
        raise DigestInvalid(
            {"expected": expected, "found": found}, "the uploaded bytes do not have this digest"
        )


def _hasher_of(registry: Registry, upload: Upload, *, last: bool) -> Hasher | None:
    """What has seen the session's bytes so far; None if they have to be read for it."""
    if upload.offset == 0:
        registry.hashers.forget(upload.id)
        return Hasher(upload.algorithm) if last else begin_hash(upload.algorithm)
    kept = registry.hashers.take(upload.id, upload.algorithm, upload.offset)
    return kept or restore_hash(upload.algorithm, upload.hash, upload.offset)


def hash_stored(
    reader: Reader, algorithm: str, size: int, after_piece: Callable[[], None] = lambda: None
) -> Hasher:
    """Hash the first `size` bytes of an object, or all of a shorter one."""
    hasher = Hasher(algorithm)
    while hasher.length < size:
        piece = reader.read_at(hasher.length, min(_REHASH_BYTES, size - hasher.length))
        if not piece:
            break
        hasher.update(piece)
        after_piece()
    return hasher
