"""Upload sessions without bytes, where processes share a database: in no table at all.

Any process may get a session's next request, and what it has to know of one without bytes is in
the session's id, signed. So opening one writes nothing. The first bytes that are kept give it a row
(`store_ticket` in sessions.py), under the first digits of its id; a small blob that comes whole
needs none (whole_blob.py). Either spends the ticket, and only one can: its id is the primary key
of `finished_uploads`.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import NamedTuple

from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Database, Transaction
from ullage.oci.digest import ALGORITHMS
from ullage.oci.reference import RepositoryName
from ullage.registry.queries.facts import change_fact, find_fact

# Digits of an id: those of the session's row, when it ends, its algorithm, and the signature.
ROW, _END, _ALGORITHM, _SIGNATURE = 32, 14, 1, 32
DIGITS = ROW + _END + _ALGORITHM + _SIGNATURE

# The name of the fact that all processes agree on.
_SIGNED_WITH = "upload_secret"
_ALGORITHMS = sorted(ALGORITHMS)


class Ticket(NamedTuple):
    """A session that was opened; whether it has been spent since, the database knows."""

    id: str
    algorithm: str
    expires_at: datetime


class UploadTickets:
    """Signs and reads them; all processes on one database have the same `secret`."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def issue(self, name: RepositoryName, subject: str, ticket: Ticket) -> str:
        """The id of a session of this repository and account."""
        said = f"{ticket.id}{to_micros(ticket.expires_at):0{_END}x}{self._number(ticket):x}"
        return said + self._signature(said, name, subject)

    def read(
        self, name: RepositoryName, subject: str, upload_id: str, now: datetime
    ) -> Ticket | None:
        """None for what was not issued for this repository and account, or has ended."""
        if len(upload_id) != DIGITS:
            return None
        said, signature = upload_id[:-_SIGNATURE], upload_id[-_SIGNATURE:]
        if not hmac.compare_digest(self._signature(said, name, subject), signature):
            return None
        end, number = said[ROW : ROW + _END], said[ROW + _END :]
        ticket = Ticket(said[:ROW], _ALGORITHMS[int(number, 16)], from_micros(int(end, 16)))
        return ticket if now < ticket.expires_at else None

    @staticmethod
    def _number(ticket: Ticket) -> int:
        return _ALGORITHMS.index(ticket.algorithm)

    def _signature(self, said: str, name: RepositoryName, subject: str) -> str:
        # A repository's name has no line's end in it.
        signed = f"{said}\n{name}\n{subject}".encode()
        return hmac.digest(self._secret, signed, "sha256").hex()[:_SIGNATURE]


def row_id(upload_id: str) -> str:
    """By which the session's row is found, if it has one."""
    return upload_id[:ROW]


def is_ticket(upload_id: str) -> bool:
    return len(upload_id) == DIGITS


def open_tickets(db: Database, fresh: str) -> UploadTickets | None:
    """None on SQLite, where one process keeps such sessions in memory. `fresh`: a secret to be."""
    if db.dialect == "sqlite":
        return None

    def agree(tx: Transaction) -> str:
        change_fact(tx, _SIGNED_WITH, None, fresh)
        return str(find_fact(tx, _SIGNED_WITH))

    return UploadTickets(db.write(agree))
