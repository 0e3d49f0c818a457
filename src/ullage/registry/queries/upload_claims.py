"""Claims: which request is working on an upload session right now.

Two requests appending to one session at once would mix their bytes, so each claims it first; the
other is told to come back. One process keeps claims in memory; on PostgreSQL they are columns of
the session's row, and end by themselves when the process that has them is gone.

A request may be held up for longer than its claim lasts. So each of its writes to the row carries
the claim (`fence`): one that comes late changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space
from ullage.database.statements import Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Database
from ullage.oci.reference import RepositoryName
from ullage.registry.queries.processes import free
from ullage.registry.queries.uploads import COLUMNS, Upload

# A live process renews well before. A dead one blocks a session no longer than DEAD_AFTER
# (processes.py), and this long where that is not known.
CLAIM_PERIOD = timedelta(seconds=60)


class Claimed(NamedTuple):
    """A session that a request has taken; `upload` is as it was then, None if that is kept apart
    from the claim and is still to be read."""

    upload: Upload | None = None


class Claims(Protocol):
    def claim(
        self, db: Database, name: RepositoryName, upload_id: str, token: str, now: datetime
    ) -> Claimed | None:
        """Take the session for the request `token`; None while another one works on it."""

    def taken(self, token: str, now: datetime) -> Mapping[str, Any]:
        """What the row of a session that the request `token` makes has as its claim."""

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        """Keep the claim for longer; False if it ran out and another request has the session."""

    def fence(self, token: str) -> str | None:
        """What the session's row has as its claim for as long as this request has it."""

    def release(self, db: Database, upload_id: str, token: str) -> None:
        """Done with it."""

    def forget(self, upload_id: str, token: str) -> None:
        """Done with it, and the session has ended: nothing is to be written for that."""


class MemoryClaims:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: dict[str, str] = {}

    def claim(
        self, db: Database, name: RepositoryName, upload_id: str, token: str, now: datetime
    ) -> Claimed | None:
        with self._lock:
            return Claimed() if self._claimed.setdefault(upload_id, token) == token else None

    def taken(self, token: str, now: datetime) -> Mapping[str, Any]:
        """None: it is kept here."""
        return dict.fromkeys(_TAKEN)

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        """A process never loses what it keeps in its own memory."""
        return True

    def fence(self, token: str) -> str | None:
        """Rows have no claims here."""
        return None

    def release(self, db: Database, upload_id: str, token: str) -> None:
        self.forget(upload_id, token)

    def forget(self, upload_id: str, token: str) -> None:
        with self._lock:
            if self._claimed.get(upload_id) == token:
                del self._claimed[upload_id]


_uploads = space.uploads
_repositories = content.repositories
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
        _uploads.c.repository_id.in_(
            sa.select(_repositories.c.id).where(given(_repositories, "name"))
        ),
        sa.or_(_uploads.c.claim == bindparam("token"), free(_uploads)),
    )
    .values(_TAKEN)
    .returning(*COLUMNS)
)
_RENEW = Statement(_uploads.update().where(_MINE).values(_TAKEN))
_RELEASE = Statement(
    _uploads.update().where(_MINE).values(claim=None, claimed_by=None, claimed_until=None)
)


class SqlClaims:
    """Claims of one process, which its id names; None for one that gives no signs of life."""

    def __init__(self, process: str | None = None) -> None:
        self._process = process

    def claim(
        self, db: Database, name: RepositoryName, upload_id: str, token: str, now: datetime
    ) -> Claimed | None:
        at, until = to_micros(now), to_micros(now + CLAIM_PERIOD)
        own = {"id": upload_id, "token": token, "process": self._process, "until": until}
        row = db.write_one(lambda tx: tx.row(_CLAIM, name=name, now=at, **own))
        return Claimed(Upload(*row)) if row else None

    def taken(self, token: str, now: datetime) -> Mapping[str, Any]:
        until = to_micros(now + CLAIM_PERIOD)
        return {"claim": token, "claimed_by": self._process, "claimed_until": until}

    def renew(self, db: Database, upload_id: str, token: str, now: datetime) -> bool:
        until = to_micros(now + CLAIM_PERIOD)
        own = {"id": upload_id, "token": token, "process": self._process, "until": until}
        return db.write_one(lambda tx: tx.change(_RENEW, **own)) == 1

    def fence(self, token: str) -> str | None:
        return token

    def release(self, db: Database, upload_id: str, token: str) -> None:
        db.write_one(lambda tx: tx.change(_RELEASE, id=upload_id, token=token))

    def forget(self, upload_id: str, token: str) -> None:
        """The claim was in the session's row, and went with it."""


def open_claims(db: Database, process: str | None = None) -> Claims:
    return SqlClaims(process) if db.dialect == "postgresql" else MemoryClaims()
