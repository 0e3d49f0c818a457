"""A small blob that comes whole, into a session that has no row (tickets.py) and gets none.

Its bytes are under a key that this process has reserved, so they are known to the database before
the first of them exists. The transaction that makes them a blob spends the ticket.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUploadUnknown, DigestInvalid, RegistryError
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.push.append_session import AppendSession
from ullage.registry.push.end_sessions import end_upload
from ullage.registry.push.prepared import Facts, Prepared
from ullage.registry.push.sessions import begin_unwritten
from ullage.registry.push.tickets import Ticket
from ullage.registry.push.upload_claim import UploadClaim
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.registry.queries.uploads import Upload

log = logging.getLogger(__name__)


def prepare_whole(
    registry: Registry,
    name: RepositoryName,
    ticket: Ticket,
    caller: Caller,
    digest: Digest,
    pieces: Sequence[bytes],
    otherwise: Callable[[], StoredBlob],
) -> Prepared[StoredBlob] | None:
    """A blob up to where its bytes are safe; None if these bytes are others.

    `otherwise` finishes it where the ticket turns out to be spent: by the session's row, or by what
    is remembered of its end.
    Raises StorageFull, Unavailable.
    """
    upload = begin_unwritten(registry, name, ticket.algorithm, caller)
    try:
        with store_errors():
            append = registry.blobs.begin(upload.key)
        claim = UploadClaim.of_this_process(registry, upload)
        session = AppendSession(
            registry, name, upload, append, claim, caller, last=True, ticket=ticket
        )
        for piece in pieces:
            session.write(piece)
        return _WholeBlob(registry, upload, session.prepare(digest), otherwise)
    except DigestInvalid:
        end_upload(registry, upload)
        return None
    except BaseException:
        end_upload(registry, upload)
        raise


@dataclass(frozen=True, slots=True)
class _WholeBlob(Prepared[StoredBlob]):
    registry: Registry
    upload: Upload
    prepared: Prepared[StoredBlob]
    otherwise: Callable[[], StoredBlob]

    @property
    def facts(self) -> Facts[StoredBlob] | None:  # type: ignore[override]
        return self.prepared.facts

    def record(self, tx: Transaction) -> StoredBlob:
        return self.prepared.record(tx)

    def recorded(self, result: StoredBlob) -> None:
        self.prepared.recorded(result)

    def undo(self) -> None:
        self.prepared.undo()
        try:
            end_upload(self.registry, self.upload)
        except RegistryError as error:
            # It ends by itself.
            log.warning("an upload's bytes stay for a while: %s", error)

    def again(self, outcome: Any) -> Any:
        return self.prepared.again(outcome)

    def end(self, outcome: Any) -> StoredBlob:
        outcome = self.again(outcome)
        if isinstance(outcome, BlobUploadUnknown):
            self.undo()
            return self.otherwise()
        return Prepared.end(self, outcome)
