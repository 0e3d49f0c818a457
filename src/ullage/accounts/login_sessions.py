"""People who are logged in at the web UI: a secret in their cookie, and a row that says whose.

A session ends when its account's tokens do (another password, disabled, deleted), when it is logged
out, when it has not been used for twelve hours, and after seven days.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from ullage.accounts import queries
from ullage.accounts.authenticator import Authenticator
from ullage.accounts.directory import Account
from ullage.accounts.queries import SessionRow
from ullage.database.transaction import Transaction
from ullage.registry.clients import Caller
from ullage.registry.context import Registry

IDLE = timedelta(hours=12)
LONGEST = timedelta(days=7)
# That a session is used is written down at most this often.
NOTED_EVERY = timedelta(minutes=1)
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class LoginSessions:
    """The sessions of one registry. All of it may block."""

    registry: Registry
    authenticator: Authenticator

    def begin(self, account: Account, caller: Caller) -> str:
        """Log an account in; the secret to put into its cookie, which is kept nowhere else."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        now = self.registry.now()
        row = SessionRow(
            _id_of(secret),
            account.principal.subject,
            account.generation,
            created_at=now,
            seen_at=now,
            expires_at=now + IDLE,
            agent=caller.agent,
            address=caller.address,
        )

        def begin(tx: Transaction) -> None:
            queries.forget_sessions(tx, now)
            queries.insert_session(tx, row)

        # A full registry is one that an administrator has to get into.
        self.registry.write(begin, freeing=True)
        return secret

    def account_of(self, secret: str) -> Account | None:
        """Whose session this is, with the rights of this moment; None once it has ended."""
        id_, now = _id_of(secret), self.registry.now()
        row = self.registry.read(lambda tx: queries.find_session(tx, id_))
        if row is None or row.expires_at <= now:
            return None
        account = self.authenticator.account_as_of(row.subject, row.generation)
        if account is not None and now - row.seen_at >= NOTED_EVERY:
            until = _end(row.created_at, now)
            self.registry.write(
                lambda tx: queries.note_session_seen(tx, id_, now, until), freeing=True
            )
        return account

    def end(self, secret: str, *, everywhere: bool = False) -> None:
        """Log out: this session, or all of its account's."""
        id_ = _id_of(secret)

        def end(tx: Transaction) -> None:
            row = queries.find_session(tx, id_)
            if row is not None and everywhere:
                queries.end_sessions_of(tx, row.subject)
            queries.end_session(tx, id_)

        self.registry.write(end, freeing=True)


def _end(created_at: datetime, seen_at: datetime) -> datetime:
    return min(seen_at + IDLE, created_at + LONGEST)


def _id_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
