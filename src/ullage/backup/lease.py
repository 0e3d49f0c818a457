"""A backup's lease: while it holds, no bytes are erased that the backup is about to copy.

Whichever process has the database open writes it; where a server runs on SQLite, it is asked over
the control socket, as for a copy of the store (transfer/facts.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, Self

from ullage.backup.layout import BackupFailed
from ullage.registry.context import Registry
from ullage.registry.queries.reclaim import backup_leases
from ullage.transfer import facts
from ullage.transfer.facts import Ask

log = logging.getLogger(__name__)

RENEW_SECONDS = 60.0
# What fails is tried again sooner.
AGAIN_SECONDS = 5.0


def answer(registry: Registry, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer what a backup asks of the process that has the database. Raises as facts.answer."""
    match dict(request):
        case {"ask": "begin"}:
            lease = registry.fresh_key()
            registry.write(
                lambda tx: backup_leases.begin_backup(tx, lease, registry.now()), freeing=True
            )
            return {"lease": lease}
        case {"ask": "renew", "lease": str(lease)}:
            held = registry.write(
                lambda tx: backup_leases.renew_backup(tx, lease, registry.now()), freeing=True
            )
            return {"held": held}
        case {"ask": "end", "lease": str(lease)}:
            registry.write(lambda tx: backup_leases.end_backup(tx, lease), freeing=True)
            registry.wake()
            return {}
    return facts.answer(registry, request)


class Lease:
    """Held from when it is made until the end of its block; renewed every minute."""

    def __init__(self, ask: Ask, *, seconds: float = RENEW_SECONDS) -> None:
        self._ask = ask
        self._seconds = seconds
        self._id = str(ask({"ask": "begin"})["lease"])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ullage-backup-lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._ask({"ask": "end", "lease": self._id})
        except Exception as error:  # noqa: BLE001 - it ends by itself
            log.warning("erasing goes on in ten minutes at the latest: %s", error)

    def require(self) -> None:
        """Raise BackupFailed unless nothing was erased since it began."""
        if not self._renewed():
            raise BackupFailed(
                "it gave no sign of life for ten minutes, so bytes that it needs may be erased - "
                "run it again"
            )

    def _renewed(self) -> bool:
        return bool(self._ask({"ask": "renew", "lease": self._id})["held"])

    def _run(self) -> None:
        wait = self._seconds
        while not self._stop.wait(wait):
            try:
                self._renewed()
                wait = self._seconds
            except Exception as error:  # noqa: BLE001 - `require` says whether it mattered
                log.warning("the backup's sign of life failed, trying again soon: %s", error)
                wait = AGAIN_SECONDS
