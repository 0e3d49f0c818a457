"""Failed logins counted in the database, where several processes share one.

A password costs one short look at the table, a wrong one a write, a right one nothing more unless
there were wrong ones before it. Tokens have nothing to do with it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import timedelta

from ullage.accounts import queries
from ullage.accounts.throttle import (
    ADDRESS_DRAIN,
    FORGET_SECONDS,
    Counts,
    Failures,
    MemoryCounts,
)
from ullage.database.transaction import Transaction
from ullage.registry.context import Registry

# Rows that are forgotten are dropped this often, together with one that is written.
TIDY_SECONDS = 60.0
_FORGET = timedelta(seconds=FORGET_SECONDS)


def open_counts(registry: Registry, monotonic: Callable[[], float]) -> Counts:
    """In memory where one process owns the database, otherwise in a table."""
    if registry.db.dialect == "postgresql":
        return SharedCounts(registry)
    return MemoryCounts(monotonic)


class SharedCounts:
    """Counts of all processes; they vanish when PostgreSQL crashes, and that forgives."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._tidy_at = self.now() + TIDY_SECONDS

    def now(self) -> float:
        """All processes ask the database they share what time it is."""
        return self._registry.now().timestamp()

    def find(self, address: str, name: str) -> tuple[Failures, Failures]:
        account, whole = _key(address, name), _key(address)
        found = self._registry.read(lambda tx: queries.login_failures(tx, (account, whole)))
        return _failures(found.get(account)), _failures(found.get(whole))

    def add(self, address: str, name: str) -> None:
        now = self._registry.now()
        # In this order everywhere: of two that meet, one waits for the other.
        drains = {_key(address, name): 0.0, _key(address): ADDRESS_DRAIN}
        tidy = self._is_time_to_tidy(now.timestamp())

        def count(tx: Transaction) -> None:
            for key, drain in drains.items():
                queries.count_login_failure(tx, key, now, _FORGET, drain)
            if tidy:
                queries.drop_login_failures(tx, now - _FORGET)

        self._registry.write(count)

    def forget(self, address: str, name: str) -> None:
        key = _key(address, name)
        self._registry.write(lambda tx: queries.forget_login_failures(tx, key))

    def _is_time_to_tidy(self, now: float) -> bool:
        with self._lock:
            if now < self._tidy_at:
                return False
            self._tidy_at = now + TIDY_SECONDS
            return True


def _key(address: str, name: str = "") -> str:
    """Not the name itself: some clients' users type their password there. No name is empty."""
    text = f"{address}\0{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _failures(row: tuple[float, float] | None) -> Failures:
    return Failures(*row) if row is not None else Failures()
