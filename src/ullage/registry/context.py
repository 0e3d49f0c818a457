"""What a registry does. One function is one use case, and usually one transaction."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from types import TracebackType
from typing import Any, TypeVar

from ullage.blobs.protocol import BlobStore, StoredObject, StoreFull
from ullage.database.errors import DatabaseBroken, DatabaseBusy, DatabaseFull
from ullage.database.transaction import Database, Transaction, Work
from ullage.oci.digest import Digest
from ullage.oci.errors import StorageFull, Unavailable
from ullage.registry.leases.lease import Holder, Leases
from ullage.registry.pull.blob_cache import SmallBlobs
from ullage.registry.pull.pull_recorder import Recorder
from ullage.registry.push.hasher_cache import Hashers
from ullage.registry.push.sessions_in_memory import FreshSessions
from ullage.registry.queries.audit import record
from ullage.registry.queries.upload_claims import Claims

__all__ = ["Caller", "Limits", "Registry", "StoredObject", "store_errors"]

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the registry, and how long things last. Sizes in bytes."""

    max_manifest_bytes: int = 4 * 1024 * 1024
    max_manifest_descriptors: int = 1000
    max_page_size: int = 1000
    max_name_length: int = 255
    max_uploads: int = 1000
    # Uploads are refused while the store has less room than this: deletions need some.
    min_free_bytes: int = 8 * 1024 * 1024
    upload_idle: timedelta = timedelta(hours=24)
    # How long a promise to a pusher holds (docs/design/deletion.md, leases).
    lease: timedelta = timedelta(hours=1)
    # From a deletion to the erasing of bytes: time for a reader that was just told to send them.
    read_grace: timedelta = timedelta(seconds=2)
    # A plan of more manifests is carried out in the background, some at a time.
    max_plan_at_once: int = 1000
    # How long a finished upload is remembered, for clients that lost the answer.
    finished_upload: timedelta = timedelta(minutes=10)


# Docker's daemon and docker's own client: distribution/registry/client ends an upload and a mount
# with one more look at the blob (blob_writer.go, Commit; repository.go, Create).
_CONFIRMING = ("docker/", "Docker-Client/")
# Clients of containers/image look whether the source has a blob before they mount it from there
# (docker_image_dest.go, TryReusingBlob). Others mount without asking.
_ASKING_SOURCE = ("containers/", "skopeo/", "Buildah/", "buildah/", "libpod/", "podman/")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `subject` is the account, "" for anonymous."""

    subject: str
    address: str
    agent: str
    # What both sides' logs and the audit log call this request.
    request_id: str = ""

    @property
    def holder(self) -> Holder:
        """Whom a lease is granted to: this account, at this address, with this client."""
        return _holder(self.subject, self.address, self.agent)


# The same few clients ask for one blob after the other.
@lru_cache(256)
def _holder(subject: str, address: str, agent: str) -> Holder:
    identity = "\n".join((subject, address, agent)).encode()
    key = hashlib.blake2b(identity, digest_size=16).hexdigest()
    return Holder(
        key,
        confirms=agent.startswith(_CONFIRMING),
        asks_source=agent.startswith(_ASKING_SOURCE),
    )


@dataclass(frozen=True)
class Registry:
    """What every service takes first: where facts and bytes are, the clock, and the limits."""

    db: Database
    blobs: BlobStore
    leases: Leases
    claims: Claims
    now: Callable[[], datetime]
    # A 32-digit hexadecimal name that nobody can guess and that is never given out again.
    fresh_key: Callable[[], str]
    limits: Limits = field(default_factory=Limits)
    # Tells the worker that there is something to reclaim.
    wake: Callable[[], None] = lambda: None
    hashers: Hashers = field(default_factory=Hashers)
    # Pulls that wait to be written down.
    pulls: Recorder = field(default_factory=Recorder)
    small: SmallBlobs = field(default_factory=SmallBlobs)
    # Upload sessions without bytes, where they are kept in memory.
    fresh: FreshSessions | None = None

    def read(self, work: Work[T]) -> T:
        """Run reading work; raises Unavailable if the database does not answer."""
        with _SPOKEN:
            return self.db.read(work)

    def recall(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        """As `read`, for what is read often: `key` says all that `work` depends on.

        What it gave since the last commit it gives again; `weigh` says how many bytes that is.
        """
        with _SPOKEN:
            return self.db.recall(key, work, weigh)

    def snapshot(self, work: Work[T]) -> T:
        """Run reading work that must see one moment."""
        with _SPOKEN:
            return self.db.snapshot(work)

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        """Run work in one transaction. `freeing` work gets through on a full disk too.

        Raises StorageFull or Unavailable when the database cannot, or whatever `work` raises.
        """
        with _SPOKEN:
            return self.db.write(work, freeing=freeing)

    def write_each(self, works: Sequence[Work[Any]]) -> list[Any]:
        """As `write`, of several that may share a commit.

        What each returned or, in its place, what it raised; also StorageFull and Unavailable.
        """
        return [_spoken(outcome) for outcome in self.db.write_each(works)]

    def between(self, work: Callable[[], None]) -> None:
        """Run `work`, which raises nothing, soon; where one thread writes, on that one.

        Raises Unavailable.
        """
        with _SPOKEN:
            self.db.between(work)

    def audit(
        self,
        tx: Transaction,
        caller: Caller,
        action: str,
        *,
        repository: str | None = None,
        target: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Note a change in the transaction that makes it; to be called last."""
        record(
            tx,
            at=self.now(),
            subject=caller.subject,
            address=caller.address,
            request_id=caller.request_id,
            action=action,
            repository=repository,
            target=target,
            detail=detail,
        )

    def promise(self, repository_id: int, digest: Digest, caller: Caller) -> bool:
        """Promise a linked blob to a pusher; False if it is gone or going. Raises Unavailable."""
        with _SPOKEN:
            return self.leases.offer(self.db, repository_id, digest, caller.holder, self.now())

    def expire_leases(self) -> None:
        """Drop promises that have ended. Raises Unavailable."""
        with _SPOKEN:
            self.leases.expire(self.db, self.now())

    def claim(self, upload_id: str, token: str) -> bool:
        """Take an upload session for one request; False while another one works on it."""
        with _SPOKEN:
            return self.claims.claim(self.db, upload_id, token, self.now())

    def renew_claim(self, upload_id: str, token: str) -> None:
        """Still at it. Raises Unavailable."""
        with _SPOKEN:
            self.claims.renew(self.db, upload_id, token, self.now())

    def release_claim(self, upload_id: str, token: str) -> None:
        """Done with it. What cannot be released ends by itself, and is no reason to fail."""
        try:
            self.claims.release(self.db, upload_id, token)
        except (DatabaseFull, DatabaseBusy, DatabaseBroken) as error:
            log.warning("upload %s stays claimed for a while: %s", upload_id, error)


class _Saying:
    """A context that says an error in other words: those of `says`, unless it has none for it."""

    __slots__ = ("_says",)

    def __init__(self, says: Callable[[BaseException], Exception | None]) -> None:
        self._says = says

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        said = None if error is None else self._says(error)
        if said is not None:
            raise said from error


def _of_the_database(error: BaseException) -> Exception | None:
    """A database's troubles in the words of the protocol."""
    if isinstance(error, DatabaseFull):
        return StorageFull(message="no space left for the registry's database")
    if isinstance(error, DatabaseBusy):
        return Unavailable(message="the registry's database is busy; try again")
    if isinstance(error, DatabaseBroken):
        return Unavailable(
            message="the registry's database failed and takes no changes until it is restarted"
        )
    return None


def _spoken(outcome: Any) -> Any:
    """The outcome; a database's troubles in the words of the protocol."""
    said = _of_the_database(outcome) if isinstance(outcome, BaseException) else None
    if said is None:
        return outcome
    said.__cause__ = outcome
    return said


def _of_the_store(error: BaseException) -> Exception | None:
    """A blob store's troubles in the words of the protocol."""
    if isinstance(error, StoreFull):
        return StorageFull(message="no space left for blobs")
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EBUSY:
        # The request that claimed it before is not quite gone.
        return Unavailable(message="another request is writing this upload; try again")
    log.error("the blob store failed: %s", error)
    return Unavailable(message="the registry's storage failed; try again")


_SPOKEN, _STORE_SPOKEN = _Saying(_of_the_database), _Saying(_of_the_store)


def store_errors() -> AbstractContextManager[None]:
    """Say a blob store's troubles in the words of the protocol."""
    return _STORE_SPOKEN
