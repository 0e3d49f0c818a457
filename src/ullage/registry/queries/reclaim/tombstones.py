"""Tombstones: bytes to be erased, claims of them, and which bytes must never be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.registry.queries.counters import add_to_counters
from ullage.registry.queries.processes import free
from ullage.registry.queries.reclaim.backup_leases import NO_BACKUP_RUNS

_blobs = content.blobs
_tombstones = space.tombstones


class Tombstone(NamedTuple):
    storage_key: str
    size: int
    attempts: int
    # Of an upload: what is to go beside the key (blobs/protocol.py).
    state: str
    # When its bytes might go.
    due_at: datetime


_BURY = Statement.insert(
    _tombstones,
    ("storage_key", "digest", "size", "due_at", "state"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["storage_key"]),
)


def bury(
    tx: Transaction,
    spread: int,
    key: str,
    size: int,
    due_at: datetime,
    digest: Digest | None = None,
    *,
    state: str = "",
) -> None:
    """Leave a tombstone for bytes that never were, or no longer are, a blob's."""
    grave = {"digest": digest, "size": size, "due_at": to_micros(due_at), "state": state}
    if tx.change(_BURY, storage_key=key, **grave):
        add_to_counters(tx, spread, pending_bytes=size)


_DUE_AGAIN = Statement(
    _tombstones.update()
    .where(given(_tombstones, "storage_key"))
    .values(due_at=bindparam("due_at"), claim=None, claimed_by=None, claimed_until=None)
)


def bury_again(tx: Transaction, key: str, size: int, due_at: datetime) -> bool:
    """Leave a tombstone for bytes that came after their session had ended; False if it has not.

    Where there is one already, it is done once more: what has it claimed may have been there first.
    """
    if any(tx.values(statement, keys=[key]) for statement in _KEYS_IN_USE):
        return False
    if not tx.change(_DUE_AGAIN, storage_key=key, due_at=to_micros(due_at)):
        bury(tx, 0, key, size, due_at)
    return True


_DUE = sa.and_(_tombstones.c.due_at <= bindparam("now"), free(_tombstones), NO_BACKUP_RUNS)
_THESE = among(_tombstones.c.storage_key, "keys")
_CLAIMABLE = Statement(
    sa.select(*_tombstones.c["storage_key", "size", "attempts", "state", "due_at"])
    .where(_DUE)
    .where(~sa.exists().where(_blobs.c.storage_key == _tombstones.c.storage_key))
    .where(~sa.exists().where(space.uploads.c.storage_key == _tombstones.c.storage_key))
    .where(~sa.exists().where(space.reserved_keys.c.storage_key == _tombstones.c.storage_key))
    .order_by(_tombstones.c.due_at)
    .limit(LIMIT)
    .with_for_update(skip_locked=True, of=_tombstones)
)
_CLAIM = Statement(
    _tombstones.update()
    .where(_THESE)
    .values(
        claim=bindparam("token"),
        claimed_by=bindparam("process"),
        claimed_until=bindparam("until"),
        attempts=_tombstones.c.attempts + 1,
    )
)


def claim_tombstones(
    tx: Transaction, token: str, process: str | None, now: datetime, until: datetime, limit: int
) -> list[Tombstone]:
    """Take up to `limit` due tombstones; only who has the `token` may change them before `until`.

    A key that a blob or an upload session still uses, or may use, is never handed out, whatever
    wrote its tombstone: the last guard before bytes are gone for good (invariant I12). Nor is any
    while a backup runs.
    """
    rows = tx.rows(_CLAIMABLE, now=to_micros(now), limit=limit)
    claimed = [
        Tombstone(key, size, attempts, state, from_micros(due))
        for key, size, attempts, state, due in rows
    ]
    own = {"token": token, "process": process, "until": to_micros(until)}
    tx.change(_CLAIM, keys=_keys(claimed), **own)
    return claimed


def _keys(tombstones: Sequence[Tombstone]) -> list[str]:
    return [tombstone.storage_key for tombstone in tombstones]


_UNCLAIMED = {"claim": None, "claimed_by": None}
_RELEASE_ALL = Statement(
    _tombstones.update()
    .where(_tombstones.c.claimed_until.is_not(None))
    .values(claimed_until=None, **_UNCLAIMED)
)


def release_tombstones(tx: Transaction) -> None:
    """Give back every claim, for a process that knows it is the only one."""
    tx.change(_RELEASE_ALL)


# Of those that were claimed, what no other process has claimed since.
_MINE = sa.and_(_THESE, _tombstones.c.claim == bindparam("token"))
_LOCK = Statement(
    sa.select(_tombstones.c.size).where(_MINE).order_by(_tombstones.c.storage_key).with_for_update()
)
_DROP = Statement(_tombstones.delete().where(_MINE))


def drop_tombstones(tx: Transaction, token: str, tombstones: Sequence[Tombstone]) -> int:
    """Their bytes are off the disk, durably; how many were dropped.

    What another process has claimed since is for that one to drop, and to count.
    """
    keys = _keys(tombstones)
    sizes = tx.values(_LOCK, keys=keys, token=token)
    tx.change(_DROP, keys=keys, token=token)
    add_to_counters(tx, 0, pending_bytes=-sum(sizes), reclaimed_bytes=sum(sizes))
    return len(sizes)


_POSTPONE = Statement(
    _tombstones.update().where(_MINE).values(claimed_until=bindparam("until"), **_UNCLAIMED)
)


def postpone_tombstones(
    tx: Transaction, token: str, tombstones: Sequence[Tombstone], until: datetime
) -> None:
    """Erasing failed: try these again then, unless another process has claimed them since."""
    tx.change(_POSTPONE, keys=_keys(tombstones), token=token, until=to_micros(until))


_ANY_DUE = Statement(sa.select(_tombstones.c.storage_key).where(_DUE).limit(1))


def tombstone_due(tx: Transaction, now: datetime) -> bool:
    return tx.row(_ANY_DUE, now=to_micros(now)) is not None


# The way a key goes: asked in this order it is not missed where it moves on in between.
_KEYS_IN_USE = tuple(
    Statement(sa.select(table.c.storage_key).where(among(table.c.storage_key, "keys")))
    for table in (space.reserved_keys, space.uploads, _blobs)
)
_KNOWN_KEYS = (
    *_KEYS_IN_USE,
    Statement(sa.select(_tombstones.c.storage_key).where(among(_tombstones.c.storage_key, "keys"))),
)


def known_keys(tx: Transaction, keys: Collection[str]) -> set[str]:
    """Which of these storage keys a blob, an upload session or a tombstone names, or may soon."""
    return {key for statement in _KNOWN_KEYS for key in tx.values(statement, keys=keys)}
