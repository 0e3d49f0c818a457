"""A file that is given up when the disk is full, so that SQLite can still write a deletion.

Deleting needs a little room before it gives any back: SQLite appends the changed pages to its log.
Without this file a full disk could only be emptied by hand.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ullage.failpoints import failpoint


class Ballast:
    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    def ensure(self) -> bool:
        """Put the ballast (back) in its place; False if there is no room for it now.

        At least as much again must stay free, or the ballast itself would fill the disk.
        """
        if not self._size or self._reserved() >= self._size:
            return True
        if not self._is_room():
            return False
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
            os.fsync(descriptor)
        except OSError:
            self.release()
            return False
        finally:
            os.close(descriptor)
        return True

    def release_if_scarce(self) -> None:
        """Give the room up if there is too little to put it back."""
        if self._size and not self._is_room():
            self.release()

    def _is_room(self) -> bool:
        room = os.statvfs(self._path.parent)
        return room.f_bavail * room.f_frsize >= 2 * self._size

    def release(self) -> bool:
        """Give the room to what needs it now; False if it was already given."""
        reserved = self._reserved()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        failpoint("ballast.after_release")
        return reserved > 0

    def _reserved(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
