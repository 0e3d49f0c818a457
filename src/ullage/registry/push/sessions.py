"""Upload sessions without their bytes: opened, looked at, cancelled, ended.

Where one process owns the database a session starts in its memory (sessions_in_memory.py),
elsewhere as a ticket (tickets.py), or as a row. Whatever was written under a session's key is
buried in the transaction that ends the session. A session in memory ends with its process: an
orderly stop gives it a row, and after a crash the next start gives back what it had, or another
process does.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta

from ullage.database.transaction import Question, Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import ALGORITHMS
from ullage.oci.errors import (
    BlobUploadUnknown,
    DigestInvalid,
    RangeInvalid,
    RegistryError,
    StorageFull,
    TooManyRequests,
)
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.identity import begin_batch, is_complete, require_own_store
from ullage.registry.locks import attribute_locks
from ullage.registry.push.sessions_in_memory import MemorySession, MemorySessions
from ullage.registry.push.tickets import Ticket, UploadTickets, row_id
from ullage.registry.push.upload_counts import is_far
from ullage.registry.queries import reserved_keys, uploads
from ullage.registry.queries.content.repositories import drop_repository_if_empty, ensure_repository
from ullage.registry.queries.processes import DEAD_AFTER
from ullage.registry.queries.reclaim import tombstones
from ullage.registry.queries.uploads import NO_CLAIM, Ended, OpenUploads, Upload
from ullage.registry.storage_keys import KEYS_AT_ONCE
from ullage.registry.stored_objects import stored_bytes

__all__ = ["Upload"]

log = logging.getLogger(__name__)

# A session with bytes to which none came for so long is idle: its client may have gone.
IDLE_AFTER = timedelta(minutes=1)
# Bytes that a crash left complete, without a row that says so, are kept for so long: it may be the
# database that is missing something.
DOUBT = timedelta(days=1)


def start_upload(
    registry: Registry,
    name: RepositoryName,
    caller: Caller,
    algorithm: str = "sha256",
) -> Upload:
    """Open an upload session in a repository, which need not exist yet.

    `algorithm` is what the client says it will name the blob by; another one costs a second look at
    the bytes.
    Raises TooManyRequests, StorageFull, Locked, DigestInvalid for an unknown algorithm.
    """
    _require_algorithm(algorithm)
    _require_room(registry)
    if registry.tickets is not None:
        return _start_signed(registry, registry.tickets, name, caller, algorithm)
    if registry.memory_sessions is not None:
        return _start_in_memory(registry, registry.memory_sessions, name, caller, algorithm)
    return _start_stored(registry, name, caller, algorithm)


def _require_algorithm(algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise DigestInvalid(
            {"algorithm": algorithm}, f"digest algorithm: expected one of {', '.join(ALGORITHMS)}"
        )


def starts_at_once(registry: Registry) -> bool:
    """Whether start_upload would not have to wait for a disk."""
    return registry.memory_sessions is not None and registry.memory_sessions.has_key


def may_start(
    registry: Registry, names: Iterable[RepositoryName]
) -> Question[dict[RepositoryName, bool]]:
    """Which of these repositories take uploads; `sign_upload` opens them without waiting then."""
    if registry.upload_counts.are_old():
        counts = yield from uploads.count_of_each_account()
        registry.upload_counts.put(counts)
    found = yield from uploads.take_uploads(names, registry.store_mark.store)
    return {name: True for name in names if name in found}


def sign_upload(
    registry: Registry, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload | None:
    """As start_upload, of a repository that takes uploads; it waits for nothing.

    None where so many sessions are open that they have to be counted.
    """
    _require_algorithm(algorithm)
    _require_room(registry)
    counts, limits = registry.upload_counts.of_a_moment_ago(), registry.limits
    if registry.tickets is None or counts is None:
        return None
    fewest = min(limits.max_uploads, limits.max_account_uploads, limits.max_repository_uploads)
    if not is_far(sum(counts.values()), fewest):
        return None
    return _signed(registry, registry.tickets, name, caller, algorithm)


def _start_signed(
    registry: Registry, tickets: UploadTickets, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session that nothing is written of, until it has bytes that count."""

    def look(tx: Transaction) -> OpenUploads:
        require_own_store(tx, registry)
        return uploads.count_uploads_for(tx, name, caller.subject)

    stored = registry.read(look)
    attribute_locks.require(name, writable=stored.writable)
    _make_way(registry, stored, name, caller)
    return _signed(registry, tickets, name, caller, algorithm)


def _signed(
    registry: Registry, tickets: UploadTickets, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    expires_at = registry.now() + registry.limits.empty_upload_idle
    ticket = Ticket(registry.fresh_key(), algorithm, expires_at)
    return _unspent(tickets.issue(name, caller.subject, ticket), ticket, caller)


def _unspent(upload_id: str, ticket: Ticket, caller: Caller) -> Upload:
    """A session as its ticket says it is."""
    return Upload(upload_id, None, caller.subject, "", ticket.algorithm, 0)


def ticket_of(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller
) -> Ticket | None:
    """The ticket that is this id of a session, whether or not it has been spent since."""
    if registry.tickets is None:
        return None
    return registry.tickets.read(name, caller.subject, upload_id, registry.now())


def store_ticket(
    registry: Registry, name: RepositoryName, ticket: Ticket, caller: Caller, token: str
) -> Upload | None:
    """Give a session its row, claimed by the request `token`; None if its ticket is spent.

    Raises TooManyRequests, StorageFull, Locked, Unavailable.
    """
    upload = Upload(ticket.id, None, caller.subject, _key_for_row(registry), ticket.algorithm, 0)
    near = not _is_far_from_limits(registry, name, caller)
    try:
        stored = _open(registry, name, upload, caller, near=near, ticket=ticket, token=token)
    except _TicketSpent:
        return None
    return _begin_stored(registry, stored)


class _TicketSpent(Exception):
    """Undoes the transaction that found it."""


def begin_unwritten(
    registry: Registry, name: RepositoryName, algorithm: str, caller: Caller
) -> Upload:
    """A session for one request of this process alone; there may be bytes under its key."""
    memory = memory_sessions_of(registry)
    key = memory.take_key() or _reserve_keys(registry, memory)
    upload = Upload(registry.fresh_key(), None, caller.subject, key, algorithm, 0)
    expires_at = registry.now() + registry.limits.empty_upload_idle
    memory.add(MemorySession(upload, name, expires_at, began=True))
    return upload


def _start_in_memory(
    registry: Registry, memory: MemorySessions, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session in memory; the database knows only its key (sessions_in_memory.py)."""
    stored = registry.cached_read(
        ("uploading", name, caller.subject),
        lambda tx: uploads.count_uploads_for(tx, name, caller.subject),
        lambda _: 0,
    )
    attribute_locks.require(name, writable=stored.writable)
    _make_way(registry, stored, name, caller)
    key = memory.take_key() or _reserve_keys(registry, memory)
    upload = Upload(registry.fresh_key(), None, caller.subject, key, algorithm, 0)
    memory.add(MemorySession(upload, name, registry.now() + registry.limits.empty_upload_idle))
    return upload


def _reserve_keys(registry: Registry, memory: MemorySessions) -> str:
    """One storage key for now, and many for later, that a crash cannot hide."""
    first, *others = begin_batch(
        registry, lambda tx, keys: reserved_keys.reserve(tx, keys, registry.process)
    )
    failpoint("upload.reserve.after_row")
    memory.add_keys(others)
    return first


def _make_way(
    registry: Registry, stored: OpenUploads, name: RepositoryName, caller: Caller
) -> None:
    """Where there are too many sessions, end one: none that costs nothing keeps another out.

    That is one without a byte; else the idlest of the account that has most of them, which ends for
    an account that has fewer, and for others once it is idle.
    Raises TooManyRequests.
    """
    limits, memory = registry.limits, registry.memory_sessions
    in_memory = len(memory) if memory is not None else 0
    fewest = min(limits.max_uploads, limits.max_account_uploads, limits.max_repository_uploads)
    if stored.all + in_memory < fewest:
        return
    shares: list[tuple[int, int, str | None, RepositoryName | None]] = [
        (stored.of_repository, limits.max_repository_uploads, None, name),
        (stored.all, limits.max_uploads, None, None),
    ]
    if caller.subject:
        # Without accounts all clients are one.
        shares.insert(0, (stored.of_account, limits.max_account_uploads, caller.subject, None))
    for count, most, subject, repository in shares:
        if memory is not None:
            count += memory.count(subject=subject, name=repository)
        if count < most or _end_empty(registry, subject, repository):
            continue
        wait = _end_idlest(registry, caller.subject, subject, repository)
        if wait:
            whose = "in this repository" if repository else "of this account" if subject else ""
            seconds = math.ceil(wait.total_seconds())
            raise TooManyRequests(
                {"retry_after_seconds": seconds},
                f"{most} uploads {whose} are open and have bytes; finish or cancel some first, or "
                f"try again in {seconds} s".replace("  ", " "),
                retry_after=seconds,
            )


def _end_empty(registry: Registry, subject: str | None, name: RepositoryName | None) -> bool:
    """End the session without a byte that makes way; False if there is none."""
    memory, now = registry.memory_sessions, registry.now()
    found = memory.find_empty(subject=subject, name=name) if memory is not None else None
    if found is None:
        found = registry.read(lambda tx: uploads.find_empty(tx, now, subject=subject, name=name))
    # One that has ended by itself meanwhile, or that bytes have come to, has made way, too.
    if found is not None:
        end_upload(registry, found, only_if_empty=True)
    return found is not None


def _end_idlest(
    registry: Registry, asking: str, subject: str | None, name: RepositoryName | None
) -> timedelta | None:
    """End the session with bytes that makes way; None once it has, else how long until one may.

    Accounts that have fewer than another take from what that one has. The one that has most, and
    accounts that are no better, wait until its idlest session is idle.
    """
    memory, now = registry.memory_sessions, registry.now()
    held = Counter(registry.read(lambda tx: uploads.count_by_account(tx, name)))
    if memory is not None:
        held += memory.count_by_account(name)
    most = subject if subject is not None else max(held, key=lambda each: (held[each], each))
    found = registry.read(lambda tx: uploads.find_idlest(tx, now, most, name))
    in_memory = memory.find_idlest(most, name) if memory is not None else None
    found = min(filter(None, (found, in_memory)), key=lambda each: each[1], default=None)
    if found is None:
        # Requests are at work on all of them.
        return IDLE_AFTER
    upload, ends_at = found
    idle_for = now - (ends_at - registry.limits.upload_idle)
    wait = min(IDLE_AFTER - idle_for, ends_at - now)
    if held[most] <= held[asking] + 1 and wait > timedelta():
        return wait
    end_upload(registry, upload, only_if_idle=ends_at)
    return None


def _require_few(registry: Registry, count: int) -> None:
    if count >= registry.limits.max_uploads:
        raise TooManyRequests(message="too many open uploads; finish or cancel some first")


def _require_room(registry: Registry) -> None:
    free = registry.blobs.free_bytes()
    if free is not None and free < registry.limits.min_free_bytes:
        raise StorageFull(
            {"free": free, "kept_free": registry.limits.min_free_bytes},
            "no space left for uploads; delete something first",
        )


def _start_stored(
    registry: Registry, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session as a row, for any process to go on with."""
    upload_id, key = registry.fresh_key(), _key_for_row(registry)
    upload = Upload(upload_id, None, caller.subject, key, algorithm, 0)
    # The row names the key before a byte exists under it, so a crash leaves nothing unknown.
    near = not _is_far_from_limits(registry, name, caller)
    opened = None if near else _open_at_once(registry, name, upload)
    return _begin_stored(registry, opened or _open(registry, name, upload, caller, near=near))


def _begin_stored(registry: Registry, upload: Upload) -> Upload:
    failpoint("upload.start.after_row")
    try:
        with store_errors():
            registry.blobs.begin(upload.key).close()
    except BaseException:
        end_upload(registry, upload)
        raise
    return upload


def _is_far_from_limits(registry: Registry, name: RepositoryName, caller: Caller) -> bool:
    """Whether so few sessions are open that they need not be counted (upload_counts.py)."""
    limits = registry.limits
    counts = registry.upload_counts.by_account(
        lambda: registry.read(lambda tx: uploads.count_by_account(tx, None))
    )
    in_all, of_account = sum(counts.values()), counts.get(caller.subject, 0)
    if not is_far(in_all, limits.max_uploads):
        return False
    if caller.subject and not is_far(of_account, limits.max_account_uploads):
        return False
    if is_far(in_all, limits.max_repository_uploads):
        return True
    of_repository = registry.read(lambda tx: uploads.count_uploads_of(tx, name))
    return is_far(of_repository, limits.max_repository_uploads)


def _open_at_once(registry: Registry, name: RepositoryName, upload: Upload) -> Upload | None:
    """The session with its row; None where there is more to do or to say first."""
    now = registry.now()
    expires_at, store = now + registry.limits.empty_upload_idle, registry.store_mark.store
    repository_id = registry.write_one(
        lambda tx: uploads.open_at_once(tx, name, upload, store, now, expires_at)
    )
    return dataclasses.replace(upload, repository_id=repository_id) if repository_id else None


def _open(
    registry: Registry,
    name: RepositoryName,
    upload: Upload,
    caller: Caller,
    *,
    near: bool,
    ticket: Ticket | None = None,
    token: str | None = None,
) -> Upload:
    """As _open_at_once, with all that may have to be done first, `near` a limit in particular.

    A `ticket` is spent on it, and the request `token` claims it.
    Raises what start_upload does, and _TicketSpent if the ticket was before.
    """
    now = registry.now()
    if near:
        stored = registry.read(lambda tx: uploads.count_uploads_for(tx, name, caller.subject))
        _make_way(registry, stored, name, caller)

    claim = registry.claims.taken(token, now) if token is not None else NO_CLAIM

    def open_session(tx: Transaction) -> Upload:
        if near:
            _require_few(registry, uploads.count_uploads(tx))
        repository = ensure_repository(tx, name, now)
        attribute_locks.require_row_writable(repository)
        if ticket is not None and not uploads.spend_tickets(tx, [_spent(ticket, name, caller)]):
            raise _TicketSpent
        opened = dataclasses.replace(upload, repository_id=repository.id)
        uploads.insert_upload(tx, opened, now, now + registry.limits.empty_upload_idle, claim)
        # Last: a registry that moves meanwhile locks the table (transfer/switch.py).
        require_own_store(tx, registry)
        return opened

    return registry.write(open_session)


def _spent(ticket: Ticket, name: RepositoryName, caller: Caller) -> Ended:
    """A ticket that is no blob's, for as long as it could be shown."""
    return Ended(ticket.id, name, caller.subject, "", ticket.expires_at)


def _key_for_row(registry: Registry) -> str:
    """A storage key that a session's row will name before there are bytes under it."""
    key = registry.store_mark.take_key()
    if key is None:
        key, *others = begin_batch(registry, lambda tx, keys: None)
        registry.store_mark.add_keys(others)
    return key


def get_upload(registry: Registry, name: RepositoryName, upload_id: str, caller: Caller) -> Upload:
    """The session's state. Raises BlobUploadUnknown, also for another repository's or caller's."""
    memory = registry.memory_sessions
    upload = memory.find(name, upload_id) if memory is not None else None
    if upload is None:
        ticket = ticket_of(registry, name, upload_id, caller)
        upload = registry.read(lambda tx: _find(tx, name, upload_id, caller, ticket))
    if upload is None:
        raise BlobUploadUnknown({"upload": upload_id})
    require_own(upload, caller)
    return upload


def _find(
    tx: Transaction, name: RepositoryName, upload_id: str, caller: Caller, ticket: Ticket | None
) -> Upload | None:
    """A session by its row, or by its ticket if that is not spent."""
    upload = uploads.find_upload(tx, name, row_id(upload_id))
    if upload is not None or ticket is None or uploads.find_finished(tx, name, ticket.id):
        return upload
    return _unspent(upload_id, ticket, caller)


def require_own(upload: Upload, caller: Caller) -> None:
    """Raises BlobUploadUnknown if the session is another caller's."""
    if upload.subject != caller.subject:
        raise BlobUploadUnknown({"upload": upload.id})


def require_offset(
    registry: Registry, name: RepositoryName, upload_id: str, caller: Caller, start: int | None
) -> int:
    """Where the session's next byte goes. Raises BlobUploadUnknown; RangeInvalid if not `start`."""
    upload = get_upload(registry, name, upload_id, caller)
    if start is not None and start != upload.offset:
        raise RangeInvalid({"upload": upload_id}, offset=upload.offset)
    return upload.offset


def cancel_upload(registry: Registry, name: RepositoryName, upload_id: str, caller: Caller) -> None:
    """distribution-spec, end-14: drop the session and its bytes. Raises BlobUploadUnknown."""
    upload = get_upload(registry, name, upload_id, caller)
    ticket = ticket_of(registry, name, upload.id, caller)
    if ticket is not None:
        spent = _spent(ticket, name, caller)
        ended = registry.write(lambda tx: uploads.spend_tickets(tx, [spent]), freeing=True)
    else:
        ended = end_upload(registry, upload)
    if not ended:
        raise BlobUploadUnknown({"upload": upload_id})


def end_unannounced(
    registry: Registry, name: RepositoryName, upload: Upload, caller: Caller
) -> None:
    """End a session that no client can go on with, because none was told its id."""
    if ticket_of(registry, name, upload.id, caller) is not None:
        found = registry.read(lambda tx: uploads.find_upload(tx, name, row_id(upload.id)))
        if found is None:
            return
        upload = found
    end_upload(registry, upload)


def end_upload(
    registry: Registry,
    upload: Upload,
    *,
    only_if_expired: bool = False,
    only_if_empty: bool = False,
    only_if_idle: datetime | None = None,
    record: Callable[[Transaction], None] | None = None,
) -> bool:
    """End a session for whatever reason and bury its bytes; False if it had ended already.

    `only_if_idle`: unless bytes have come since it was to last until then.
    `record` is done in the same transaction, if it had not ended.
    """
    if upload.repository_id is None:
        lasts_until = registry.now() if only_if_expired else only_if_idle
        return _end_in_memory(
            registry, upload, lasts_until, only_if_empty=only_if_empty, record=record
        )
    with store_errors():
        size = stored_bytes(registry.blobs, upload.key, upload.state) or 0
        doubtful = only_if_expired and _is_complete(registry, upload.key)
    now = registry.now()
    due_at = now + DOUBT if doubtful else now

    def end(tx: Transaction) -> bool:
        # By now it may be another one of that name.
        if only_if_expired:
            ended = uploads.delete_expired_upload(tx, upload.id, now)
        elif only_if_empty:
            ended = uploads.delete_empty_upload(tx, upload.id, now)
        elif only_if_idle is not None:
            ended = uploads.delete_idle_upload(tx, upload.id, only_if_idle, now)
        else:
            ended = uploads.delete_upload(tx, upload.id)
        if ended is None:
            return False
        drop_repository_if_empty(tx, ended.repository_id)
        tombstones.bury(tx, ended.repository_id, upload.key, size, due_at, state=ended.state)
        if record is not None:
            record(tx)
        return True

    ended = registry.write(end, freeing=True)
    failpoint("cancel.after_row")
    registry.hashers.forget(upload.id)
    if ended:
        registry.wake()
    return ended


def _is_complete(registry: Registry, key: str) -> bool:
    return is_complete(registry.blobs, key, registry.blobs.size(key))


def bury_leftover(tx: Transaction, registry: Registry, before: str, now: str | None) -> None:
    """Leave a tombstone for what one state of a session names, and the next one does not."""
    leftover = registry.blobs.leftover(before, now)
    if leftover is not None:
        # Under a name of its own: the session's key may still be in use.
        key, due_at = registry.fresh_key(), registry.now()
        tombstones.bury(tx, 0, key, leftover.size, due_at, state=leftover.state)


def end_uploads_of(registry: Registry, subject: str) -> int:
    """End all sessions of an account that may not go on with them; how many those were."""
    found = registry.read(lambda tx: uploads.uploads_of_account(tx, subject))
    if registry.memory_sessions is not None:
        sessions = registry.memory_sessions.all()
        found += [each.upload for each in sessions if each.upload.subject == subject]
    return sum(end_upload(registry, upload) for upload in found)


def _end_in_memory(
    registry: Registry,
    upload: Upload,
    lasts_until: datetime | None,
    *,
    only_if_empty: bool,
    record: Callable[[Transaction], None] | None,
) -> bool:
    """As end_upload; with `lasts_until`, unless it lasts longer by now."""
    memory, now = memory_sessions_of(registry), registry.now()
    if only_if_empty:
        session = memory.remove_empty(upload.id)
    else:
        session = memory.remove(upload.id, expired_at=lasts_until)
    if session is None:
        return False
    registry.hashers.forget(upload.id)
    if not session.began:
        # Nothing was ever written under it.
        memory.add_keys([upload.key])
        if record is not None:
            registry.write(record, freeing=True)
        return True
    try:
        state = session.upload.state
        with store_errors():
            sizes = {upload.key: stored_bytes(registry.blobs, upload.key, state)}
        _bury_reserved(registry, sizes, {}, now, record, state=state)
    except BaseException:
        memory.add(session)
        raise
    failpoint("cancel.after_row")
    registry.wake()
    return True


def _bury_reserved(
    registry: Registry,
    sizes: Mapping[str, int | None],
    due_later: Mapping[str, datetime],
    now: datetime,
    record: Callable[[Transaction], None] | None = None,
    *,
    state: str = "",
) -> int:
    """Cross reserved keys out, with tombstones for what is stored under them; how many those are.

    The caller knows that nothing will be written there any more, and has asked for `sizes` (bytes,
    None where nothing is) since.
    They are due now, but for those that are `due_later`. `state` is of the one session that ends.
    """

    def bury(tx: Transaction) -> int:
        buried = 0
        for key, size in sizes.items():
            if reserved_keys.release(tx, key) and size is not None:
                tombstones.bury(tx, 0, key, size, due_later.get(key, now), state=state)
                buried += 1
        if record is not None:
            record(tx)
        return buried

    return registry.write(bury, freeing=True)


def end_forgotten_sessions(registry: Registry) -> int:
    """At a start: give back what a crash left of sessions that were in memory; how many had bytes.

    Only where this process alone owns the database.
    """
    keys = registry.read(reserved_keys.reserved_keys)
    failpoint("recover.after_claim")
    if not keys:
        return 0
    buried = _give_back(registry, keys, registry.now())
    failpoint("recover.after_row")
    return buried


def _give_back(registry: Registry, keys: Collection[str], now: datetime) -> int:
    """Cross out keys of sessions that have ended with their process; how many had bytes."""
    sizes = {key: registry.blobs.size(key) for key in keys}
    doubtful = {
        key: now + DOUBT
        for key, size in sizes.items()
        if size is not None and is_complete(registry.blobs, key, size)
    }
    return _bury_reserved(registry, sizes, doubtful, now)


def end_left_sessions(registry: Registry) -> int:
    """Give back what processes that died had in hand, on PostgreSQL; how many keys those were."""
    if registry.tickets is None:
        return 0
    now = registry.now()
    left = registry.read(lambda tx: reserved_keys.left_keys(tx, now, KEYS_AT_ONCE))
    dead = registry.silent.for_long({each.process for each in left}, now, DEAD_AFTER)
    keys = [each.key for each in left if each.process in dead]
    return _give_back(registry, keys, now) if keys else 0


def keep_memory_sessions(registry: Registry) -> None:
    """At an orderly stop: sessions that were in memory get a row, so that they can go on.

    Keys that nothing was written under are given back, where other processes would have to.
    """
    if registry.process is not None and registry.memory_sessions is not None:
        keys = registry.memory_sessions.take_keys()
        registry.write(lambda tx: reserved_keys.release_all(tx, keys), freeing=True)
    for session in registry.memory_sessions.all() if registry.memory_sessions is not None else ():
        upload = session.upload
        try:
            with store_errors():
                if not session.began:
                    registry.blobs.begin(upload.key).close()
            registry.write(
                lambda tx, session=session: store_session(  # type: ignore[misc]
                    tx, session.name, session.upload, registry.now(), session.expires_at
                )
            )
            forget_memory_session(registry, upload)
        except RegistryError as error:
            # The next start gives its bytes back.
            log.warning("upload %s is forgotten: %s", upload.id, error.message)


def store_session(
    tx: Transaction,
    name: RepositoryName,
    upload: Upload,
    now: datetime,
    expires_at: datetime,
) -> Upload | None:
    """Give a session that was in memory its row; None if it has ended. Raises Locked."""
    if not reserved_keys.release(tx, upload.key):
        return None
    repository = ensure_repository(tx, name, now)
    attribute_locks.require_row_writable(repository)
    stored = dataclasses.replace(upload, repository_id=repository.id)
    uploads.insert_upload(tx, stored, now, expires_at)
    return stored


def forget_memory_session(registry: Registry, upload: Upload) -> None:
    """The database knows more of this session now than memory does."""
    if upload.repository_id is None:
        memory_sessions_of(registry).remove(upload.id)


def memory_sessions_of(registry: Registry) -> MemorySessions:
    """Where a session without a row is."""
    assert registry.memory_sessions is not None
    return registry.memory_sessions
