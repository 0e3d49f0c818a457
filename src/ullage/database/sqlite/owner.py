"""The one process that owns a SQLite database, and whether the last one let go of it cleanly.

`owner.lock` beside the database is locked by the owner and says who it is and how it stands: "<pid>
open", "<pid> closed", or "<pid> unknown" where it is closed and may be damaged. It is overwritten
in place, so that a full disk cannot keep a stop from being told from a crash.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ullage.database.errors import DatabaseInUse, DatabaseUnusable

_LENGTH = 32


class Owner:
    """Ownership, from the moment it is made. Raises DatabaseUnusable, DatabaseInUse."""

    def __init__(self, path: Path) -> None:
        self._descriptor = _lock(path)
        state = os.pread(self._descriptor, _LENGTH, 0).split()
        # Its log is part of the database then.
        self.was_open = state[1:] == [b"open"]
        # Nobody says that it was closed: after a crash, and where a file was copied here alone.
        exists = path.exists() and path.stat().st_size > 0
        self.unclean = exists and state[1:] != [b"closed"]
        # Until it is open, it stands as it was found.
        self._write("open" if self.was_open else "unknown" if self.unclean else "closed")

    def opened(self) -> None:
        """From here on an end without `close` is a crash."""
        self._write("open")

    def close(self, *, sound: bool | None = None) -> None:
        """Let go. `sound`: all is well with the database, now closed; None: it never was open."""
        if self._descriptor < 0:
            return
        if sound is not None:
            self._write("closed" if sound else "unknown")
        os.close(self._descriptor)
        self._descriptor = -1

    def _write(self, state: str) -> None:
        text = f"{os.getpid()} {state}".ljust(_LENGTH - 1) + "\n"
        # Only the very first one needs room; without it the next start takes a closer look.
        with suppress(OSError):
            os.pwrite(self._descriptor, text.encode(), 0)


def _lock(path: Path) -> int:
    """Take the lock that makes this process the only one to use the database at `path`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            path.with_name("owner.lock"),
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
        )
    except OSError as error:
        raise DatabaseUnusable(
            f"database: cannot write in {path.parent} ({error.strerror}) - choose another folder "
            "with --data, or mend its permissions"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        words = os.pread(descriptor, _LENGTH, 0).decode("ascii", "replace").split()
        os.close(descriptor)
        raise DatabaseInUse(
            f"{path} is in use by process {words[0] if words else 'unknown'} - one process owns a "
            "SQLite database; stop that one, choose another folder with --data, or use PostgreSQL "
            "to run several"
        ) from error
    return descriptor
