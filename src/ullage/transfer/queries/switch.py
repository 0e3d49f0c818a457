"""The transaction in which a registry moves to another store."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import Statement
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.registry.queries.content.repositories import drop_repository_if_empty
from ullage.registry.queries.processes import DEAD_AFTER

_uploads = space.uploads
_tombstones = space.tombstones
_processes = space.processes

_LOCK = Statement.text("LOCK TABLE uploads, reserved_keys, processes IN EXCLUSIVE MODE")
_ALIVE = Statement(
    sa.select(_processes.c.host)
    .where(_processes.c.beat_at > bindparam("since"))
    .order_by(_processes.c.host)
)
_REPOSITORIES = Statement(sa.select(_uploads.c.repository_id).distinct())
_END_UPLOADS = Statement(_uploads.delete())
_END_RESERVED = Statement(space.reserved_keys.delete())
_FORGET_STATES = Statement(_tombstones.update().where(_tombstones.c.state != "").values(state=""))


def lock_out_servers(tx: Transaction) -> None:
    """On PostgreSQL, let no upload begin and no process give a sign of life until the end.

    On SQLite a process has the database to itself.
    """
    if tx.dialect == "postgresql":
        tx.change(_LOCK)


def servers_alive(tx: Transaction, now: datetime) -> list[str]:
    """On which hosts processes serve the registry; none where one process owns the database."""
    return tx.values(_ALIVE, since=to_micros(now - DEAD_AFTER))


def end_uploads(tx: Transaction) -> int:
    """End all upload sessions without a tombstone, because their bytes stay behind; how many."""
    repositories = tx.values(_REPOSITORIES)
    ended = tx.change(_END_UPLOADS)
    tx.change(_END_RESERVED)
    for repository_id in repositories:
        drop_repository_if_empty(tx, repository_id)
    return ended


def forget_states(tx: Transaction) -> None:
    """What is to go beside the tombstones' keys is in the store that is left behind."""
    tx.change(_FORGET_STATES)
