"""Storage keys that prove which database gave them out.

A key is 32 hexadecimal digits: 16 at random, 8 with the number of the batch it was given out in,
and 8 that nothing but the secret of a key line yields (an HMAC). A database has one open line and
remembers, of every line, the last batch that it gave out. So it can tell of any object in a store
whether it wrote it:

- another registry's key, or one of a database that was lost, fits none of its secrets;
- a key that a later state of the same database gave out has a batch that this one has not reached.

Whoever goes on with an older database opens a new line, so that what the lost state gave out under
the old one can never be taken for its own. docs/design/damage.md section 1.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterable

from ullage.registry.queries.identity import KeyLine

# Digits of a key: random ones, the batch, the proof.
_RANDOM, _BATCH, _PROOF = 16, 8, 8
# Keys that are given out together: one step of the line, one label of the store.
KEYS_AT_ONCE = 256


def make_key(line: KeyLine, random: str) -> str:
    """A key of the line's last batch; `random` has at least 16 hexadecimal digits."""
    given = f"{random[:_RANDOM]}{line.last:0{_BATCH}x}"
    return given + _proof(line, given)


def gave_out(lines: Iterable[KeyLine], key: str) -> bool:
    """Whether a database with these lines gave out the key."""
    given, proof = key[: _RANDOM + _BATCH], key[_RANDOM + _BATCH :]
    batch = int(given[_RANDOM:], 16)
    return any(
        0 < batch <= line.last and hmac.compare_digest(_proof(line, given), proof) for line in lines
    )


def _proof(line: KeyLine, given: str) -> str:
    return hmac.digest(line.secret.encode(), given.encode(), "sha256").hex()[:_PROOF]


class StoreMark:
    """What this process knows of the store's label, and the keys that it has in hand."""

    def __init__(self) -> None:
        # Held while a label is written, so that an older one never replaces a newer one.
        self.lock = threading.Lock()
        # The line and the batch that the label has.
        self.number = self.batch = 0
        # Which of the registry's stores this process uses (queries/identity.py: OwnStore).
        self.store = ""
        # What the registry's totals were when the line went on last.
        self.totals: dict[str, int] | None = None
        self._keys: list[str] = []

    def take_key(self) -> str | None:
        """A key for one object; None when they are used up. Where keys are not reserved in rows."""
        with self.lock:
            return self._keys.pop() if self._keys else None

    def add_keys(self, keys: Iterable[str]) -> None:
        with self.lock:
            self._keys.extend(keys)
