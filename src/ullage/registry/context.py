"""What a registry does. One function is one use case, and usually one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from ullage.blobs.protocol import BlobStore
from ullage.database.notifications import ACCOUNTS, notify
from ullage.database.transaction import Database, Transaction, Work
from ullage.oci.sparse import NOTHING_ABSENT, SparseRules
from ullage.registry.clients import Caller
from ullage.registry.errors import database_errors, translated
from ullage.registry.leases.lease import Leases
from ullage.registry.leases.shared_grants import SharedGrants
from ullage.registry.pull.blob_cache import BlobCache
from ullage.registry.pull.link_cache import LinkCache
from ullage.registry.pull.pull_recorder import PullRecorder
from ullage.registry.push.hasher_cache import HasherCache
from ullage.registry.push.sessions_in_memory import MemorySessions
from ullage.registry.push.silent_processes import SilentProcesses
from ullage.registry.push.tickets import UploadTickets
from ullage.registry.push.upload_counts import UploadCounts
from ullage.registry.queries.audit import Entry, record
from ullage.registry.queries.reclaim.signed_reads import Due
from ullage.registry.queries.upload_claims import Claims
from ullage.registry.rounds import Rounds
from ullage.registry.storage_keys import StoreMark
from ullage.registry.tallies import Tallies

T = TypeVar("T")

# Changes of what each process keeps in memory for a while (authenticator.py, signing_keys.py).
_OF_ACCOUNTS = ("user.", "token.", "scope-map.", "key.")


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the registry, and how long things last. Sizes in bytes."""

    max_manifest_bytes: int = 4 * 1024 * 1024
    max_manifest_descriptors: int = 16_384
    max_page_size: int = 1000
    max_name_length: int = 255
    # Open at once: all, of one account, in one repository. One without a byte makes way for others.
    max_uploads: int = 5000
    max_account_uploads: int = 200
    max_repository_uploads: int = 100
    # Uploads are refused while the store has less room than this: deletions need some.
    min_free_bytes: int = 8 * 1024 * 1024
    # Most of the store that one comparison with the database may erase, in percent.
    max_unknown_percent: int = 1
    upload_idle: timedelta = timedelta(hours=24)
    # The same for a session that has no byte yet.
    empty_upload_idle: timedelta = timedelta(minutes=10)
    # How long a promise to a pusher lasts (deletion.md section 3.2).
    lease: timedelta = timedelta(hours=1)
    # From a deletion to the erasing of bytes: time for a request that is about to open them.
    read_grace: timedelta = timedelta(seconds=2)
    # How long a signed URL of a blob works at most; zero: the store signs none. URLs that may have
    # been forgotten count for as long, so all processes of a database have the same.
    signed_read: timedelta = timedelta(0)
    # Whose deletions of a living image's referrers, by digest, are refused: az, all or none.
    protect_referrers: str = "az"
    # What manifests may come without.
    sparse_indexes: SparseRules = NOTHING_ABSENT
    # A plan of more manifests is carried out in the background, some at a time.
    max_plan_at_once: int = 1000
    # How long a finished upload is remembered, for clients that lost the answer.
    finished_upload: timedelta = timedelta(minutes=10)


class PushActivity:
    """When something was pushed last, through this process. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def note(self) -> None:
        """Something is being pushed now."""
        self._last = self._clock()

    def within(self, seconds: float) -> bool:
        """Whether anything was pushed in the last `seconds`."""
        return self._last is not None and self._clock() - self._last < seconds


@dataclass(frozen=True)
class Registry:
    """What every use case takes first: where facts and bytes are, the clock, and the limits."""

    db: Database
    blobs: BlobStore
    leases: Leases
    claims: Claims
    now: Callable[[], datetime]
    # A 32-digit hexadecimal name that cannot be guessed and is never given out again. Storage keys
    # are made from such (storage_keys.py).
    fresh_key: Callable[[], str]
    limits: Limits = field(default_factory=Limits)
    # Tells the worker that there is something to reclaim.
    wake: Callable[[], None] = lambda: None
    hashers: HasherCache = field(default_factory=HasherCache)
    # Pulls that wait to be written down.
    pull_recorder: PullRecorder = field(default_factory=PullRecorder)
    # By storage key.
    blob_cache: BlobCache = field(default_factory=BlobCache)
    # By digest, where many read together.
    manifest_cache: BlobCache = field(default_factory=BlobCache)
    # Signed URLs that were handed out, by storage key; and pulls that want the same one.
    signed_links: LinkCache = field(default_factory=LinkCache)
    signing: SharedGrants[str, Any, str | None] = field(default_factory=SharedGrants)
    # Upload sessions without bytes, where they are kept in memory.
    memory_sessions: MemorySessions | None = None
    # Background work makes way for pushes.
    pushes: PushActivity = field(default_factory=PushActivity)
    # Sessions without bytes that no process has to remember, on PostgreSQL.
    tickets: UploadTickets | None = None
    # Processes that were found dead with keys of uploads in hand.
    silent: SilentProcesses = field(default_factory=SilentProcesses)
    # Open uploads of all processes, where sessions are rows.
    upload_counts: UploadCounts = field(default_factory=UploadCounts)
    # By this name this process gives signs of life, where others may be at work on the same
    # database (queries/processes.py); None where it is alone, or gives none.
    process: str | None = None
    # How far the storage keys have come, and what the store says of that.
    store_mark: StoreMark = field(default_factory=StoreMark)
    # Whether the work beside the requests goes on.
    rounds: Rounds = field(default_factory=Rounds)
    # What happened in this process.
    tallies: Tallies = field(default_factory=Tallies)

    @property
    def unready(self) -> str | None:
        """Why the registry cannot do all of its work, for as long as it lives; None if it can."""
        return None if self.db.damage is None else f"the database is damaged: {self.db.damage}"

    def due(self, now: datetime) -> Due:
        """When the bytes of a blob that is condemned now are to be erased."""
        return Due(now + self.limits.read_grace, self.limits.signed_read)

    def read(self, work: Work[T]) -> T:
        """Run reading work; raises Unavailable if the database does not answer."""
        with database_errors():
            return self.db.read(work)

    def cached_read(self, key: Hashable, work: Work[T], weigh: Callable[[T], int]) -> T:
        """As `read`, for what is read often: `key` says all that `work` depends on.

        What it gave since the last commit it gives again; `weigh` says how many bytes that is.
        """
        try:
            return self.db.cached_read(key, work, weigh)
        except Exception:
            # Around all of it this would cost as much as reading what is remembered.
            with database_errors():
                raise

    def snapshot(self, work: Work[T], *, stopped: Callable[[], bool] | None = None) -> T:
        """Run reading work that must see one moment. Raises Stopped once `stopped` says so."""
        with database_errors():
            return self.db.snapshot(work, stopped=stopped)

    def write(self, work: Work[T], *, freeing: bool = False) -> T:
        """Run work in one transaction. `freeing` work gets through on a full disk too.

        Raises StorageFull or Unavailable when the database cannot, or whatever `work` raises.
        """
        with database_errors():
            return self.db.write(work, freeing=freeing)

    def write_one(self, work: Work[T]) -> T:
        """As `write`, of a single statement."""
        with database_errors():
            return self.db.write_one(work)

    def write_each(self, works: Sequence[Work[Any]], *, hurried: bool = False) -> list[Any]:
        """As `write`, of several pushes' work that may share a commit (Database.write_each).

        What each returned or, in its place, what it raised; also StorageFull and Unavailable.
        """
        self.pushes.note()
        return [translated(outcome) for outcome in self.db.write_each(works, hurried=hurried)]

    def on_writer(self, work: Callable[[], None]) -> None:
        """As Database.on_writer. Raises Unavailable."""
        with database_errors():
            self.db.on_writer(work)

    def entry(
        self,
        caller: Caller,
        action: str,
        repository: str | None,
        target: str | None,
        detail: Mapping[str, Any],
    ) -> Entry:
        """A change that happens now, for `audit_all`."""
        who = (caller.subject, caller.address, caller.request_id)
        return Entry(self.now(), *who, action, repository, target, detail)

    def audit_all(self, tx: Transaction, entries: Sequence[Entry]) -> None:
        """As `audit`, of many; none of accounts."""
        record(tx, entries)
        tx.after_commit(partial(self.tallies.add_changes, entries))

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
        self.audit_all(tx, [self.entry(caller, action, repository, target, detail or {})])
        if action.startswith(_OF_ACCOUNTS):
            notify(tx, ACCOUNTS)
