"""Upload sessions without their bytes: opened, looked at, cancelled.

Where one process owns the database a session starts in its memory (sessions_in_memory.py),
elsewhere as a ticket (tickets.py), or as a row. How they end is in end_sessions.py, what becomes of
them when their process ends in left_sessions.py, how many there may be in session_limits.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ullage.database.transaction import Question, Transaction
from ullage.failpoints import failpoint
from ullage.oci.digest import ALGORITHMS
from ullage.oci.errors import BlobUploadUnknown, DigestInvalid, RangeInvalid
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import store_errors
from ullage.registry.identity import begin_batch, require_own_store
from ullage.registry.locks import attribute_locks
from ullage.registry.push.end_sessions import end_upload, memory_sessions_of
from ullage.registry.push.session_limits import (
    is_far_from_limits,
    make_way,
    require_few,
    require_room,
)
from ullage.registry.push.sessions_in_memory import MemorySession, MemorySessions
from ullage.registry.push.tickets import Ticket, UploadTickets, row_id
from ullage.registry.push.upload_counts import is_far
from ullage.registry.queries import finished_uploads, reserved_keys, uploads
from ullage.registry.queries.content.repositories import ensure_repository
from ullage.registry.queries.finished_uploads import Ended
from ullage.registry.queries.uploads import NO_CLAIM, OpenUploads, Upload

__all__ = ["Upload"]


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
    require_room(registry)
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
    require_room(registry)
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
    make_way(registry, stored, name, caller)
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
    near = not is_far_from_limits(registry, name, caller)
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
    make_way(registry, stored, name, caller)
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


def _start_stored(
    registry: Registry, name: RepositoryName, caller: Caller, algorithm: str
) -> Upload:
    """A session as a row, for any process to go on with."""
    upload_id, key = registry.fresh_key(), _key_for_row(registry)
    upload = Upload(upload_id, None, caller.subject, key, algorithm, 0)
    # The row names the key before a byte exists under it, so a crash leaves nothing unknown.
    near = not is_far_from_limits(registry, name, caller)
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
        make_way(registry, stored, name, caller)

    claim = registry.claims.taken(token, now) if token is not None else NO_CLAIM

    def open_session(tx: Transaction) -> Upload:
        if near:
            require_few(registry, uploads.count_uploads(tx))
        repository = ensure_repository(tx, name, now)
        attribute_locks.require_row_writable(repository)
        if ticket is not None and not finished_uploads.spend_tickets(
            tx, [_spent(ticket, name, caller)]
        ):
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
    if upload is not None or ticket is None or finished_uploads.find_finished(tx, name, ticket.id):
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
        ended = registry.write(lambda tx: finished_uploads.spend_tickets(tx, [spent]), freeing=True)
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
