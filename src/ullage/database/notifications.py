"""PostgreSQL's LISTEN and NOTIFY: a process is told what others on its database have changed.

A note about a change is sent in the transaction that makes it, and arrives once that is committed.
Notes say no more than where to look, and a lost one costs time, never more: whatever they are about
is also looked up again at intervals.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from ullage.database.statements import Statement
from ullage.database.transaction import Transaction

if TYPE_CHECKING:
    from ullage.database.postgresql import Listener

log = logging.getLogger(__name__)

# Accounts or keys, which each process keeps in memory for a while, are others now.
ACCOUNTS = "accounts"
# There is something to reclaim, or a job to do.
WORK = "work"

# How often a quiet listener looks whether it is to stop or to tell something, and a cut-off one
# tries to connect.
PAUSE_SECONDS = 0.5

_NOTIFY = Statement.text("SELECT pg_notify('ullage', CAST(:note AS text))")


def notify(tx: Transaction, note: str) -> None:
    """Tell all processes, once `tx` is committed; nothing where a process is alone (SQLite).

    Transactions that notify commit one after the other, so this is for rare ones.
    """
    if tx.dialect == "postgresql":
        tx.rows(_NOTIFY, note=note)


class Notifications:
    """Within the block, one connection listens; for SQLite there is none.

    `heard` has a call for each note. All are made each time a connection is made: what was sent
    while there was none is lost. If one raises, they are made again on the next connection.
    """

    def __init__(self, url: str, heard: Mapping[str, Callable[[], object]]) -> None:
        self._url = sa.make_url(url)
        self._heard = heard
        self._stop = threading.Event()
        self._to_tell: set[str] = set()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="ullage-listen", daemon=True)

    def __enter__(self) -> Self:
        if self._url.get_backend_name() == "postgresql":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def tell(self, note: str) -> None:
        """Tell the other processes within PAUSE_SECONDS; once, if it is said often meanwhile."""
        self._to_tell.add(note)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception as error:  # noqa: BLE001 - time limits hold until it is back
                if not self._failing:
                    why = str(error).strip().partition("\n")[0]
                    log.warning("changes by other processes are seen later: %s", why)
                self._failing = True
                self._stop.wait(PAUSE_SECONDS)

    def _listen(self) -> None:
        # Only where it is needed: a registry on SQLite loads no driver of PostgreSQL.
        from ullage.database.postgresql import Listener

        listener = Listener(self._url, "ullage")
        try:
            for call in self._heard.values():
                call()
            self._failing = False
            while not self._stop.is_set():
                self._tell(listener)
                for note in listener.notes(PAUSE_SECONDS):
                    self._heard.get(note, _unknown)()
        finally:
            listener.close()

    def _tell(self, listener: Listener) -> None:
        while self._to_tell:
            listener.tell(self._to_tell.pop())


def _unknown() -> None:
    """A note of another version of ours."""
