"""Claims: which request is working on an upload session right now.

Two requests appending to one session at once would mix their bytes, so each claims it first; the
other is told to come back. One process keeps claims in memory; on PostgreSQL they are columns of
the session's row, and end by themselves when the process that has them is gone.

A request may be held up for longer than its claim lasts. So each of its writes to the row carries
the claim (`fence`): one that comes late changes nothing.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Database
from ullage.registry.queries.processes import free

# A live process renews well before. A dead one blocks a session no longer than DEAD_AFTER
# (processes.py), and this long where that is not known.
CLAIM_PERIOD = timedelta(seconds=60)


class Claims(Protocol):
    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        """Take the session for the request `token`; False while another one works on it."""

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        """Keep the claim for longer; False if it ran out and another request has the session."""

    def fence(self, token: str) -> str | None:
        """What the session's row has as its claim for as long as this request has it."""

    def release(self, db: Database, upload_id: str, token: str) -> None:
        """Done with it."""


class MemoryClaims:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: dict[str, str] = {}

    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        with self._lock:
            return self._claimed.setdefault(upload_id, token) == token

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        """A process never loses what it keeps in its own memory."""
        return True

    def fence(self, token: str) -> str | None:
        """Rows have no claims here."""
        return None

    def release(self, db: Database, upload_id: str, token: str) -> None:
        with self._lock:
            if self._claimed.get(upload_id) == token:
                del self._claimed[upload_id]


_uploads = space.uploads
_THIS_ONE = given(_uploads, "id")
_MINE = sa.and_(_THIS_ONE, _uploads.c.claim == bindparam("token"))
_TAKEN: dict[str, sa.ColumnElement[Any]] = {
    "claim": bindparam("token"),
    "claimed_by": bindparam("process"),
    "claimed_until": bindparam("until"),
}
_CLAIM = Statement(
    _uploads.update()
    .where(
        _THIS_ONE,
        sa.or_(_uploads.c.claim == bindparam("token"), free(_uploads)),
    )
    .values(_TAKEN)
)
_RENEW = Statement(_uploads.update().where(_MINE).values(_TAKEN))
_RELEASE = Statement(
    _uploads.update().where(_MINE).values(claim=None, claimed_by=None, claimed_until=None)
)


class SqlClaims:
    """Claims of one process, which its id names; None for one that gives no signs of life."""

    def __init__(self, process: str | None = None) -> None:
        self._process = process

    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        at, until = to_micros(now), to_micros(now + CLAIM_PERIOD)
        own = {"id": upload_id, "token": token, "process": self._process, "until": until}
        return db.write(lambda tx: tx.change(_CLAIM, now=at, **own)) == 1

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        until = to_micros(now + CLAIM_PERIOD)
        own = {"id": upload_id, "token": token, "process": self._process, "until": until}
        return db.write(lambda tx: tx.change(_RENEW, **own)) == 1

    def fence(self, token: str) -> str | None:
        return token

    def release(self, db: Database, upload_id: str, token: str) -> None:
        db.write(lambda tx: tx.change(_RELEASE, id=upload_id, token=token))


def open_claims(db: Database, process: str | None = None) -> Claims:
    return SqlClaims(process) if db.dialect == "postgresql" else MemoryClaims()
