"""Claims: which request is working on an upload session right now.

Two requests appending to one session at once would mix their bytes, so each claims it first; the
other is told to come back. One process keeps claims in memory; on PostgreSQL they are two columns
of the session's row and end by themselves when the process that has them is gone.
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

# A dead process blocks a session this long. A live one renews well before.
CLAIM_PERIOD = timedelta(seconds=60)


class Claims(Protocol):
    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        """Take the session for the request `token`; False while another one works on it."""

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> None:
        """Still at it."""

    def release(self, db: Database, upload_id: str, token: str) -> None:
        """Done with it."""


class MemoryClaims:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: dict[str, str] = {}

    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        with self._lock:
            return self._claimed.setdefault(upload_id, token) == token

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> None:
        """A process never loses what it keeps in its own memory."""

    def release(self, db: Database, upload_id: str, token: str) -> None:
        with self._lock:
            if self._claimed.get(upload_id) == token:
                del self._claimed[upload_id]


_uploads = space.uploads
_THIS_ONE = given(_uploads, "id")
_MINE = sa.and_(_THIS_ONE, _uploads.c.claim == bindparam("token"))
_TAKEN: dict[str, sa.ColumnElement[Any]] = {
    "claim": bindparam("token"),
    "claimed_until": bindparam("until"),
}
_CLAIM = Statement(
    _uploads.update()
    .where(
        _THIS_ONE,
        sa.or_(
            _uploads.c.claim.is_(None),
            _uploads.c.claim == bindparam("token"),
            _uploads.c.claimed_until <= bindparam("now"),
        ),
    )
    .values(_TAKEN)
)
_RENEW = Statement(_uploads.update().where(_MINE).values(_TAKEN))
_RELEASE = Statement(_uploads.update().where(_MINE).values(claim=None, claimed_until=None))


class SqlClaims:
    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        at, until = to_micros(now), to_micros(now + CLAIM_PERIOD)
        taken = db.write(
            lambda tx: tx.change(_CLAIM, id=upload_id, token=token, now=at, until=until)
        )
        return taken == 1

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> None:
        until = to_micros(now + CLAIM_PERIOD)
        db.write(lambda tx: tx.change(_RENEW, id=upload_id, token=token, until=until))

    def release(self, db: Database, upload_id: str, token: str) -> None:
        db.write(lambda tx: tx.change(_RELEASE, id=upload_id, token=token))


def open_claims(db: Database) -> Claims:
    return SqlClaims() if db.dialect == "postgresql" else MemoryClaims()
