"""Registries for tests, on each database in turn, audited when the test is over."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from tests.support.clock import FakeClock
from tests.support.registry import make_registry
from tests.support.soundness import assert_sound
from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.protocol import BlobStore
from ullage.database.schema import space
from ullage.database.transaction import Database, Transaction
from ullage.registry.context import Limits, Registry
from ullage.registry.leases.opening import open_leases
from ullage.registry.push.left_sessions import keep_memory_sessions
from ullage.registry.queries.upload_claims import open_claims

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
        keep_memory_sessions(self.registry)
        self.registry.leases.close(self.registry.db, self.registry.now())
        self.end_process()

    def crash(self) -> None:
        """The owner of the leases forgets them: the process, or PostgreSQL's server."""
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
    for table in (
        space.leases,
        space.lease_memory,
        space.signed_reads,
        space.signed_memory,
    ):
        tx.execute_directly(table.delete())


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
