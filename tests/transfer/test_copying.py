"""The steps of a move one by one: races of moving.md section 4, faults of the two stores."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, push_blob, push_image, settle
from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.protocol import BlobStore, Reader, StoreFull
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_repository
from ullage.oci.errors import Unavailable
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.identity import begin_batch, label_of
from ullage.registry.push.sessions import start_upload
from ullage.registry.queries import identity, processes
from ullage.transfer.copy import CopyFailed, Copying, prepare_target
from ullage.transfer.facts import Facts, answer
from ullage.transfer.switch import Moved, finish

APP = parse_repository_name("app")
URL = "file:/new"


@pytest.fixture
def served(db: Database, clock: FakeClock) -> Registry:
    """A registry with two images, whose store has its label."""
    registry = registry_on(db, MemoryBlobStore(), clock)
    begin_batch(registry)
    push_image(registry, "app", "v1", [b"one" * 1000])
    push_image(registry, "app", "v2", [b"two" * 1000])
    # The second copy of what they share goes.
    settle(registry)
    return registry


def facts_of(registry: Registry) -> Facts:
    return Facts(lambda request: answer(registry, request))


def prepared(registry: Registry, target: BlobStore) -> Copying:
    facts = facts_of(registry)
    prepare_target(facts.whose(), registry.blobs, target, registry.fresh_key, "")
    return Copying(facts, registry.blobs, target)


def finished(registry: Registry, target: BlobStore) -> Moved:
    *_, last = finish(registry, target, URL, ALICE)
    assert isinstance(last, Moved)
    return last


def keys(store: BlobStore) -> set[str]:
    return {found.key for found in store.list()}


def test_what_changes_behind_the_copys_back_is_in_the_last_pass(served: Registry) -> None:
    target = MemoryBlobStore()
    for _ in prepared(served, target).passes():
        pass
    assert keys(target) == keys(served.blobs)
    push_blob(served, "app", b"late")
    moved = finished(served, target)
    assert moved.tally.copied == 1
    assert keys(target) == keys(served.blobs)


def test_one_fact_moves_the_registry(served: Registry) -> None:
    """moving.md section 2."""
    target = MemoryBlobStore()
    finished(served, target)
    label = label_of(target)
    assert label is not None
    own = served.read(identity.own_store)
    assert own == identity.OwnStore(label.store, URL, ("",))
    (line,) = served.read(identity.key_lines)
    assert (label.line, label.batch) == (line.name, line.last)


def test_a_server_that_ran_meanwhile_stops_the_move(served: Registry) -> None:
    """moving.md section 4: it took a batch of keys, so there may be blobs that are not copied."""
    steps = finish(served, MemoryBlobStore(), URL, ALICE)
    next(steps)
    begin_batch(served)
    with pytest.raises(CopyFailed, match="a server ran meanwhile"):
        for _ in steps:
            pass
    assert served.read(identity.own_store) == identity.OwnStore()


def test_what_is_pushed_meanwhile_stops_the_move(served: Registry) -> None:
    """As by a process that only seemed to be dead, with keys in hand."""
    steps = finish(served, MemoryBlobStore(), URL, ALICE)
    next(steps)
    push_blob(served, "app", b"late")
    with pytest.raises(CopyFailed, match="a server ran meanwhile"):
        for _ in steps:
            pass


def test_a_server_that_lives_is_named(served: Registry) -> None:
    now = served.now()
    host = socket.gethostname()
    served.write(lambda tx: processes.beat(tx, "a", host, now, now))
    with pytest.raises(CopyFailed, match=f"servers run on this database, on {host}: stop"):
        finished(served, MemoryBlobStore())


def test_a_process_left_behind_gives_out_no_more_keys(served: Registry) -> None:
    finished(served, MemoryBlobStore())
    with pytest.raises(Unavailable, match="has moved to another storage"):
        begin_batch(served)


@pytest.mark.postgresql
def test_a_process_left_behind_begins_no_upload(postgres_db: Database, clock: FakeClock) -> None:
    """moving.md section 4: also with keys that it was given before."""
    registry = registry_on(postgres_db, MemoryBlobStore(), clock)
    start_upload(registry, APP, ALICE)
    assert registry.store_mark.take_key() is not None
    finished(registry, MemoryBlobStore())
    with pytest.raises(Unavailable, match="has moved to another storage"):
        start_upload(registry, APP, ALICE)


def test_what_a_killed_copy_had_begun_is_dropped(served: Registry) -> None:
    target = MemoryBlobStore()
    copying = prepared(served, target)
    # Of one that is to be copied, and of one that was deleted since.
    for key in (next(iter(keys(served.blobs))), begin_batch(served, lambda tx, keys: None)[0]):
        with target.begin(key) as append:
            append.write(b"half of i")
            append.sync()
    for _ in copying.passes():
        pass
    assert all(found.committed for found in target.list())
    assert keys(target) == keys(served.blobs)


class Faulty(MemoryBlobStore):
    """Fails when an object is begun."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def begin(self, key: str) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreFull(errno.ENOSPC, "no room"), "the new storage is full; what was copied stays"),
        (OSError(errno.ECONNRESET, "reset"), "the new storage failed: .*reset"),
    ],
)
def test_a_target_that_fails_ends_the_copy_and_harms_no_blob(
    served: Registry, error: OSError, said: str
) -> None:
    copying = prepared(served, Faulty(error))
    with pytest.raises(CopyFailed, match=said):
        for _ in copying.passes():
            pass
    assert served.read(identity.own_store) == identity.OwnStore()
    assert copying.tally.damaged == []


class Vanishing(MemoryBlobStore):
    """Loses the target's object before it is committed, as a bucket's lifecycle rule may."""

    def begin(self, key: str) -> Any:
        append = super().begin(key)
        self.delete([key])
        return append


def test_what_the_target_loses_is_no_damage_of_the_source(served: Registry) -> None:
    copying = prepared(served, Vanishing())
    with pytest.raises(CopyFailed, match="the new storage failed"):
        for _ in copying.passes():
            pass
    assert copying.tally.damaged == []


class Late:
    """A store in which something happens just before an object is opened."""

    def __init__(self, store: BlobStore, happens: Callable[[], object]) -> None:
        self._store = store
        self._happens = happens

    def open(self, key: str, size: int) -> Reader:
        self._happens()
        return self._store.open(key, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def copy_all(registry: Registry, source: BlobStore, target: BlobStore) -> Copying:
    facts = facts_of(registry)
    prepare_target(facts.whose(), source, target, registry.fresh_key, "")
    copying = Copying(facts, source, target)
    for _ in copying.passes():
        pass
    return copying


def test_a_blob_that_is_deleted_while_it_is_copied_is_no_damage(
    served: Registry, clock: FakeClock
) -> None:
    """moving.md section 4: its row is gone when it is asked for again."""

    def delete() -> None:
        delete_repository(served, APP, ALICE)
        settle(served)
        clock.advance(60)
        settle(served)

    target = MemoryBlobStore()
    copying = copy_all(served, cast(BlobStore, Late(served.blobs, once(delete))), target)
    assert copying.tally.damaged == []
    assert keys(served.blobs) == set()
    copy_all(served, served.blobs, target)
    assert keys(target) == set()


def test_what_is_deleted_after_it_was_copied_is_removed(served: Registry, clock: FakeClock) -> None:
    """moving.md section 4: also while its tombstone waits, for the target needs none."""
    target = MemoryBlobStore()
    copy_all(served, served.blobs, target)
    delete_repository(served, APP, ALICE)
    settle(served)
    assert keys(served.blobs) != set()
    copying = copy_all(served, served.blobs, target)
    assert copying.tally.removed == 3
    assert keys(target) == set()
    clock.advance(60)
    settle(served)


def once(do: Callable[[], object]) -> Callable[[], None]:
    """Of several threads the first does it, and the others wait until it is done."""
    lock, waiting = threading.Lock(), [do]

    def first() -> None:
        with lock:
            while waiting:
                waiting.pop()()

    return first


def test_bytes_that_are_missing_are_damage(served: Registry) -> None:
    """damage.md section 3; all others are copied."""
    gone = min(keys(served.blobs))
    served.blobs.delete([gone])
    target = MemoryBlobStore()
    copying = copy_all(served, served.blobs, target)
    assert len(copying.tally.damaged) == 1
    assert keys(target) == keys(served.blobs)


def test_a_copy_is_not_quarantined_where_the_store_is_not_the_registrys(served: Registry) -> None:
    """A disk that came off in the middle: nothing is quarantined, and the copy ends."""
    served.blobs.delete(keys(served.blobs))
    target = MemoryBlobStore()
    copying = prepared(served, target)
    served.blobs.write_label("not a label")
    with pytest.raises(OSError, match="its bytes are missing"):
        for _ in copying.passes():
            pass
    assert copying.tally.damaged == []
