"""The transaction in which an upload session ends and its bytes become a blob."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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
from ullage.registry.push.tickets import Ticket
from ullage.registry.quarantine import LostCopy, log_replaced
from ullage.registry.queries import reserved_keys, uploads
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.registry.queries.content.repositories import RepositoryForUpdate, ensure_repository
from ullage.registry.queries.reclaim.adopt_blob import adopt_blob
from ullage.registry.queries.uploads import Ended, Upload


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
    # A copy that the row names and that is not there; the bytes replace it.
    lost: LostCopy | None = None
    # What is spent with it, where the session has no row.
    ticket: Ticket | None = None

    def record(self, tx: Transaction) -> StoredBlob:
        """Make the bytes the blob, linked in its repository and leased to its pusher.

        Raises BlobUploadUnknown if the session has ended, or another request has it by now; Locked.
        """
        registry, upload, digest, size = self.registry, self.upload, self.digest, self.size
        now = registry.now()
        repository_id = self._end_session(tx, now).id
        failpoint("upload.finish.in_transaction")
        # The copy that is not needed is read by no request of here, so it may go at once.
        lost = self.lost
        lost_key = lost.storage_key if lost is not None else None
        key, new = adopt_blob(
            tx,
            repository_id,
            digest,
            size,
            upload.key,
            now=now,
            signed_read=registry.limits.signed_read,
            lost=lost_key,
        )
        if lost is not None and key == upload.key and not new:
            tx.after_commit(lambda: log_replaced(digest, lost))
        link_and_lease(tx, registry, repository_id, digest, size, self.caller, now, counted=new)
        self._remember(tx, now)
        detail = {"bytes": size, "stored": key == upload.key}
        registry.audit(
            tx, self.caller, "blob.upload", repository=self.name, target=digest, detail=detail
        )
        return StoredBlob(digest, size, key, repository_id)

    def _remember(self, tx: Transaction, now: datetime) -> None:
        """Raises BlobUploadUnknown if the ticket has been spent on something else."""
        ticket, subject = self.ticket, self.upload.subject
        forget_at = now + self.registry.limits.finished_upload
        if ticket is None:
            ended = Ended(self.upload.id, self.name, subject, self.digest, forget_at)
            uploads.remember_finished(tx, ended)
            return
        forget_at = max(forget_at, ticket.expires_at)
        ended = Ended(ticket.id, self.name, subject, self.digest, forget_at)
        if not uploads.spend_ticket(tx, ended):
            raise BlobUploadUnknown({"upload": ticket.id})

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
