"""Signs of life: by them, processes on one database know which of them have died.

Each writes its row every second. What a process that has died was working on (uploads, jobs, bytes
to be erased) is free a few seconds later, and the others are told to look for it.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Self, TypeVar

from ullage.database.transaction import Transaction
from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry
from ullage.registry.errors import database_errors
from ullage.registry.queries import processes
from ullage.registry.queries.processes import ProcessRow

log = logging.getLogger(__name__)

T = TypeVar("T")

BEAT_SECONDS = 1.0
# A dead process's row is kept for so long, for people who look for it.
FORGOTTEN_AFTER = timedelta(hours=1)


class Heartbeat:
    """One process's, within the block; none where a process is alone on its database."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._host = socket.gethostname()
        self._started_at = registry.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ullage-heartbeat", daemon=True)
        # Those that are known to have died.
        self._dead: set[str] = set()
        self._failing = False

    def __enter__(self) -> Self:
        """Give the first sign of life, and go on. Raises Unavailable."""
        if self._registry.process is not None:
            # The worker that is about to start looks for all that these left.
            self._dead = {row.id for row in self.beat()}
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Sign off: what this process still has claimed is free at once."""
        self._stop.set()
        if not self._thread.is_alive():
            return
        self._thread.join()
        try:
            self._write(processes.leave)
        except RegistryError as error:
            # In a few seconds it counts as dead, which comes to the same.
            log.warning("this process could not sign off: %s", error)

    def beat(self) -> list[ProcessRow]:
        """Give a sign of life; the processes that give none any more. Raises Unavailable."""
        now = self._registry.now()

        def give(tx: Transaction, process: str) -> list[ProcessRow]:
            processes.beat(tx, process, self._host, self._started_at, now)
            processes.forget_dead(tx, now - FORGOTTEN_AFTER)
            return processes.dead(tx, now)

        return self._write(give)

    def _write(self, work: Callable[[Transaction, str], T]) -> T:
        process = self._registry.process
        assert process is not None
        with database_errors():
            return self._registry.db.write_apart(lambda tx: work(tx, process))

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self._notice(self.beat())
                self._failing = False
            except RegistryError as error:
                if not self._failing:
                    log.error("no sign of life could be given: %s", error)
                self._failing = True
            except Exception:
                log.exception("no sign of life could be given")

    def _notice(self, dead: list[ProcessRow]) -> None:
        new = [row for row in dead if row.id not in self._dead]
        self._dead = {row.id for row in dead}
        for row in new:
            log.warning("process %s on %s has died; what it worked on goes on here", *row[:2])
        if new:
            self._registry.wake()
