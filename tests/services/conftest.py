"""A registry for every test, on each database in turn, audited when the test is over."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.metadata.databases import (
    db,
    emptied_postgres_url,
    postgres_db,
    ready_url,
    shared_postgres,
    shared_postgres_url,
    shared_sqlite,
    sqlite_db,
    sqlite_template,
)
from tests.services.soundness import assert_sound
from tests.support.clock import FakeClock
from tests.support.registry import make_registry
from ullage.blobs import BlobStore
from ullage.blobs.memory import MemoryBlobStore
from ullage.metadata import schema
from ullage.metadata.claims import open_claims
from ullage.metadata.database import Database, Transaction
from ullage.metadata.leases import open_leases
from ullage.services import Limits, Registry
from ullage.services.ending import keep_fresh_sessions

__all__ = [
    "db",
    "emptied_postgres_url",
    "postgres_db",
    "ready_url",
    "shared_postgres",
    "shared_postgres_url",
    "shared_sqlite",
    "sqlite_db",
    "sqlite_template",
]

Assemble = Callable[..., Registry]


@pytest.fixture
def store() -> MemoryBlobStore:
    return MemoryBlobStore()


def registry_on(
    db: Database, blobs: BlobStore, clock: FakeClock, limits: Limits | None = None
) -> Registry:
    """A registry on a database that is open already."""
    limits = limits or Limits()
    return Registry(
        db=db,
        blobs=blobs,
        leases=open_leases(db, limits.lease, clock()),
        claims=open_claims(db),
        now=clock,
        fresh_key=lambda: secrets.token_hex(16),
        limits=limits,
    )


@pytest.fixture
def registry(db: Database, store: MemoryBlobStore, clock: FakeClock) -> Iterator[Registry]:
    """A registry with nothing in it. When the test is over it must be sound."""
    registry = registry_on(db, store, clock)
    yield registry
    assert_sound(registry)


@pytest.fixture
def assemble(db: Database, clock: FakeClock) -> Iterator[Assemble]:
    """Make the test's registry on a store and with limits of its own; sound when it is over."""
    made: list[Registry] = []

    def make(blobs: BlobStore, limits: Limits | None = None) -> Registry:
        made.append(registry_on(db, blobs, clock, limits))
        return made[-1]

    yield make
    for registry in made:
        assert_sound(registry)


class Installation:
    """A registry that stops, crashes and starts again on the same database and store."""

    def __init__(self, url: str, store: MemoryBlobStore, clock: FakeClock) -> None:
        self._url, self._store, self._clock = url, store, clock
        self._running: Registry | None = None
        self.start()

    @property
    def registry(self) -> Registry:
        assert self._running is not None, "stopped"
        return self._running

    def start(self, limits: Limits | None = None) -> None:
        assert self._running is None, "still running"
        self._running = make_registry(self._url, self._store, self._clock, limits)

    def stop(self) -> None:
        """In good order: no session and no promise is forgotten."""
        keep_fresh_sessions(self.registry)
        self.registry.leases.close(self.registry.db, self.registry.now())
        self.end_process()

    def crash(self) -> None:
        """Whoever holds the leases forgets them: the process, or PostgreSQL's server."""
        if self.registry.db.dialect == "postgresql":
            self.registry.write(_empty_unlogged_tables)
        self.end_process()

    def end_process(self) -> None:
        if self._running is not None:
            self._running.db.close()
            self._running = None

    def restart(self, limits: Limits | None = None) -> None:
        self.stop()
        self.start(limits)


def _empty_unlogged_tables(tx: Transaction) -> None:
    """PostgreSQL, CREATE TABLE: "an unlogged table is automatically truncated after a crash"."""
    for table in (schema.leases, schema.lease_memory):
        tx.execute(table.delete())


@pytest.fixture
def installation(
    ready_url: str, store: MemoryBlobStore, clock: FakeClock
) -> Iterator[Installation]:
    """A registry to stop and start. When the test is over, and if it runs, it must be sound."""
    installation = Installation(ready_url, store, clock)
    try:
        yield installation
        assert_sound(installation.registry)
    finally:
        installation.end_process()
