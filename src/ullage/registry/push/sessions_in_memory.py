"""Upload sessions that have no byte yet, and the storage keys that wait for them.

Most sessions live from a POST to the PUT that follows at once. Where one process owns the database
they stay in its memory until bytes of theirs are acknowledged, so that a POST waits for no disk and
a blob costs one transaction.

A crash forgets such a session: the client is told so and starts it again. It leaves no unknown
bytes, for the database names a key before the first byte exists under it
(registry/queries/reserved_keys.py). An orderly stop keeps the sessions (`keep_memory_sessions` in
registry/push/left_sessions.py).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ullage.blobs.protocol import KeyUnknown
from ullage.database.transaction import Database
from ullage.oci.reference import RepositoryName
from ullage.registry.queries.uploads import Upload


@dataclass(slots=True)
class MemorySession:
    """A session without a row. Once it `began`, there may be bytes under its key."""

    upload: Upload
    name: RepositoryName
    expires_at: datetime
    began: bool = False
    # Bytes in the store for it, as far as its requests have said.
    stored: int = 0


class MemorySessions:
    """All of them; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, MemorySession] = {}
        self._keys: list[str] = []

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def has_key(self) -> bool:
        """Whether `take_key` would find one, if no other thread takes it first."""
        return bool(self._keys)

    def take_key(self) -> str | None:
        """A reserved key for one session; None when they are used up."""
        with self._lock:
            return self._keys.pop() if self._keys else None

    def add_keys(self, keys: Iterable[str]) -> None:
        """Keys that are reserved, and under which nothing was ever written."""
        with self._lock:
            self._keys.extend(keys)

    def take_keys(self) -> list[str]:
        """All that are left, for a process that stops."""
        with self._lock:
            keys, self._keys = self._keys, []
            return keys

    def add(self, session: MemorySession) -> None:
        with self._lock:
            self._sessions[session.upload.id] = session

    def find(self, name: RepositoryName, upload_id: str) -> Upload | None:
        """The session, if it belongs to this repository."""
        session = self._sessions.get(upload_id)
        return session.upload if session is not None and session.name == name else None

    def begin(self, upload: Upload, expires_at: datetime) -> bool:
        """Bytes are about to be written; whether they are the first. KeyUnknown if it has ended."""
        with self._lock:
            session = self._sessions.get(upload.id)
            if session is None:
                raise KeyUnknown(upload.key)
            first, session.began = not session.began, True
            session.expires_at = expires_at
            return first

    def prolong(self, upload_id: str, stored: int, expires_at: datetime) -> None:
        """Bytes are arriving, `stored` by now: keep the session from expiring."""
        with self._lock:
            session = self._sessions.get(upload_id)
            if session is not None:
                session.stored, session.expires_at = stored, expires_at

    def set_state(self, upload_id: str, state: str, stored: int) -> bool:
        """Keep what the store needs to go on with it; False if it has ended."""
        with self._lock:
            session = self._sessions.get(upload_id)
            if session is None:
                return False
            session.upload, session.stored = replace(session.upload, state=state), stored
            return True

    def remove(self, upload_id: str, *, expired_at: datetime | None = None) -> MemorySession | None:
        """Take the session out, if it has not ended; with `expired_at`, if it is too old by then.

        The caller that gets it answers for its key.
        """
        with self._lock:
            session = self._sessions.get(upload_id)
            if session is None or (expired_at is not None and session.expires_at > expired_at):
                return None
            return self._sessions.pop(upload_id)

    def expired(self, now: datetime) -> list[Upload]:
        with self._lock:
            sessions = list(self._sessions.values())
        return [session.upload for session in sessions if session.expires_at <= now]

    def count(self, *, subject: str | None = None, name: RepositoryName | None = None) -> int:
        """How many there are, or are an account's or a repository's."""
        return sum(_is_of(session, subject, name) for session in self.all())

    def find_empty(
        self, *, subject: str | None = None, name: RepositoryName | None = None
    ) -> Upload | None:
        """The session that makes way for another, among all, or an account's or a repository's.

        It has no byte yet: of the account that has most of them, the one that was opened first.
        """
        empty = [each for each in self.all() if not each.began and _is_of(each, subject, name)]
        counts = Counter(session.upload.subject for session in empty)
        # The first of equals is the oldest: they are kept in the order in which they came.
        heaviest = max(empty, key=lambda each: counts[each.upload.subject], default=None)
        return heaviest.upload if heaviest is not None else None

    def count_by_account(self, name: RepositoryName | None) -> Counter[str]:
        """How many each account has, in all or in a repository."""
        return Counter(each.upload.subject for each in self.all() if _is_of(each, None, name))

    def find_idlest(
        self, subject: str, name: RepositoryName | None
    ) -> tuple[Upload, datetime] | None:
        """The account's session with bytes to which nothing has come for longest, and its end."""
        began = [each for each in self.all() if each.began and _is_of(each, subject, name)]
        idlest = min(began, key=lambda each: each.expires_at, default=None)
        return (idlest.upload, idlest.expires_at) if idlest is not None else None

    def remove_empty(self, upload_id: str) -> MemorySession | None:
        """As remove, unless bytes have come since it was found."""
        with self._lock:
            session = self._sessions.get(upload_id)
            if session is None or session.began:
                return None
            return self._sessions.pop(upload_id)

    def all(self) -> list[MemorySession]:
        with self._lock:
            return list(self._sessions.values())

    def began(self) -> list[MemorySession]:
        """Those with a key under which there may be bytes."""
        return [session for session in self.all() if session.began]

    def shift(self, by: timedelta) -> None:
        """The clock was put forward or back: sessions last as long as they would have."""
        with self._lock:
            for session in self._sessions.values():
                session.expires_at += by


def _is_of(session: MemorySession, subject: str | None, name: RepositoryName | None) -> bool:
    return subject in (None, session.upload.subject) and name in (None, session.name)


def open_memory_sessions(db: Database) -> MemorySessions | None:
    """None on PostgreSQL, where any process may get a session's next request."""
    return MemorySessions() if db.dialect == "sqlite" else None
