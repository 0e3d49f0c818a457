"""How many upload sessions may be open, and which of them makes way for another one."""

from __future__ import annotations

import math
from collections import Counter
from datetime import timedelta

from ullage.oci.errors import StorageFull, TooManyRequests
from ullage.oci.reference import RepositoryName
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.push.end_sessions import end_upload
from ullage.registry.push.upload_counts import is_far
from ullage.registry.queries import uploads
from ullage.registry.queries.uploads import OpenUploads

# A session with bytes to which none came for so long is idle: its client may have gone.
IDLE_AFTER = timedelta(minutes=1)


def make_way(registry: Registry, stored: OpenUploads, name: RepositoryName, caller: Caller) -> None:
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


def require_few(registry: Registry, count: int) -> None:
    if count >= registry.limits.max_uploads:
        raise TooManyRequests(message="too many open uploads; finish or cancel some first")


def require_room(registry: Registry) -> None:
    free = registry.blobs.free_bytes()
    if free is not None and free < registry.limits.min_free_bytes:
        raise StorageFull(
            {"free": free, "kept_free": registry.limits.min_free_bytes},
            "no space left for uploads; delete something first",
        )


def is_far_from_limits(registry: Registry, name: RepositoryName, caller: Caller) -> bool:
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
