"""Which statement makes "condemn if unreferenced" safe on PostgreSQL: deletion.md section 5.

One session puts a manifest: it looks at the blob, adds a reference, commits. Another one collects:
it condemns the blob if nothing refers to it. The table of that section is a regression test here: a
line that comes out otherwise, on a new version perhaps, means that the protocol needs another look.
The last tests hold our own statements against the same schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import psycopg
import pytest

from tests.support.actors import Actor, Observer, interleave, observing
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import image_manifest, plant_image
from tests.support.registry import push_manifest
from tests.support.soundness import assert_sound
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest
from ullage.deletion.reclaim import reclaim_due
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import ManifestBlobUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.pull.read import get_manifest, stat_blob

pytestmark = pytest.mark.postgresql

TABLES = """
    DROP TABLE IF EXISTS condemn_refs, condemn_blobs;
    CREATE TABLE condemn_blobs (d text PRIMARY KEY, st text NOT NULL, refs int NOT NULL);
    CREATE TABLE condemn_refs (d text NOT NULL {foreign_key});
    INSERT INTO condemn_blobs VALUES ('X', 'live', 0)
"""
UNREFERENCED = "NOT EXISTS (SELECT FROM condemn_refs r WHERE r.d = b.d)"
LOOK = "SELECT d FROM condemn_blobs WHERE d = 'X' AND st = 'live' {lock}"
REFER = "INSERT INTO condemn_refs VALUES ('X')"
COUNT = "UPDATE condemn_blobs SET refs = refs + 1 WHERE d = 'X' AND st = 'live' RETURNING d"
DELETE = f"DELETE FROM condemn_blobs b WHERE d = 'X' AND {UNREFERENCED}"
CONDEMN = (
    f"UPDATE condemn_blobs b SET st = 'condemned' WHERE d = 'X' AND st = 'live' AND {UNREFERENCED}"
)
CONDEMN_UNCOUNTED = (
    "UPDATE condemn_blobs SET st = 'condemned' WHERE d = 'X' AND st = 'live' AND refs = 0"
)
LOCK = "SELECT d FROM condemn_blobs WHERE d = 'X' FOR UPDATE"
LOCK_OR_SKIP = f"{LOCK} SKIP LOCKED"


@dataclass(frozen=True)
class Line:
    """A line of the table. A session stops where a statement that returns rows returns none."""

    put: tuple[str, ...]
    collect: tuple[str, ...]
    # Whether the collector had to wait for the manifest to be stored.
    waits: bool
    # lost: the reference is there, the blob is not. refused: the database said no.
    outcome: Literal["lost", "refused", "kept"]
    foreign_key: bool = True


def _put(lock: str) -> tuple[str, ...]:
    return (LOOK.format(lock=lock), REFER)


LINES = {
    "nothing protects the blob": Line(
        _put(""), (DELETE,), waits=False, outcome="lost", foreign_key=False
    ),
    "the foreign key refuses, too late for who erased first": Line(
        _put(""), (DELETE,), waits=True, outcome="refused"
    ),
    "a flag needs no lock that the foreign key holds": Line(
        _put(""), (CONDEMN,), waits=False, outcome="lost"
    ),
    "nor one that FOR KEY SHARE holds": Line(
        _put("FOR KEY SHARE"), (CONDEMN,), waits=False, outcome="lost"
    ),
    "FOR SHARE is waited for, but the sub-query looked before": Line(
        _put("FOR SHARE"), (CONDEMN,), waits=True, outcome="lost"
    ),
    "lock first, look in a new statement": Line(
        _put("FOR KEY SHARE"), (LOCK, CONDEMN), waits=True, outcome="kept"
    ),
    "lock or leave it": Line(
        _put("FOR KEY SHARE"), (LOCK_OR_SKIP, CONDEMN), waits=False, outcome="kept"
    ),
    "a counter is evaluated again": Line(
        (COUNT, REFER), (CONDEMN_UNCOUNTED,), waits=True, outcome="kept"
    ),
    # Ours: content.lock_blobs for both, and the row itself is what is condemned.
    "ours": Line(_put("FOR NO KEY UPDATE"), (LOCK, DELETE), waits=True, outcome="kept"),
}
SAFE = {name: line for name, line in LINES.items() if line.outcome == "kept"}


def _run(connection: psycopg.Connection, statements: tuple[str, ...]) -> None:
    """Execute in one transaction, left open; stop where rows are asked for and none come."""
    for statement in statements:
        cursor = connection.execute(statement.encode())
        if cursor.description is not None and cursor.fetchone() is None:
            return


@dataclass
class Table:
    url: str
    observer: Observer

    def prepare(self, line: Line) -> None:
        foreign_key = "REFERENCES condemn_blobs" if line.foreign_key else ""
        with psycopg.connect(self.url) as connection:
            connection.execute(TABLES.format(foreign_key=foreign_key).encode())

    def meet(self, first: tuple[str, ...], second: tuple[str, ...]) -> bool:
        """Run `second` while `first` has not committed; returns whether it had to wait.

        Raises what the second raises.
        """

        def act() -> None:
            with psycopg.connect(self.url) as connection:
                _run(connection, second)

        with psycopg.connect(self.url) as connection:
            _run(connection, first)
            other = Actor(act)
            waited = other.wait_until_blocked(self.observer)
        other.result()
        return waited

    def outcome(self) -> str:
        with psycopg.connect(self.url) as connection:
            referred = connection.execute("SELECT FROM condemn_refs").fetchone() is not None
            live = connection.execute("SELECT FROM condemn_blobs WHERE st = 'live'").fetchone()
        if referred and live is None:
            return "lost"
        return "kept" if referred else "collected"


@pytest.fixture
def table(emptied_postgres_url: str) -> Iterator[Table]:
    with observing(emptied_postgres_url) as observer:
        yield Table(emptied_postgres_url, observer)
    with psycopg.connect(emptied_postgres_url) as connection:
        connection.execute("DROP TABLE condemn_refs, condemn_blobs")


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_collecting_while_a_manifest_is_put(table: Table, line: Line) -> None:
    table.prepare(line)
    if line.outcome == "refused":
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            table.meet(line.put, line.collect)
        return
    assert table.meet(line.put, line.collect) == line.waits
    assert table.outcome() == line.outcome


@pytest.mark.parametrize("line", SAFE.values(), ids=SAFE.keys())
def test_putting_a_manifest_while_the_blob_is_collected(table: Table, line: Line) -> None:
    """The other order: who puts waits, finds the blob gone, and refers to nothing."""
    table.prepare(line)
    assert table.meet(line.collect, line.put)
    assert table.outcome() == "collected"


# --- promises in one statement --------------------------------------------------------------------

# A pusher's HEAD looks, locks and promises in one statement; a collector drops a link that is not
# promised. One statement has one snapshot.
PROMISE_TABLES = """
    DROP TABLE IF EXISTS promise_leases, promise_links, promise_blobs;
    CREATE TABLE promise_blobs (d text PRIMARY KEY);
    CREATE TABLE promise_links (d text PRIMARY KEY);
    CREATE TABLE promise_leases (d text PRIMARY KEY);
    INSERT INTO promise_blobs VALUES ('X');
    INSERT INTO promise_links VALUES ('X')
"""
PROMISE = """
    WITH locked AS (
        SELECT b.d FROM promise_blobs b JOIN promise_links l ON l.d = b.d {lock}
    ), promised AS (INSERT INTO promise_leases SELECT d FROM locked)
    SELECT d FROM locked
"""
DROP_UNPROMISED = """
    DELETE FROM promise_links l WHERE NOT EXISTS (SELECT FROM promise_leases p WHERE p.d = l.d)
"""
DROP_LINK = ("SELECT d FROM promise_blobs WHERE d = 'X' FOR UPDATE", DROP_UNPROMISED)


@dataclass(frozen=True)
class Promise:
    lock: str
    # Whether it waits for a collector that is at it, and what is there when both have ended.
    waits: bool
    outcome: Literal["lost", "dropped"]


PROMISES = {
    "the blob's row alone: the link was seen before": Promise(
        "FOR KEY SHARE OF b", waits=True, outcome="lost"
    ),
    "the link's row, too": Promise("FOR KEY SHARE OF b, l", waits=True, outcome="dropped"),
    # Ours: leases/offers.py.
    "and what is locked is left out": Promise(
        "FOR KEY SHARE OF b, l SKIP LOCKED", waits=False, outcome="dropped"
    ),
}


@pytest.fixture
def promises(emptied_postgres_url: str) -> Iterator[Table]:
    with psycopg.connect(emptied_postgres_url) as connection:
        connection.execute(PROMISE_TABLES.encode())
    with observing(emptied_postgres_url) as observer:
        yield Table(emptied_postgres_url, observer)
    with psycopg.connect(emptied_postgres_url) as connection:
        connection.execute("DROP TABLE promise_leases, promise_links, promise_blobs")


def _promised(table: Table) -> str:
    with psycopg.connect(table.url) as connection:
        lease = connection.execute("SELECT FROM promise_leases").fetchone() is not None
        link = connection.execute("SELECT FROM promise_links").fetchone() is not None
    if lease:
        return "kept" if link else "lost"
    return "there" if link else "dropped"


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES.keys())
def test_promising_while_the_link_is_dropped(promises: Table, promise: Promise) -> None:
    head = (PROMISE.format(lock=promise.lock),)
    assert promises.meet(DROP_LINK, head) == promise.waits
    assert _promised(promises) == promise.outcome


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES.keys())
def test_dropping_the_link_while_it_is_promised(promises: Table, promise: Promise) -> None:
    """The other order: the collector waits, looks in a new statement, and leaves the link."""
    assert promises.meet((PROMISE.format(lock=promise.lock),), DROP_LINK)
    assert _promised(promises) == "kept"


# --- our own code ---------------------------------------------------------------------------------

APP = parse_repository_name("app")
BOB = Caller(subject="bob", address="192.0.2.2", agent="test")


class Meeting:
    """Bob puts a manifest that refers to a layer while the image that holds it is deleted."""

    def __init__(self, registry: Registry, layer: bytes) -> None:
        self._registry = registry
        self._manifest = image_manifest([layer], annotations={"by": "bob"})
        self.layer = digest_of(layer)
        self._old = plant_image(registry, APP, "v1", [layer])
        self.new: Digest | None = None

    def put(self) -> None:
        self.new = push_manifest(self._registry, APP, None, self._manifest, BOB)

    def delete(self) -> None:
        delete_manifest(self._registry, APP, self._old, BOB)

    def assert_all_or_nothing(self, failure: BaseException | None) -> None:
        """Either the new image is there, its layer's bytes too, or its pusher was told no."""
        reclaim_due(self._registry)
        if self.new is None:
            assert isinstance(failure, ManifestBlobUnknown)
        else:
            assert failure is None
            get_manifest(self._registry, APP, self.new)
            blob = stat_blob(self._registry, APP, self.layer)
            assert self._registry.blobs.size(blob.key) == blob.size


@pytest.mark.parametrize("put_first", [True, False], ids=["put first", "delete first"])
def test_putting_a_manifest_while_the_image_that_holds_its_layer_is_deleted(
    postgres_db: Database, emptied_postgres_url: str, clock: FakeClock, put_first: bool
) -> None:
    """R4: at every other step of either."""
    registry = registry_on(postgres_db, MemoryBlobStore(), clock)
    outcomes = set()
    with observing(emptied_postgres_url) as observer:
        for step in range(0, 100, 2):
            meeting = Meeting(registry, b"layer %d" % step)
            acts = (meeting.put, meeting.delete)
            failures = interleave(observer, *(acts if put_first else acts[::-1]), at=step)
            if failures is None:
                break
            put_failure, delete_failure = failures if put_first else failures[::-1]
            assert delete_failure is None
            meeting.assert_all_or_nothing(put_failure)
            outcomes.add(meeting.new is not None)
        else:
            pytest.fail("no end of steps")
    assert_sound(registry)
    assert outcomes == {True, False}
