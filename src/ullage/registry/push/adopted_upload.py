"""The transaction in which an upload session ends and its bytes become a blob."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUploadUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks
from ullage.registry.push.links import link_and_lease
from ullage.registry.push.sessions import bury_leftover
from ullage.registry.quarantine import SeenCopy, log_replaced, look_at_copy
from ullage.registry.queries import reserved_keys, uploads
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.registry.queries.content.repositories import RepositoryForUpdate, ensure_repository
from ullage.registry.queries.reclaim.adopt_blob import CopyUnseen, adopt_blob
from ullage.registry.queries.uploads import Upload


@dataclass(frozen=True, slots=True)
class AdoptedUpload:
    """A session whose bytes are safe, `size` of them, and are the blob `digest`."""

    registry: Registry
    name: RepositoryName
    caller: Caller
    upload: Upload
    # Of the request that ends it (UploadClaim).
    fence: str | None
    digest: Digest
    size: int
    # The blob's other copy, if there was one when it was looked for; a lost one is replaced.
    seen: SeenCopy | None = None

    def write(self) -> StoredBlob:
        """`record` in a transaction of its own, looking at other copies until there is no new one.

        Raises what `record` does, and what Registry.write does.
        """
        adopted = self
        while True:
            try:
                return self.registry.write(adopted.record)
            except CopyUnseen as found:
                adopted = adopted.looking_at(found.storage_key)

    def looking_at(self, storage_key: str) -> AdoptedUpload:
        """The same, once the blob's other copy was looked at."""
        return replace(self, seen=look_at_copy(self.registry, self.digest, storage_key, self.size))

    def record(self, tx: Transaction) -> StoredBlob:
        """Make the bytes the blob, linked in its repository and leased to its pusher.

        Raises BlobUploadUnknown if the session has ended, or another request has it by now; Locked;
        CopyUnseen if there is a copy that was not looked at.
        """
        registry, upload, digest, size = self.registry, self.upload, self.digest, self.size
        now = registry.now()
        repository_id = self._end_session(tx, now).id
        failpoint("upload.finish.in_transaction")
        # The copy that is not needed is read by no request of here, so it may go at once.
        seen, problem = self.seen or (None, None)
        key, new = adopt_blob(
            tx,
            repository_id,
            digest,
            size,
            upload.key,
            now=now,
            signed_read=registry.limits.signed_read,
            seen=seen,
            lost=problem is not None,
        )
        if problem is not None and key == upload.key and not new:
            tx.after_commit(partial(log_replaced, digest, problem))
        link_and_lease(tx, registry, repository_id, digest, size, self.caller, now, counted=new)
        forget_at = now + registry.limits.finished_upload
        uploads.remember_finished(tx, upload, self.name, digest, forget_at)
        detail = {"bytes": size, "stored": key == upload.key}
        registry.audit(
            tx, self.caller, "blob.upload", repository=self.name, target=digest, detail=detail
        )
        return StoredBlob(digest, size, key, repository_id)

    def _end_session(self, tx: Transaction, now: datetime) -> RepositoryForUpdate:
        """End the session; from here on this transaction answers for its key."""
        upload = self.upload
        # By its name: if it was deleted meanwhile, its sessions go on in the next one.
        repository = ensure_repository(tx, self.name, now)
        if upload.repository_id is None:
            ended = reserved_keys.release(tx, upload.key)
        else:
            ended = uploads.finish_upload(tx, upload.id, self.fence, repository.id)
        if not ended:
            raise BlobUploadUnknown({"upload": upload.id})
        bury_leftover(tx, self.registry, upload.state, None)
        attribute_locks.require_row_writable(repository)
        return repository
