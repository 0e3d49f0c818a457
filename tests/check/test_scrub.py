"""The scrub reads every blob once in a while and quarantines what has rotted.

damage.md section 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import plant_image, store_bytes
from tests.support.registry import ALICE, push_blob, settle
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.scrub import (
    LEAST_BYTES_PER_SECOND,
    MOST_BYTES_PER_SECOND,
    PIECE_BYTES,
    _pace,
    scrub,
)
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.pull.read import open_blob, stat_blob

APP = parse_repository_name("app")
MONTH = timedelta(days=30)
LAYERS = [os.urandom(1000 + n) for n in range(5)]


class Pauses:
    """What was waited for; `at` a pause it is told to stop."""

    def __init__(self, at: int | None = None) -> None:
        self.seconds: list[float] = []
        self._at = at

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return self._at is not None and len(self.seconds) >= self._at


def sound(registry: Registry, digest: Digest) -> bool:
    try:
        stat_blob(registry, APP, digest)
    except BlobUnknown:
        return False
    return True


def flip(store: MemoryBlobStore, key: str, data: bytes) -> None:
    store.delete([key])
    store_bytes(store, key, bytes([data[0] ^ 1]) + data[1:])


def truncate(store: MemoryBlobStore, key: str, data: bytes) -> None:
    store.delete([key])
    store_bytes(store, key, data[:-1])


def lose(store: MemoryBlobStore, key: str, data: bytes) -> None:
    store.delete([key])


@pytest.mark.parametrize("damage", [flip, truncate, lose])
def test_rotten_bytes_are_quarantined_and_the_next_push_heals_them(
    registry: Registry,
    store: MemoryBlobStore,
    damage: Callable[[MemoryBlobStore, str, bytes], None],
) -> None:
    plant_image(registry, "app", "v1", LAYERS)
    rotten, *others = LAYERS
    damage(store, stat_blob(registry, APP, digest_of(rotten)).key, rotten)
    assert scrub(registry, MONTH, "one", Pauses()) == MONTH
    assert not sound(registry, digest_of(rotten))
    assert all(sound(registry, digest_of(layer)) for layer in others)
    push_blob(registry, "app", rotten)
    with_bytes = open_blob(registry, APP, digest_of(rotten))
    assert with_bytes.read_at(0, 2000) == rotten
    with_bytes.close()
    settle(registry)


def test_a_pass_is_made_once_in_a_period(registry: Registry, clock: FakeClock) -> None:
    plant_image(registry, "app", "v1", LAYERS)
    pauses = Pauses()
    assert scrub(registry, MONTH, "one", pauses) == MONTH
    assert len(pauses.seconds) == len(LAYERS) + 1
    clock.advance(timedelta(days=29).total_seconds())
    assert scrub(registry, MONTH, "two", pauses) == timedelta(days=1)
    assert len(pauses.seconds) == len(LAYERS) + 1
    clock.advance(timedelta(days=1).total_seconds())
    assert scrub(registry, MONTH, "two", pauses) == MONTH
    assert len(pauses.seconds) == 2 * (len(LAYERS) + 1)


def test_a_pass_that_was_cut_short_goes_on_where_it_was(registry: Registry) -> None:
    plant_image(registry, "app", "v1", LAYERS)
    first, second = Pauses(at=3), Pauses()
    assert scrub(registry, MONTH, "one", first) == timedelta(0)
    assert scrub(registry, MONTH, "one", second) == MONTH
    # The blob that it was in the middle of is read again.
    assert len(first.seconds) + len(second.seconds) == len(LAYERS) + 1 + 1


def test_it_stops_in_the_middle_of_blobs_that_are_all_missing(
    db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    """A server whose storage is empty must not look for each of its blobs before it ends."""
    registry = registry_on(db, store, clock)
    plant_image(registry, "app", "v1", LAYERS)
    keys = {digest: stat_blob(registry, APP, digest).key for digest in map(digest_of, LAYERS)}
    store.delete(keys.values())
    scrub(registry, MONTH, "one", Pauses(at=2))
    assert sum(sound(registry, digest) for digest in keys) >= len(keys) - 2


def test_processes_take_turns(registry: Registry, clock: FakeClock) -> None:
    """One that was killed is relieved in ten minutes."""
    plant_image(registry, "app", "v1", LAYERS)

    class Killed(Exception):
        pass

    def kill(_: float) -> bool:
        raise Killed

    with pytest.raises(Killed):
        scrub(registry, MONTH, "one", kill)
    idle = Pauses()
    assert scrub(registry, MONTH, "two", idle) == timedelta(minutes=10)
    assert idle.seconds == []
    clock.advance(600)
    scrub(registry, MONTH, "two", idle)
    assert len(idle.seconds) == len(LAYERS) + 1


def test_it_reads_slowly(db: Database, store: MemoryBlobStore, clock: FakeClock) -> None:
    registry = registry_on(db, store, clock)
    plant_image(registry, "app", "v1", [bytes(3 * PIECE_BYTES)])
    pauses = Pauses()
    scrub(registry, MONTH, "one", pauses)
    assert sum(pauses.seconds) == pytest.approx(3 * PIECE_BYTES / LEAST_BYTES_PER_SECOND, rel=0.01)


@pytest.mark.parametrize(
    ("total", "pace"),
    [
        (0, LEAST_BYTES_PER_SECOND),
        # 10 TB take a month at nearly 5 MB/s.
        (10 * 10**12, 10 * 10**12 * 1.25 / MONTH.total_seconds()),
        (10**15, MOST_BYTES_PER_SECOND),
    ],
)
def test_the_pace_lets_a_pass_end_in_time_but_is_never_more_than_10_mb_a_second(
    total: int, pace: float
) -> None:
    assert _pace(total, MONTH) == pace


def test_what_was_deleted_meanwhile_is_no_damage(
    registry: Registry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row went before its bytes, so nothing is left to be quarantined."""
    image = plant_image(registry, "app", "v1", LAYERS)

    def delete_first(_: float) -> bool:
        if sound(registry, digest_of(LAYERS[0])):
            delete_manifest(registry, APP, image, ALICE)
            clock.advance(10)
            settle(registry)
        return False

    scrub(registry, MONTH, "one", delete_first)
    assert "quarantined" not in caplog.text
