"""The transaction in which upload sessions end and their bytes become blobs.

Of one session or of many that come together: each statement is about all of them. Repositories are
locked in the order of their names, blobs in that of their digests, totals and the audit log last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeAlias

from ullage.database.transaction import Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUploadUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks
from ullage.registry.push.end_sessions import bury_leftover
from ullage.registry.push.links import link_and_lease
from ullage.registry.push.prepared import Facts, NotTogether
from ullage.registry.push.tickets import Ticket
from ullage.registry.quarantine import SeenCopy, log_replaced, look_at_copy
from ullage.registry.queries import finished_uploads, reserved_keys, uploads
from ullage.registry.queries.content.blobs import NewBlobLink, StoredBlob
from ullage.registry.queries.content.repositories import (
    RepositoryForUpdate,
    ensure_repository,
    lock_repositories,
)
from ullage.registry.queries.counters import count_blobs
from ullage.registry.queries.finished_uploads import Ended
from ullage.registry.queries.reclaim.adopt_blob import (
    Adopted,
    Copy,
    CopyUnseen,
    adopt_blobs,
)
from ullage.registry.queries.uploads import Upload

Repositories: TypeAlias = dict[RepositoryName, RepositoryForUpdate]


@dataclass(frozen=True, slots=True)
class AdoptedUpload(Facts[StoredBlob]):
    """A session whose bytes are safe, `size` of them, and are the blob `digest`."""

    registry: Registry
    name: RepositoryName
    caller: Caller
    upload: Upload
    # Of the request that ends it (UploadClaim).
    fence: str | None
    digest: Digest
    size: int
    # What is spent with it, where the session has no row.
    ticket: Ticket | None = None
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

    @property
    def apart(self) -> Digest:
        """Of one blob there is one copy in a transaction."""
        return self.digest

    @classmethod
    def record_all(cls, tx: Transaction, several: Sequence[AdoptedUpload]) -> list[StoredBlob]:
        """Make the bytes the blobs, linked in their repositories and leased to their pushers.

        Raises BlobUploadUnknown if a session has ended, or another request has it by now; Locked;
        CopyUnseen if there is a copy that was not looked at; NotTogether if the blobs of several
        repositories have to be stored one by one.
        """
        registry = several[0].registry
        now = registry.now()
        repositories = _repositories(tx, {each.name for each in several}, now)
        _end_sessions(tx, several, repositories)
        failpoint("upload.finish.in_transaction")
        copies = [each._copy(repositories) for each in several]
        adopted = adopt_blobs(tx, copies, now=now, signed_read=registry.limits.signed_read)
        links = {
            NewBlobLink(*copy[:3], counted=adopted[copy.digest].new): each.caller
            for copy, each in zip(copies, several, strict=True)
        }
        link_and_lease(tx, registry, links, now)
        _remember(tx, several, now)
        count_blobs(
            tx, [(copy.repository_id, copy.size) for copy in copies if adopted[copy.digest].new]
        )
        registry.audit_all(
            tx,
            [
                registry.entry(
                    each.caller,
                    "blob.upload",
                    each.name,
                    each.digest,
                    {"bytes": each.size, "stored": adopted[each.digest].key == each.upload.key},
                )
                for each in several
            ],
        )
        for each in several:
            each._tell(tx, adopted[each.digest])
        return [
            StoredBlob(copy.digest, copy.size, adopted[copy.digest].key, copy.repository_id)
            for copy in copies
        ]

    def _copy(self, repositories: Repositories) -> Copy:
        # The copy that is not needed is read by no request of here, so it may go at once.
        seen, problem = self.seen or (None, None)
        repository_id, lost = repositories[self.name].id, problem is not None
        return Copy(repository_id, self.digest, self.size, self.upload.key, seen, lost)

    def _tell(self, tx: Transaction, adopted: Adopted) -> None:
        problem = self.seen.problem if self.seen is not None else None
        if problem is not None and adopted.key == self.upload.key and not adopted.new:
            tx.after_commit(partial(log_replaced, self.digest, problem))

    def _ended(self, now: datetime) -> Ended:
        forget_at = now + self.registry.limits.finished_upload
        if self.ticket is None:
            return Ended(self.upload.id, self.name, self.upload.subject, self.digest, forget_at)
        forget_at = max(forget_at, self.ticket.expires_at)
        return Ended(self.ticket.id, self.name, self.upload.subject, self.digest, forget_at)


def _repositories(tx: Transaction, names: set[RepositoryName], now: datetime) -> Repositories:
    """Lock them all, by name: if one was deleted meanwhile, its sessions go on in the next one."""
    if len(names) == 1:
        return {name: ensure_repository(tx, name, now) for name in names}
    found = lock_repositories(tx, names)
    if len(found) < len(names):
        # Whoever makes one while others are locked may wait for another that does the same.
        raise NotTogether
    return found


def _end_sessions(
    tx: Transaction, several: Sequence[AdoptedUpload], repositories: Repositories
) -> None:
    """End the sessions; from here on this transaction answers for their keys."""
    reserved = [each.upload.key for each in several if each.upload.repository_id is None]
    if reserved_keys.release_all(tx, reserved) < len(reserved):
        raise BlobUploadUnknown({"upload": several[0].upload.id})
    for each in several:
        upload, repository = each.upload, repositories[each.name]
        if upload.repository_id is not None and not uploads.finish_upload(
            tx, upload.id, each.fence, repository.id
        ):
            raise BlobUploadUnknown({"upload": upload.id})
        bury_leftover(tx, each.registry, upload.state, None)
        attribute_locks.require_row_writable(repository)


def _remember(tx: Transaction, several: Iterable[AdoptedUpload], now: datetime) -> None:
    """Raises BlobUploadUnknown if a ticket has been spent on something else."""
    spent = [each._ended(now) for each in several if each.ticket is not None]
    finished = [each._ended(now) for each in several if each.ticket is None]
    finished_uploads.remember_finished(tx, finished)
    if not finished_uploads.spend_tickets(tx, spent):
        raise BlobUploadUnknown({"upload": spent[0].id})
