"""Claims: which request is working on an upload session right now.

Two requests appending to one session at once would mix their bytes, so each claims it first; the
other is told to come back. One process keeps claims in memory; on PostgreSQL they are two columns
of the session's row and end by themselves when the process that held them is gone.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Protocol

import sqlalchemy as sa

from ullage.metadata import schema
from ullage.metadata.database import Database, Transaction
from ullage.metadata.moments import moment

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
        self._held: dict[str, str] = {}

    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        with self._lock:
            return self._held.setdefault(upload_id, token) == token

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> None:
        """A process never loses what it keeps in its own memory."""

    def release(self, db: Database, upload_id: str, token: str) -> None:
        with self._lock:
            if self._held.get(upload_id) == token:
                del self._held[upload_id]


class SqlClaims:
    def claim(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        free = sa.or_(
            schema.uploads.c.claim.is_(None),
            schema.uploads.c.claim == token,
            schema.uploads.c.claimed_until <= moment(now),
        )
        return self._set(db, upload_id, free, token, now)

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> None:
        self._set(db, upload_id, schema.uploads.c.claim == token, token, now)

    def release(self, db: Database, upload_id: str, token: str) -> None:
        statement = (
            schema.uploads.update()
            .where(schema.uploads.c.id == upload_id, schema.uploads.c.claim == token)
            .values(claim=None, claimed_until=None)
        )
        db.write(lambda tx: tx.execute(statement))

    @staticmethod
    def _set(
        db: Database, upload_id: str, allowed: sa.ColumnElement[bool], token: str, now: datetime
    ) -> bool:
        statement = (
            schema.uploads.update()
            .where(schema.uploads.c.id == upload_id, allowed)
            .values(claim=token, claimed_until=moment(now + CLAIM_PERIOD))
        )

        def take(tx: Transaction) -> bool:
            return tx.execute(statement).rowcount == 1

        return db.write(take)


def open_claims(db: Database) -> Claims:
    return SqlClaims() if db.dialect == "postgresql" else MemoryClaims()
