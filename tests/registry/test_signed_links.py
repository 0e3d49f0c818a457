"""Signed URLs: what they read stays until they have ended, and for nothing else bytes wait.

deletion.md section 3.5, buckets.md section 5.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.linking_store import LinkingStore
from tests.support.planting import plant_image
from tests.support.registry import ALICE, push_blob, push_image, settle
from tests.support.soundness import assert_sound
from tests.support.statements import listened
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.queries import repairs
from ullage.database.errors import DatabaseFull
from ullage.database.schema import content, space
from ullage.database.timestamps import from_micros
from ullage.database.transaction import Database, Transaction
from ullage.deletion.delete import delete_blob, delete_manifest, delete_repository
from ullage.deletion.reclaim import shift_deadlines, tidy_signed_urls
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import stat_blob
from ullage.registry.pull.signed_links import remembered_link, signed_link
from ullage.registry.queries.quarantine import quarantine

APP = parse_repository_name("app")
LAYER, OTHER = b"a layer " * 10, b"another one " * 10
DIGEST = digest_of(LAYER)
# --signed-url; a URL lasts for twice as long at most.
SIGNED_URL = timedelta(minutes=5)
LIMITS = Limits(signed_read=2 * SIGNED_URL)


@pytest.fixture
def linking(clock: FakeClock) -> LinkingStore:
    return LinkingStore(clock)


@pytest.fixture
def signing(db: Database, linking: LinkingStore, clock: FakeClock) -> Registry:
    """A registry whose store has URLs, on each database in turn."""
    registry = registry_on(db, linking, clock, LIMITS)
    tidy_signed_urls(registry)
    return registry


def pull(registry: Registry, digest: Digest = DIGEST) -> str:
    """The URL that a pull is sent to."""
    blob = stat_blob(registry, APP, digest)
    url = remembered_link(registry, blob.key) or signed_link(registry, blob)
    assert url is not None
    return url


def covered_until(registry: Registry, digest: Digest = DIGEST) -> datetime | None:
    """What the table says."""
    rows = registry.read(lambda tx: list(tx.execute_directly(space.signed_reads.select())))
    return next((from_micros(until) for which, until in rows if which == digest), None)


def crash_database(registry: Registry) -> None:
    """PostgreSQL, CREATE TABLE: "an unlogged table is automatically truncated after a crash"."""

    def empty(tx: Transaction) -> None:
        for table in (space.signed_reads, space.signed_memory):
            tx.execute_directly(table.delete())

    registry.write(empty)


# --- what is handed out ---------------------------------------------------------------------------


def test_no_url_outlives_what_was_written_down(
    signing: Registry, linking: LinkingStore, clock: FakeClock
) -> None:
    """However often, and whenever, it is pulled: each URL lasts for --signed-url at least."""
    plant_image(signing, "app", "v1", [LAYER])
    for _ in range(100):
        url = pull(signing)
        until = covered_until(signing)
        assert until is not None
        assert clock() + SIGNED_URL <= linking.ends_at(url) <= until
        clock.advance(17.3)


def test_a_hot_blob_is_written_down_once_in_a_signed_url_by_a_process(
    signing: Registry, linking: LinkingStore, clock: FakeClock
) -> None:
    """buckets.md section 5: 32 pulls at once, again and again."""
    plant_image(signing, "app", "v1", [LAYER])
    barrier = threading.Barrier(32)

    def pull_together(_: int) -> str:
        barrier.wait()
        return pull(signing)

    with ThreadPoolExecutor(32) as pool:
        for _ in range(3):
            assert len(set(pool.map(pull_together, range(32)))) == 1
            clock.advance(60)
    assert len(linking.signed) == 1
    clock.advance(SIGNED_URL.total_seconds())
    pull(signing)
    assert len(linking.signed) == 2


def test_a_clock_that_was_put_back_has_a_url_signed_again(
    signing: Registry, linking: LinkingStore, clock: FakeClock
) -> None:
    plant_image(signing, "app", "v1", [LAYER])
    first = pull(signing)
    clock.advance(-3600)
    assert pull(signing) != first


def test_what_is_gone_or_in_quarantine_is_not_signed(
    signing: Registry, linking: LinkingStore, clock: FakeClock
) -> None:
    """A pull that has read the row before, and comes to sign after."""
    image = plant_image(signing, "app", "v1", [LAYER, OTHER])
    blobs = [stat_blob(signing, APP, digest_of(data)) for data in (LAYER, OTHER)]
    signing.write(lambda tx: quarantine(tx, blobs[1].digest, blobs[1].key, clock()))
    delete_manifest(signing, APP, image, ALICE)
    for blob in blobs:
        with pytest.raises(BlobUnknown):
            signed_link(signing, blob)
    assert linking.signed == []


def test_a_pull_goes_on_where_the_database_takes_no_change(
    signing: Registry, linking: LinkingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk keeps nobody from pulling: the registry serves it."""
    plant_image(signing, "app", "v1", [LAYER])
    blob = stat_blob(signing, APP, DIGEST)

    def full(*_: object, **__: object) -> None:
        raise DatabaseFull("no room")

    monkeypatch.setattr(type(signing.db), "write", full)
    assert signed_link(signing, blob) is None
    assert linking.signed == []


def test_no_url_is_given_out_that_was_signed_too_late(
    signing: Registry, linking: LinkingStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database took so long that less than --signed-url would be left."""
    plant_image(signing, "app", "v1", [LAYER])
    blob = stat_blob(signing, APP, DIGEST)
    write = type(signing.db).write

    def slow(*arguments: object, **options: object) -> object:
        outcome: object = write(*arguments, **options)  # type: ignore[arg-type]
        clock.advance(SIGNED_URL.total_seconds() + 1)
        return outcome

    monkeypatch.setattr(type(signing.db), "write", slow)
    assert signed_link(signing, blob) is None
    assert linking.signed == []


# --- deletions ------------------------------------------------------------------------------------


def waits_for_its_url(
    registry: Registry, linking: LinkingStore, clock: FakeClock, url: str, key: str
) -> None:
    """The bytes are there while the URL works, and go right after it has ended."""
    until = covered_until(registry)
    assert until is not None
    while clock() < linking.ends_at(url):
        settle(registry)
        assert linking.reads(url)
        clock.advance(59)
    clock.advance((until - clock()).total_seconds() + 1)
    settle(registry)
    assert linking.size(key) is None


def test_only_what_was_signed_waits(
    signing: Registry, linking: LinkingStore, clock: FakeClock
) -> None:
    """deletion.md section 3.5: others go as if there were no URLs."""
    image = push_image(signing, "app", "v1", [LAYER, OTHER])
    keys = {data: stat_blob(signing, APP, digest_of(data)).key for data in (LAYER, OTHER)}
    url = pull(signing)
    delete_manifest(signing, APP, image, ALICE)
    clock.advance(signing.limits.read_grace.total_seconds())
    settle(signing)
    assert linking.size(keys[OTHER]) is None
    waits_for_its_url(signing, linking, clock, url, keys[LAYER])
    assert_sound(signing)


def by_its_digest(registry: Registry) -> None:
    push_blob(registry, "app", LAYER)


def delete_by_digest(registry: Registry) -> None:
    delete_blob(registry, APP, DIGEST, ALICE)


def in_an_image(registry: Registry) -> None:
    push_image(registry, "app", "v1", [LAYER])


def delete_whole_repository(registry: Registry) -> None:
    delete_repository(registry, APP, ALICE)
    settle(registry)


def review_an_unused_upload(registry: Registry) -> None:
    clock = registry.now
    assert isinstance(clock, FakeClock)
    clock.advance(registry.limits.lease.total_seconds())
    pull(registry)
    settle(registry)


def lose_the_link(registry: Registry) -> None:
    """What `ullage check --repair` finds as I9, and gives up."""
    registry.write(lambda tx: tx.execute_directly(content.repo_blobs.delete()))
    now = registry.now()
    assert registry.write(lambda tx: repairs.condemn_unlinked(tx, DIGEST, now, registry.due(now)))


def replace_damaged_bytes(registry: Registry) -> None:
    blob = stat_blob(registry, APP, DIGEST)
    assert registry.write(lambda tx: quarantine(tx, DIGEST, blob.key, registry.now()))
    push_blob(registry, "app", LAYER)


@pytest.mark.parametrize(
    ("stored", "condemn"),
    [
        (by_its_digest, delete_by_digest),
        (in_an_image, delete_whole_repository),
        (by_its_digest, review_an_unused_upload),
        (by_its_digest, lose_the_link),
        (in_an_image, replace_damaged_bytes),
    ],
)
def test_every_way_out_waits_for_a_url(
    signing: Registry,
    linking: LinkingStore,
    clock: FakeClock,
    stored: Callable[[Registry], None],
    condemn: Callable[[Registry], None],
) -> None:
    """deletion.md section 3.5: whatever writes the tombstone of a blob."""
    stored(signing)
    key, url = stat_blob(signing, APP, DIGEST).key, pull(signing)
    condemn(signing)
    url = str(linking.signed[-1]) if condemn is review_an_unused_upload else url
    assert key not in {row[0] for row in signing.read(_storage_keys)}
    waits_for_its_url(signing, linking, clock, url, key)


def _storage_keys(tx: Transaction) -> list[tuple[str]]:
    return [(row.storage_key,) for row in tx.execute_directly(content.blobs.select())]


def test_another_process_s_url_is_waited_for(
    db: Database, signing: Registry, linking: LinkingStore, clock: FakeClock
) -> None:
    other = registry_on(db, linking, clock, LIMITS)
    image = push_image(signing, "app", "v1", [LAYER])
    key, url = stat_blob(signing, APP, DIGEST).key, pull(other)
    delete_manifest(signing, APP, image, ALICE)
    waits_for_its_url(signing, linking, clock, url, key)


def test_a_longer_url_is_not_forgotten_for_a_shorter_one(
    db: Database, signing: Registry, clock: FakeClock, linking: LinkingStore
) -> None:
    """A process that was started with a shorter --signed-url, beside one that was not."""
    plant_image(signing, "app", "v1", [LAYER])
    pull(signing)
    until = covered_until(signing)
    pull(registry_on(db, linking, clock, Limits(signed_read=timedelta(seconds=20))))
    assert covered_until(signing) == until


def test_what_has_ended_is_forgotten(signing: Registry, clock: FakeClock) -> None:
    plant_image(signing, "app", "v1", [LAYER, OTHER])
    pull(signing)
    clock.advance(60)
    pull(signing, digest_of(OTHER))
    clock.advance((LIMITS.signed_read - timedelta(seconds=60)).total_seconds())
    tidy_signed_urls(signing)
    assert covered_until(signing) is None
    assert covered_until(signing, digest_of(OTHER)) is not None


def test_urls_last_as_long_as_before_when_the_clock_is_set(signing: Registry) -> None:
    """R31, where the clock is this machine's."""
    if signing.db.dialect != "sqlite":
        pytest.skip("every process goes by the database server's clock")
    plant_image(signing, "app", "v1", [LAYER])
    pull(signing)
    before = covered_until(signing)
    assert before is not None
    shift_deadlines(signing, timedelta(hours=1))
    assert covered_until(signing) == before + timedelta(hours=1)


# --- a crash of the database ----------------------------------------------------------------------


def test_after_a_crash_of_the_database_everything_counts_as_signed(
    signing: Registry, linking: LinkingStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As leases do, and only for as long as a URL lasts; also before a worker has noticed."""
    if signing.db.dialect == "sqlite":
        pytest.skip("its table survives a crash")
    images = [push_image(signing, "app", f"v{n}", [b"%d" % n]) for n in range(3)]
    keys = [stat_blob(signing, APP, digest_of(b"%d" % n)).key for n in range(3)]
    url = pull(signing, digest_of(b"0"))
    crash_database(signing)
    delete_manifest(signing, APP, images[0], ALICE)
    clock.advance(60)
    tidy_signed_urls(signing)
    assert "which signed URLs were given out is not known" in caplog.text
    delete_manifest(signing, APP, images[1], ALICE)
    while clock() < linking.ends_at(url):
        settle(signing)
        assert linking.reads(url)
        assert linking.size(keys[1]) is not None
        clock.advance(59)
    clock.advance(61)
    settle(signing)
    assert [linking.size(key) for key in keys[:2]] == [None, None]
    delete_manifest(signing, APP, images[2], ALICE)
    clock.advance(signing.limits.read_grace.total_seconds())
    settle(signing)
    assert linking.size(keys[2]) is None


def test_what_a_process_remembers_outlives_no_crash_of_the_database(
    signing: Registry, linking: LinkingStore, clock: FakeClock
) -> None:
    """O8: a URL of before the crash is handed out again, and the table has nothing of it."""
    if signing.db.dialect == "sqlite":
        pytest.skip("its table survives a crash")
    image = push_image(signing, "app", "v1", [LAYER])
    url = pull(signing)
    crash_database(signing)
    tidy_signed_urls(signing)
    clock.advance(SIGNED_URL.total_seconds() - 30)
    assert pull(signing) == url
    delete_manifest(signing, APP, image, ALICE)
    while clock() < linking.ends_at(url):
        settle(signing)
        assert linking.reads(url)
        clock.advance(7)


def test_an_empty_registry_has_nothing_to_forget(
    signing: Registry, linking: LinkingStore, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    crash_database(signing)
    tidy_signed_urls(signing)
    assert caplog.records == []
    image = push_image(signing, "app", "v1", [LAYER])
    key = stat_blob(signing, APP, DIGEST).key
    delete_manifest(signing, APP, image, ALICE)
    clock.advance(signing.limits.read_grace.total_seconds())
    settle(signing)
    assert linking.size(key) is None


# --- stores without URLs --------------------------------------------------------------------------


def test_files_pay_nothing_for_it(db: Database, clock: FakeClock) -> None:
    """No statement about signed URLs: in no pull, deletion or round of the worker."""
    registry = registry_on(db, MemoryBlobStore(), clock)
    image = push_image(registry, "app", "v1", [LAYER])
    with listened(db) as heard:
        assert signed_link(registry, stat_blob(registry, APP, DIGEST)) is None
        delete_manifest(registry, APP, image, ALICE)
        tidy_signed_urls(registry)
        clock.advance(registry.limits.read_grace.total_seconds())
        settle(registry)
    assert [sql for sql in heard if "signed" in sql] == []
    assert any("tombstones" in sql for sql in heard)
    assert_sound(registry)
