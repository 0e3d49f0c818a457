"""Comparing the store with the database: what no row names is seldom garbage (damage.md)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.faulty_store import FaultyStore
from tests.support.fixtures import registry_on
from tests.support.planting import plant_image, store_bytes
from tests.support.registry import ALICE, push_blob, settle
from tests.support.soundness import assert_sound
from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.protocol import StoredObject
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.check.store_identity import adopt_store
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest
from ullage.deletion.reconcile import UNKNOWN_KEY_GRACE, reconcile
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.identity import ADOPTION_GRACE, begin_batch
from ullage.registry.push.sessions import start_upload
from ullage.registry.queries.counters import totals

APP = parse_repository_name("app")
OLD = UNKNOWN_KEY_GRACE + timedelta(seconds=1)


@pytest.fixture
def registry(db: Database, store: MemoryBlobStore, clock: FakeClock) -> Registry:
    """One that may erase anything that is its own, unless a test says otherwise."""
    made = registry_on(db, FaultyStore(store), clock)
    return replace(made, limits=replace(made.limits, max_unknown_percent=100))


@pytest.fixture
def audited(registry: Registry) -> Iterator[Registry]:
    yield registry
    assert_sound(registry)


def listing(registry: Registry, *, age: timedelta) -> list[StoredObject]:
    """The store's listing, all of it written `age` ago."""
    modified = (registry.now() - age).timestamp()
    return [replace(found, modified=modified) for found in registry.blobs.list()]


def own_keys(registry: Registry) -> list[str]:
    """Keys that the database gave out, and that no row names."""
    return begin_batch(registry, lambda tx, keys: None)


def pending_and_reclaimed(registry: Registry) -> tuple[int, int]:
    found = registry.read(totals)
    return found["pending_bytes"], found["reclaimed_bytes"]


def keys_in_store(registry: Registry) -> set[str]:
    return {found.key for found in registry.blobs.list()}


def pass_a_day(registry: Registry) -> None:
    """A comparison, a day, and another one, with all the worker's other work."""
    assert isinstance(registry.now, FakeClock)
    for _ in range(2):
        reconcile(registry, listing(registry, age=OLD))
        registry.now.advance(timedelta(days=1, minutes=1).total_seconds())
        settle(registry)


def test_own_bytes_that_no_row_names_are_erased_when_they_are_old(audited: Registry) -> None:
    first, second, *_ = own_keys(audited)
    audited.blobs.begin(first).close()
    store_bytes(audited.blobs, second, b"unknown")
    assert reconcile(audited, listing(audited, age=UNKNOWN_KEY_GRACE)) == 0
    assert reconcile(audited, listing(audited, age=OLD)) == 2
    assert pending_and_reclaimed(audited) == (7, 0)
    # A second walk finds them waiting, and counts nothing again.
    assert reconcile(audited, listing(audited, age=OLD)) == 0
    settle(audited)
    assert keys_in_store(audited) == set()
    assert pending_and_reclaimed(audited) == (0, 7)


def test_known_bytes_are_left_alone_however_old(audited: Registry) -> None:
    """R23, fail closed: blobs, upload sessions, what waits for its erasing."""
    plant_image(audited, "app", "v1", [b"layer"])
    push_blob(audited, "app", b"loose")
    start_upload(audited, APP, ALICE)
    doomed = plant_image(audited, "app", None, [b"doomed"])
    delete_manifest(audited, APP, doomed, ALICE)
    assert reconcile(audited, listing(audited, age=OLD), batch=2) == 0


def test_what_is_odd_is_not_unknown(audited: Registry) -> None:
    """A file nobody can reach by a key is for a person to look at."""
    odd = StoredObject("blobs/ab/notes.txt", 5, 0.0, True, problem="not a storage key")
    assert reconcile(audited, [odd]) == 0


def test_what_was_erased_since_it_was_listed_is_not_counted(audited: Registry) -> None:
    key, *_ = own_keys(audited)
    store_bytes(audited.blobs, key, b"unknown")
    seen = listing(audited, age=OLD)
    audited.blobs.delete([key])
    assert reconcile(audited, seen) == 0
    assert pending_and_reclaimed(audited) == (0, 0)


@pytest.mark.parametrize(
    "key",
    [
        "b" * 32,
        # A batch that was never given out, and the batch of another key.
        "0123456789abcdef0000ffff89abcdef",
        "0123456789abcdef0000000189abcdef",
    ],
)
def test_bytes_that_this_database_never_wrote_are_kept_and_shown(
    registry: Registry, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    own_keys(registry)
    store_bytes(registry.blobs, key, b"of another registry")
    with caplog.at_level(logging.WARNING):
        pass_a_day(registry)
    assert keys_in_store(registry) == {key}
    assert "1 objects (19 bytes) that this database never wrote" in caplog.text
    for repair in (True, False):
        (finding,) = check(registry, Mode.DEFAULT, repair=repair).findings
        assert (finding.invariant, finding.repaired) == ("I8", False)
        assert "this database never wrote" in finding.message
    assert keys_in_store(registry) == {key}


def test_a_key_with_one_digit_changed_is_not_ours(registry: Registry) -> None:
    """No digit of a key is free: neither the random ones nor the batch nor the proof."""
    own, *_ = own_keys(registry)
    for place in range(32):
        digit = "0" if own[place] != "0" else "1"
        store_bytes(registry.blobs, own[:place] + digit + own[place + 1 :], b"x")
    before = keys_in_store(registry)
    assert reconcile(registry, listing(registry, age=OLD)) == 0
    assert keys_in_store(registry) == before


@pytest.mark.parametrize(("unknown", "erased"), [(1, 1), (2, 0)])
def test_only_a_small_share_of_the_store_goes_at_once(
    registry: Registry, caplog: pytest.LogCaptureFixture, unknown: int, erased: int
) -> None:
    """1 % of the objects and of the bytes: more of them are a database that knows too little."""
    registry = replace(registry, limits=replace(registry.limits, max_unknown_percent=1))
    plant_image(registry, "app", "v1", [b"%3d" % n for n in range(148)])
    for key in own_keys(registry)[:unknown]:
        store_bytes(registry.blobs, key, b"4")
    with caplog.at_level(logging.WARNING):
        assert reconcile(registry, listing(registry, age=OLD)) == erased
    assert ("more than 1 % of it" in caplog.text) == (not erased)


def test_a_small_share_of_objects_may_not_be_a_large_one_of_bytes(registry: Registry) -> None:
    registry = replace(registry, limits=replace(registry.limits, max_unknown_percent=1))
    plant_image(registry, "app", "v1", [b"%3d" % n for n in range(148)])
    key, *_ = own_keys(registry)
    store_bytes(registry.blobs, key, b"large" * 10)
    assert reconcile(registry, listing(registry, age=OLD)) == 0


def test_nothing_is_erased_in_the_first_day_after_a_take_over(
    registry: Registry, store: MemoryBlobStore, clock: FakeClock
) -> None:
    before, *_ = own_keys(registry)
    store_bytes(registry.blobs, before, b"of a state that may be lost")
    adopt_store(registry.db, store, clock(), registry.fresh_key)
    after, *_ = own_keys(registry)
    store_bytes(registry.blobs, after, b"unknown")
    clock.advance(ADOPTION_GRACE.total_seconds() - 1)
    assert reconcile(registry, listing(registry, age=OLD)) == 0
    messages = {
        finding.subject: finding.message
        for finding in check(registry, Mode.DEFAULT, repair=True).findings
    }
    assert "left alone for a day" in messages[f"object {after}"]
    assert "this database never wrote" in messages[f"object {before}"]
    clock.advance(1)
    assert reconcile(registry, listing(registry, age=OLD)) == 1
    settle(registry)
    assert keys_in_store(registry) == {before}, "for good"
