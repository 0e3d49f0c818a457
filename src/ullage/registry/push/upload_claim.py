"""One request's exclusive right to an upload session."""

from __future__ import annotations

import logging
import math
import time

from ullage.database.errors import DatabaseBroken, DatabaseBusy, DatabaseFull
from ullage.oci.errors import BlobUploadUnknown
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import database_errors
from ullage.registry.push.end_sessions import memory_sessions_of
from ullage.registry.push.sessions import store_ticket
from ullage.registry.push.tickets import Ticket
from ullage.registry.queries import uploads
from ullage.registry.queries.upload_claims import CLAIM_PERIOD, Claims, MemoryClaims
from ullage.registry.queries.uploads import Upload

log = logging.getLogger(__name__)

# How often a claim is renewed in the time for which it lasts.
RENEWALS = 3
# In a store that is not asked how much a session has, the session's row is behind by no more.
MOST_UNRECORDED = 64 * 1024 * 1024


class UploadClaim:
    """Made by `take`; to be released once, or forgotten."""

    def __init__(
        self,
        registry: Registry,
        claims: Claims,
        upload_id: str,
        token: str,
        upload: Upload | None,
    ) -> None:
        self._registry = registry
        self._claims = claims
        # As it was when it was claimed; None if it is still to be read.
        self.upload = upload
        self._upload_id = upload_id
        self._token = token
        self._renewed = time.monotonic()
        self._renew_every = min(
            CLAIM_PERIOD.total_seconds() / RENEWALS, registry.limits.upload_idle.total_seconds() / 4
        )
        # Bytes of which the row knows, and how many more there may be.
        self._recorded = 0
        self._most_unrecorded = math.inf if registry.blobs.sizes_appends else MOST_UNRECORDED

    @classmethod
    def take(cls, registry: Registry, name: RepositoryName, upload_id: str) -> UploadClaim | None:
        """None while another request has the session. Raises Unavailable."""
        token = registry.fresh_key()
        with database_errors():
            claimed = registry.claims.claim(registry.db, name, upload_id, token, registry.now())
        if not claimed:
            return None
        return cls(registry, registry.claims, upload_id, token, claimed.upload)

    @classmethod
    def of_this_process(cls, registry: Registry, upload: Upload) -> UploadClaim:
        """Of a session that no other request can find."""
        return cls(registry, MemoryClaims(), upload.id, "", upload)

    @classmethod
    def of_new_row(
        cls, registry: Registry, name: RepositoryName, ticket: Ticket, caller: Caller
    ) -> UploadClaim | None:
        """Of a session that gets its row for this request; None if its ticket is spent.

        Raises what store_ticket does.
        """
        token = registry.fresh_key()
        upload = store_ticket(registry, name, ticket, caller, token)
        if upload is None:
            return None
        return cls(registry, registry.claims, upload.id, token, upload)

    @property
    def fence(self) -> str | None:
        """What the session's row has as its claim for as long as this is one."""
        return self._claims.fence(self._token)

    def keep_alive(self, upload: Upload, stored: int) -> None:
        """Keep the claim and its session from expiring: a slow upload is not an idle one.

        `stored` bytes of it are in the store by now.

        Raises BlobUploadUnknown if the claim ran out and another request has the session.
        """
        recent = time.monotonic() - self._renewed < self._renew_every
        if recent and stored - self._recorded < self._most_unrecorded:
            return
        self._renewed, self._recorded = time.monotonic(), stored
        if not self.renew() or not self._prolong(upload, stored):
            raise BlobUploadUnknown({"upload": upload.id})

    def renew(self) -> bool:
        """Have the claim for its whole time again; False if it is lost. Raises Unavailable."""
        registry = self._registry
        with database_errors():
            return self._claims.renew(registry.db, self._upload_id, self._token, registry.now())

    def _prolong(self, upload: Upload, stored: int) -> bool:
        registry = self._registry
        expires_at = registry.now() + registry.limits.upload_idle
        if upload.repository_id is None:
            memory_sessions_of(registry).prolong(upload.id, stored, expires_at)
            return True
        return registry.write(
            lambda tx: uploads.prolong(tx, upload.id, self.fence, stored, expires_at)
        )

    def forget(self) -> None:
        """The claim has ended with its session."""
        self._claims.forget(self._upload_id, self._token)

    def release(self) -> None:
        """End the claim. One that cannot be released ends by itself, so nothing fails for it."""
        try:
            self._claims.release(self._registry.db, self._upload_id, self._token)
        except (DatabaseFull, DatabaseBusy, DatabaseBroken) as error:
            log.warning("upload %s stays claimed for a while: %s", self._upload_id, error)
