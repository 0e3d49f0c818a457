"""Accounts in an htpasswd file with bcrypt passwords (`htpasswd -B`), as other registries use.

Every account in the file may do everything with repositories; finer rights need accounts in the
database. The file is read again when it changes.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from datetime import datetime
from pathlib import Path

import bcrypt

from ullage.accounts.directory import Account
from ullage.authorization import everything

log = logging.getLogger(__name__)

# What bcrypt looks at. More would be cut off silently, so it is refused instead.
_MAX_BCRYPT_BYTES = 72
_BCRYPT = re.compile(r"\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
# The stamp of a file that is not there.
_NOWHERE = (0, 0)


class HtpasswdInvalid(ValueError):
    """The file cannot be used. The text names the line and what was expected."""


class HtpasswdAccounts:
    def __init__(self, path: Path) -> None:
        """Raises HtpasswdInvalid or OSError if the file cannot be used."""
        self._path = path
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._hashes = _read(path)
        # At the cost of the file's own hashes, or the one htpasswd uses by default.
        cost = next((int(hashed[4:6]) for hashed in self._hashes.values()), 5)
        self._dummy = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(cost)).decode()

    def find(self, name: str, now: datetime) -> Account | None:
        hashed = self._current().get(name)
        if hashed is None:
            return None
        # Tokens end when the password changes: the generation is part of the hash.
        generation = int.from_bytes(hashed.encode()[-6:], "big")
        return Account(everything(name, admin=False), (hashed,), generation)

    def verify(self, hashed: str, password: str) -> bool:
        secret = password.encode("utf-8", "surrogatepass")
        if len(secret) > _MAX_BCRYPT_BYTES or b"\0" in secret:
            return False
        if not hashed.startswith("$2"):
            # The authenticator's dummy is argon2id; an unknown name takes as long as a known one.
            hashed = self._dummy
        # Apache writes $2y$; other programs write $2b$ for the same algorithm.
        return bcrypt.checkpw(secret, hashed.replace("$2y$", "$2b$", 1).encode())

    def unrestricted_account(self) -> str | None:
        return next(iter(self._current()), None)

    def _current(self) -> dict[str, str]:
        """The accounts in the file; those it had, as long as it cannot be used."""
        try:
            stamp = self._look()
        except OSError:
            stamp = _NOWHERE
        with self._lock:
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._hashes = _read(self._path)
                except (HtpasswdInvalid, OSError, UnicodeDecodeError) as error:
                    log.error("htpasswd: %s; going on with the accounts it had", error)
            return self._hashes

    def _look(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size


def _read(path: Path) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hashed = line.strip().partition(":")
        if not colon or not name or not _BCRYPT.fullmatch(hashed):
            raise HtpasswdInvalid(
                f"{path}, line {number}: expected name:hash with a bcrypt hash (htpasswd -B)"
            )
        hashes[name] = hashed
    return hashes
