"""Passwords: made, hashed, verified.

Verifying is slow on purpose, so it runs in a pool of its own size and a right answer is remembered
for a while: a client that sends its password with every request is not a hundred times slower.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import threading
from collections import OrderedDict

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# Two at once keep two cores busy; more would only let a flood of guesses starve all other requests.
_SLOTS = threading.BoundedSemaphore(2)
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
MAX_PASSWORD_BYTES = 1024
_LETTERS = string.ascii_letters + string.digits
# log2(62) * 27 = 160.8
_LENGTH = 27


def new_password() -> str:
    """160 random bits.

    Letters and digits only: a password that starts with a dash is a flag to every command line it
    is pasted into.
    """
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def hash_password(password: str) -> str:
    """argon2id, in its own notation, with a new salt."""
    with _SLOTS:
        return _HASHER.hash(password)


def verify_password(hashed: str, password: str) -> bool:
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        return False
    with _SLOTS:
        try:
            return _HASHER.verify(hashed, password)
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False


class RememberedLogins:
    """Which password was right a moment ago, without keeping it.

    The key is an HMAC under a secret of this process over name, stored hash and password: changing
    the password changes the stored hash, and with it the key.
    """

    def __init__(self, capacity: int = 4096, seconds: float = 300.0) -> None:
        self._secret = secrets.token_bytes(32)
        self._capacity = capacity
        self._seconds = seconds
        self._lock = threading.Lock()
        self._right: OrderedDict[bytes, float] = OrderedDict()

    def knows(self, name: str, hashed: str, password: str, now: float) -> bool:
        """Whether this password was right for this hash a moment ago."""
        key = self._key(name, hashed, password)
        with self._lock:
            return self._right.get(key, 0.0) > now

    def remember(self, name: str, hashed: str, password: str, now: float) -> None:
        """Note that this password is right for this hash."""
        key = self._key(name, hashed, password)
        with self._lock:
            self._right[key] = now + self._seconds
            self._right.move_to_end(key)
            while len(self._right) > self._capacity:
                self._right.popitem(last=False)

    def _key(self, name: str, hashed: str, password: str) -> bytes:
        text = "\0".join((name, hashed, password)).encode("utf-8", "surrogatepass")
        return hmac.new(self._secret, text, hashlib.sha256).digest()
