"""Leases: what was promised to a pusher stays until its manifest comes, or the promise ends.

deletion.md section 3.2.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.clock import FakeClock
from tests.support.fixtures import Installation, registry_on
from tests.support.planting import image_manifest, plant_blobs, plant_image
from tests.support.registry import ALICE, push_blob, push_image, push_manifest, settle
from tests.support.soundness import assert_sound
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.schema import space
from ullage.database.transaction import Database, Transaction
from ullage.deletion.delete import Deleted, delete_manifest, delete_repository
from ullage.deletion.reclaim import (
    expire_leases,
    expire_uploads,
    reclaim_due,
    review_due,
    shift_deadlines,
)
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import BlobUnknown, ManifestBlobUnknown
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.leases.lease import CONFIRM, Link
from ullage.registry.leases.sql import SqlLeases
from ullage.registry.pull.read import stat_blob, stat_blob_for_push
from ullage.registry.push.links import mount_blob
from ullage.registry.push.sessions import get_upload, start_upload
from ullage.registry.push.uploads import append_upload
from ullage.registry.queries.content.repositories import find_repository, lock_repository
from ullage.registry.queries.reclaim.release_links import Released, release_links
from ullage.registry.queries.reclaim.signed_reads import Due

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")
BOB = Caller(subject="bob", address="192.0.2.2", agent="test")
DOCKER = Caller(subject="carol", address="192.0.2.3", agent="docker/27.1 go/1.22")
SKOPEO = Caller(subject="dave", address="192.0.2.4", agent="skopeo/1.9.3")
LAYER = b"a layer"
DIGEST = digest_of(LAYER)
# So many ask at once.
CROWD = 12
ALL_BYTES = len(LAYER) + len(b"{}")


def delete(registry: Registry, digest: Digest, caller: Caller = ALICE) -> Deleted:
    return delete_manifest(registry, APP, digest, caller)


def head(registry: Registry, caller: Caller, digest: Digest = DIGEST, name: str = "app") -> None:
    """A HEAD of a caller that may push: answered 200, it is a promise."""
    stat_blob_for_push(registry, parse_repository_name(name), digest, caller)


def put(registry: Registry, caller: Caller, name: str = "app") -> Digest:
    """The manifest of a push that uploaded nothing; another one for each caller."""
    manifest = image_manifest([LAYER], annotations={"by": caller.subject})
    return push_manifest(registry, name, None, manifest, caller)


def head_at_once(registry: Registry, caller: Caller) -> None:
    with ThreadPoolExecutor(CROWD) as crowd:
        for asked in [crowd.submit(head, registry, caller) for _ in range(CROWD)]:
            asked.result()


def pushes_promised(registry: Registry, caller: Caller) -> int:
    """To how many pushes of `caller` the layer is promised: so many manifests redeem it."""
    pushes, leased = 0, True
    while leased:
        pushes += 1
        push_blob(registry, "app", b"{}", caller)
        manifest = image_manifest([LAYER], annotations={"push": str(pushes)})
        digest = push_manifest(registry, "app", None, manifest, caller)
        leased = delete(registry, digest).leased_bytes > 0
    return pushes


def wait_for_the_end(registry: Registry, clock: FakeClock) -> None:
    """Until every promise made so far has ended, and what came of it is erased."""
    clock.advance(registry.limits.lease.total_seconds())
    settle(registry)
    clock.advance(registry.limits.read_grace.total_seconds())
    settle(registry)


def stored_bytes(registry: Registry) -> int:
    return sum(found.size for found in registry.blobs.list())


# --- counting -------------------------------------------------------------------------------------


def test_an_image_that_was_pushed_a_second_ago_frees_its_bytes_at_once(
    registry: Registry,
) -> None:
    """Its manifest redeemed what its uploads were promised; nothing else waits for them."""
    deleted = delete(registry, push_image(registry, "app", "v1", [LAYER]))
    assert (deleted.freed_bytes, deleted.leased_bytes) == (ALL_BYTES, 0)


def test_a_second_pusher_s_head_keeps_the_blob_until_the_promise_ends(
    registry: Registry, clock: FakeClock
) -> None:
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    deleted = delete(registry, digest)
    assert (deleted.freed_bytes, deleted.leased_bytes) == (len(b"{}"), len(LAYER))
    clock.advance(registry.limits.lease.total_seconds() - 1)
    settle(registry)
    assert stat_blob(registry, APP, DIGEST).size == len(LAYER)
    clock.advance(1)
    assert review_due(registry) == 1
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, DIGEST)
    wait_for_the_end(registry, clock)
    assert stored_bytes(registry) == 0


def test_a_client_told_not_to_upload_can_put_the_manifest(
    registry: Registry, clock: FakeClock
) -> None:
    """R2, R3: HEAD 200, the image is deleted, everything due is erased, then the manifest comes."""
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    head(registry, BOB, digest_of(b"{}"))
    delete(registry, digest)
    clock.advance(registry.limits.lease.total_seconds() - 1)
    settle(registry)
    mine = put(registry, BOB)
    wait_for_the_end(registry, clock)
    assert stat_blob(registry, APP, DIGEST).size == len(LAYER)
    assert delete(registry, mine).freed_bytes == ALL_BYTES


def test_a_client_that_uploaded_can_put_the_manifest(registry: Registry, clock: FakeClock) -> None:
    """R2: the last blob's 201, then everything due is erased, then the manifest."""
    for data in (LAYER, b"{}"):
        push_blob(registry, "app", data)
    clock.advance(registry.limits.lease.total_seconds() - 1)
    settle(registry)
    put(registry, ALICE)


def test_a_manifest_redeems_its_own_pusher_s_promise_only(registry: Registry) -> None:
    digest = push_image(registry, "app", "v1", [LAYER])
    push_blob(registry, "app", LAYER, BOB)
    push_image(registry, "app", "v1", [LAYER])
    assert delete(registry, digest).leased_bytes == len(LAYER)
    push_blob(registry, "app", b"{}", BOB)
    assert delete(registry, put(registry, BOB)).leased_bytes == 0


def test_two_pushes_of_one_client_are_two_promises(registry: Registry) -> None:
    """Counted: the first manifest leaves one for the second."""
    plant_blobs(registry, "app", [LAYER, b"{}"])
    head(registry, BOB)
    head(registry, BOB)
    assert delete(registry, put(registry, BOB)).leased_bytes == len(LAYER)


def test_promises_that_are_asked_for_at_once_all_count(registry: Registry) -> None:
    """On PostgreSQL those that meet share a transaction."""
    plant_blobs(registry, "app", [LAYER])
    head_at_once(registry, BOB)
    assert pushes_promised(registry, BOB) == CROWD


def test_a_new_tag_redeems_nothing_that_was_promised_to_another_push(registry: Registry) -> None:
    """Jobs behind one address look like one client: one tags what is there and asks for nothing."""
    manifest = image_manifest([LAYER], annotations={"by": "the first job"})
    first = push_image(registry, "app", "v1", [LAYER])
    second = push_manifest(registry, "app", None, manifest)
    head(registry, ALICE)
    push_manifest(registry, "app", "v2", manifest)
    head(registry, ALICE, digest_of(b"{}"))
    delete(registry, second)
    assert delete(registry, first).leased_bytes == ALL_BYTES
    put(registry, ALICE)


def test_an_image_that_was_pushed_once_more_frees_its_bytes_at_once(registry: Registry) -> None:
    """Every blob is asked for again, and the manifest, which is stored already, redeems them."""
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, ALICE)
    head(registry, ALICE, digest_of(b"{}"))
    assert push_manifest(registry, "app", "v1", image_manifest([LAYER])) == digest
    assert delete(registry, digest).leased_bytes == 0


def test_who_may_only_pull_is_promised_nothing(registry: Registry) -> None:
    digest = push_image(registry, "app", "v1", [LAYER])
    stat_blob(registry, APP, DIGEST)
    assert delete(registry, digest).leased_bytes == 0


def test_what_is_not_there_is_not_promised(registry: Registry) -> None:
    with pytest.raises(BlobUnknown):
        head(registry, BOB)
    plant_image(registry, "other", "v1", [LAYER])
    with pytest.raises(BlobUnknown):
        head(registry, BOB)
    assert delete(registry, push_image(registry, "app", "v1", [LAYER])).leased_bytes == 0


def test_a_refused_manifest_redeems_nothing(registry: Registry) -> None:
    """Its client uploads what was missing and puts it again."""
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    with pytest.raises(ManifestBlobUnknown):
        push_manifest(registry, "app", None, image_manifest([LAYER, b"missing"]), BOB)
    assert delete(registry, digest).leased_bytes == len(LAYER)


def test_a_promise_that_ended_does_not_count_any_more(registry: Registry, clock: FakeClock) -> None:
    """Also when it was not swept up yet: the next one starts again from one."""
    plant_blobs(registry, "app", [LAYER, b"{}"])
    plant_image(registry, "app", "kept", [LAYER, b"kept"])
    for _ in range(3):
        head(registry, BOB)
    clock.advance(registry.limits.lease.total_seconds())
    head(registry, BOB)
    mine = put(registry, BOB)
    delete_manifest(registry, APP, mine, BOB)
    kept = plant_image(registry, "app", None, [LAYER])
    assert delete(registry, kept).leased_bytes == 0


def test_each_promise_prolongs_the_lease(registry: Registry, clock: FakeClock) -> None:
    """An hour from the last one, not from the first."""
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    delete(registry, digest)
    clock.advance(registry.limits.lease.total_seconds() - 1)
    head(registry, BOB)
    clock.advance(registry.limits.lease.total_seconds() - 1)
    settle(registry)
    assert stat_blob(registry, APP, DIGEST).size == len(LAYER)
    clock.advance(1)
    settle(registry)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, DIGEST)


def test_ended_promises_are_swept_up(registry: Registry, clock: FakeClock) -> None:
    push_blob(registry, "app", LAYER)
    clock.advance(registry.limits.lease.total_seconds())
    push_blob(registry, "app", b"another")
    expire_leases(registry)
    registry.leases.close(registry.db, clock())
    query = sa.select(space.leases.c.digest)
    assert registry.read(lambda tx: tx.execute_directly(query).scalars().all()) == [
        digest_of(b"another")
    ]


def test_bytes_that_another_repository_keeps_are_not_said_to_come_back(
    registry: Registry,
) -> None:
    """deletion.md section 1, promise 3: what a deletion predicts is what happens."""
    digest = push_image(registry, "app", "v1", [LAYER])
    plant_image(registry, "other", "v1", [LAYER])
    head(registry, BOB)
    assert delete(registry, digest) == Deleted((digest,), ("v1",), 0, 0)  # type: ignore[arg-type]


def test_promises_in_a_deleted_repository_are_kept_by_the_next_one(
    registry: Registry, clock: FakeClock
) -> None:
    """R16. They were made to a push, which knows nothing of the deletion; they end as any others.

    More of it in tests/deletion/test_pushes_while_repositories_go.py.
    """
    push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    delete_repository(registry, APP, ALICE)
    settle(registry)
    clock.advance(registry.limits.read_grace.total_seconds())
    settle(registry)
    assert stored_bytes(registry) == len(LAYER)
    head(registry, BOB)
    clock.advance(registry.limits.lease.total_seconds())
    settle(registry)
    clock.advance(registry.limits.read_grace.total_seconds())
    settle(registry)
    assert stored_bytes(registry) == 0
    with pytest.raises(ManifestBlobUnknown):
        put(registry, BOB)


def test_what_one_commit_redeems_and_two_deletions_in_it_pass_on_is_redeemed(
    registry: Registry,
) -> None:
    """SQLite commits several transactions as one, and promises are taken back once it has."""
    push_blob(registry, "app", LAYER, BOB)
    first = registry.read(lambda tx: find_repository(tx, APP))
    assert first is not None
    second, third = first + 1, first + 2
    now = registry.now()

    def redeem_and_delete_twice(tx: Transaction) -> None:
        registry.leases.redeem(tx, first, [DIGEST], BOB.pusher)
        registry.leases.leave(tx, first, now)
        registry.leases.follow(tx, first, second)
        registry.leases.leave(tx, second, now)
        registry.leases.follow(tx, second, third)

    registry.write(redeem_and_delete_twice)
    for repository_id in (first, second, third):
        promised = registry.read(
            lambda tx, id_=repository_id: registry.leases.leased_in(tx, id_, now)  # type: ignore[misc]
        )
        assert promised.digests == set()


# --- clients that ask twice -----------------------------------------------------------------------


def test_docker_asking_for_confirmation_is_promised_nothing_more(registry: Registry) -> None:
    """moby, blob_writer.go: Commit ends with a Stat of the blob that was just uploaded."""
    for data in (LAYER, b"{}"):
        push_blob(registry, "app", data, DOCKER)
        head(registry, DOCKER, digest_of(data))
    assert delete(registry, put(registry, DOCKER)).leased_bytes == 0


def test_of_docker_asking_many_times_at_once_one_is_the_confirmation(registry: Registry) -> None:
    """The upload is a promise, and so is each question but one."""
    push_blob(registry, "app", LAYER, DOCKER)
    head_at_once(registry, DOCKER)
    assert pushes_promised(registry, DOCKER) == CROWD


@pytest.mark.thorough
def test_of_promises_made_in_one_transaction_one_is_the_confirmation(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    registry = registry_on(postgres_db, store, clock)
    push_blob(registry, "app", LAYER, DOCKER)
    repository_id = registry.read(lambda tx: find_repository(tx, APP))
    assert repository_id is not None
    assert isinstance(registry.leases, SqlLeases)
    offers, began, may_end = registry.leases.offers, threading.Event(), threading.Event()

    def first(_: Sequence[datetime]) -> bool:
        began.set()
        return may_end.wait(30)

    key = (repository_id, DIGEST, DOCKER.pusher)
    with ThreadPoolExecutor(CROWD + 1) as crowd:
        # While this one is at it, all others gather behind it.
        crowd.submit(offers.join, key, clock(), first)
        assert began.wait(30)
        asked = [crowd.submit(head, registry, DOCKER) for _ in range(CROWD)]
        while offers.waiting(key) < CROWD:
            wait(asked, timeout=0.001)
        may_end.set()
        for each in asked:
            each.result()
    assert pushes_promised(registry, DOCKER) == CROWD
    assert_sound(registry)


def test_docker_asking_once_more_is_promised_something(registry: Registry) -> None:
    """One confirmation follows an upload; a second HEAD belongs to another push."""
    for data in (LAYER, b"{}"):
        push_blob(registry, "app", data, DOCKER)
        head(registry, DOCKER, digest_of(data))
    head(registry, DOCKER)
    assert delete(registry, put(registry, DOCKER)).leased_bytes == len(LAYER)


def test_a_late_confirmation_is_a_new_push(registry: Registry, clock: FakeClock) -> None:
    for data in (LAYER, b"{}"):
        push_blob(registry, "app", data, DOCKER)
    clock.advance(CONFIRM.total_seconds())
    head(registry, DOCKER)
    assert delete(registry, put(registry, DOCKER)).leased_bytes == len(LAYER)


def test_other_clients_asking_after_an_upload_are_promised_something(registry: Registry) -> None:
    """They do not ask for confirmation: it must be another push of the same client."""
    for data in (LAYER, b"{}"):
        push_blob(registry, "app", data, BOB)
    head(registry, BOB)
    assert delete(registry, put(registry, BOB)).leased_bytes == len(LAYER)


def test_docker_may_confirm_a_mount(registry: Registry) -> None:
    plant_image(registry, "other", "v1", [LAYER])
    push_blob(registry, "app", b"{}", DOCKER)
    mount_blob(registry, APP, OTHER, DIGEST, DOCKER)
    head(registry, DOCKER)
    deleted = delete(registry, put(registry, DOCKER))
    assert deleted.leased_bytes == 0


# --- mounts ---------------------------------------------------------------------------------------


def test_a_mount_is_a_promise(registry: Registry, clock: FakeClock) -> None:
    """R10: the source may go, the mounted blob stays for the manifest."""
    source = plant_image(registry, "other", "v1", [LAYER])
    plant_image(registry, "app", "kept", [b"kept"])
    mount_blob(registry, APP, OTHER, DIGEST, BOB)
    delete_manifest(registry, OTHER, source, ALICE)
    clock.advance(registry.limits.lease.total_seconds() - 1)
    settle(registry)
    assert delete(registry, put(registry, BOB)).freed_bytes == len(LAYER)


def test_a_mount_answers_the_question_that_was_asked_of_the_source(registry: Registry) -> None:
    """containers/image asks the source before it mounts: that promise is redeemed by the mount."""
    source = plant_image(registry, "other", "v1", [LAYER])
    head(registry, SKOPEO, name="other")
    mount_blob(registry, APP, OTHER, DIGEST, SKOPEO)
    delete_manifest(registry, OTHER, source, ALICE)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, OTHER, DIGEST)
    push_blob(registry, "app", b"{}", SKOPEO)
    assert delete(registry, put(registry, SKOPEO)).freed_bytes == len(LAYER) + len(b"{}")


def test_other_clients_mounting_keep_what_they_were_promised_in_the_source(
    registry: Registry,
) -> None:
    """They never ask there for the sake of a mount: it must be for a push to the source."""
    source = plant_image(registry, "other", "v1", [LAYER])
    head(registry, BOB, name="other")
    mount_blob(registry, APP, OTHER, DIGEST, BOB)
    delete_manifest(registry, OTHER, source, ALICE)
    assert stat_blob(registry, OTHER, DIGEST).size == len(LAYER)


def test_a_mount_leaves_other_promises_in_the_source_alone(registry: Registry) -> None:
    source = plant_image(registry, "other", "v1", [LAYER])
    head(registry, ALICE, name="other")
    mount_blob(registry, APP, OTHER, DIGEST, SKOPEO)
    delete_manifest(registry, OTHER, source, ALICE)
    assert stat_blob(registry, OTHER, DIGEST).size == len(LAYER)


@pytest.mark.parametrize("caller", [BOB, SKOPEO], ids=["any", "skopeo"])
def test_mounting_a_repository_s_own_blob_is_a_promise_like_any_other(
    registry: Registry, caller: Caller
) -> None:
    """The 201 says "you need not upload it", whatever the source."""
    digest = push_image(registry, "app", "v1", [LAYER])
    assert mount_blob(registry, APP, APP, DIGEST, caller)
    push_blob(registry, "app", b"{}", caller)
    delete(registry, digest)
    put(registry, caller)


# --- stopping, crashing, starting -----------------------------------------------------------------


def test_a_clean_stop_forgets_no_promise(installation: Installation, clock: FakeClock) -> None:
    digest = push_image(installation.registry, "app", "v1", [LAYER])
    head(installation.registry, BOB)
    clock.advance(60)
    installation.restart()
    registry = installation.registry
    deleted = delete(registry, digest)
    # And it adds none: nothing needs the config's bytes any more.
    assert (deleted.freed_bytes, deleted.leased_bytes) == (len(b"{}"), len(LAYER))
    # It still ends when it would have ended.
    clock.advance(registry.limits.lease.total_seconds() - 61)
    settle(registry)
    assert stat_blob(registry, APP, DIGEST).size == len(LAYER)
    clock.advance(1)
    settle(registry)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, DIGEST)


def test_after_a_crash_everything_older_counts_as_promised(
    installation: Installation, clock: FakeClock
) -> None:
    """Promises may have been forgotten, so for one period nothing that was there goes."""
    digest = push_image(installation.registry, "app", "v1", [LAYER])
    head(installation.registry, BOB)
    clock.advance(60)
    installation.crash()
    installation.start()
    registry = installation.registry
    deleted = delete(registry, digest)
    assert (deleted.freed_bytes, deleted.leased_bytes) == (0, ALL_BYTES)
    clock.advance(registry.limits.lease.total_seconds() - 1)
    settle(registry)
    assert stored_bytes(registry) == ALL_BYTES
    put(registry, BOB)
    wait_for_the_end(registry, clock)
    assert stored_bytes(registry) == ALL_BYTES


def test_after_a_crash_the_bytes_come_back_one_period_later(
    installation: Installation, clock: FakeClock
) -> None:
    digest = push_image(installation.registry, "app", "v1", [LAYER])
    installation.crash()
    installation.start()
    delete(installation.registry, digest)
    wait_for_the_end(installation.registry, clock)
    assert stored_bytes(installation.registry) == 0


def test_after_a_crash_what_is_new_goes_at_once(
    installation: Installation, clock: FakeClock
) -> None:
    """Whatever was linked after the start can have no forgotten promise."""
    push_image(installation.registry, "app", "old", [b"old"])
    installation.crash()
    installation.start()
    registry = installation.registry
    # Others that share the database notice when they first look; for SQLite that is the start.
    registry.db.write(lambda tx: registry.leases.running(tx, [], clock()))
    clock.advance(1)
    digest = push_image(registry, "app", "v1", [LAYER], config=b"{ }")
    assert delete(registry, digest).freed_bytes == len(LAYER) + len(b"{ }")


def test_a_clean_stop_after_a_crash_does_not_clear_the_suspicion(
    installation: Installation, clock: FakeClock
) -> None:
    digest = push_image(installation.registry, "app", "v1", [LAYER])
    head(installation.registry, BOB)
    installation.crash()
    installation.start()
    clock.advance(60)
    installation.restart()
    assert delete(installation.registry, digest).freed_bytes == 0
    clock.advance(installation.registry.limits.lease.total_seconds() - 60)
    wait_for_the_end(installation.registry, clock)
    assert stored_bytes(installation.registry) == 0


def test_a_start_that_has_forgotten_promises_says_until_when_bytes_stay(
    installation: Installation, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/guides/trouble.md, "A process was killed": once, and not after a clean stop."""
    push_image(installation.registry, "app", "v1", [LAYER])
    installation.restart()
    assert caplog.records == []
    period = installation.registry.limits.lease
    installation.crash()
    installation.start()
    until = (clock() + period).astimezone()
    by = "%H:%M" if until.date() == clock().astimezone().date() else "%Y-%m-%d %H:%M"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert re.fullmatch(
        r"the last stop( of the database server)? was not clean: what was promised to pushes is "
        rf"unknown, so the bytes of deletions stay until {until.strftime(by)} \(--lease\)",
        record.getMessage(),
    )
    installation.restart()
    assert len(caplog.records) == 1


def test_a_new_registry_has_nothing_to_forget(
    installation: Installation, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    installation.crash()
    installation.start()
    registry = installation.registry
    assert delete(registry, push_image(registry, "app", "v1", [LAYER])).freed_bytes == ALL_BYTES
    assert caplog.records == []


@pytest.mark.thorough
def test_a_server_crash_under_running_processes_is_noticed(
    postgres_db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    """PostgreSQL restarts and has emptied the UNLOGGED tables; our processes never stopped."""
    registry = registry_on(postgres_db, store, clock)
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    clock.advance(60)
    for table in (space.leases, space.lease_memory):
        registry.write(lambda tx, table=table: tx.execute_directly(table.delete()))  # type: ignore[misc]
    assert delete(registry, digest).freed_bytes == 0
    put(registry, BOB)
    assert_sound(registry)


# --- the clock is set (R31) -----------------------------------------------------------------------


# On PostgreSQL every process goes by the database server's clock, and nothing can be done about it.


@pytest.fixture
def on_sqlite(tmp_path: Path, store: MemoryBlobStore, clock: FakeClock) -> Iterator[Installation]:
    """A registry to stop and start, on SQLite."""
    installation = Installation(f"sqlite:///{tmp_path / 'ullage.db'}", store, clock)
    yield installation
    assert_sound(installation.registry)
    installation.end_process()


@pytest.mark.parametrize("hours", [25, -25, 24 * 366])
def test_a_clock_that_is_set_refuses_no_client(
    on_sqlite: Installation, clock: FakeClock, hours: int
) -> None:
    """reliability.md F26: deadlines move along."""
    registry = on_sqlite.registry
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    head(registry, BOB, digest_of(b"{}"))
    upload = start_upload(registry, APP, BOB)
    delete(registry, digest)
    push_blob(registry, "app", b"uploaded", BOB)

    clock.advance(hours * 3600)
    shift_deadlines(registry, timedelta(hours=hours))
    expire_leases(registry)
    settle(registry)

    get_upload(registry, APP, upload.id, BOB)
    put(registry, BOB)
    assert stat_blob(registry, APP, digest_of(b"uploaded")).size == 8
    # And nothing is kept longer than it would have been.
    clock.advance(registry.limits.upload_idle.total_seconds())
    assert expire_uploads(registry) == 1
    wait_for_the_end(registry, clock)
    assert stored_bytes(registry) == ALL_BYTES


def test_a_deletion_after_the_clock_was_set_keeps_what_was_promised_before(
    on_sqlite: Installation, clock: FakeClock
) -> None:
    """The promise itself moves along, and not only the next look at what it keeps."""
    registry = on_sqlite.registry
    digest = push_image(registry, "app", "v1", [LAYER])
    head(registry, BOB)
    head(registry, BOB, digest_of(b"{}"))
    clock.advance(25 * 3600)
    shift_deadlines(registry, timedelta(hours=25))
    expire_leases(registry)
    assert delete(registry, digest).leased_bytes == ALL_BYTES
    put(registry, BOB)


def test_a_clock_set_back_delays_no_erasing(on_sqlite: Installation, clock: FakeClock) -> None:
    """deletion.md section 1, promise 2: in seconds, also bytes that were about to come back."""
    registry = on_sqlite.registry
    delete(registry, push_image(registry, "app", "v1", [LAYER]))
    clock.advance(-25 * 3600)
    shift_deadlines(registry, timedelta(hours=-25))
    clock.advance(registry.limits.read_grace.total_seconds())
    assert reclaim_due(registry) == 2
    assert stored_bytes(registry) == 0


def test_a_clock_set_back_after_a_crash_uncovers_nothing(
    on_sqlite: Installation, clock: FakeClock
) -> None:
    """What was there before the start stays older than the start."""
    digest = push_image(on_sqlite.registry, "app", "v1", [LAYER])
    head(on_sqlite.registry, BOB)
    head(on_sqlite.registry, BOB, digest_of(b"{}"))
    on_sqlite.crash()
    on_sqlite.start()
    registry = on_sqlite.registry
    clock.advance(-25 * 3600)
    shift_deadlines(registry, timedelta(hours=-25))
    assert delete(registry, digest).freed_bytes == 0
    put(registry, BOB)


# --- a promise and a deletion at the same moment, in one process ----------------------------------


@pytest.fixture
def linked(sqlite_db: Database, store: MemoryBlobStore, clock: FakeClock) -> Iterator[Registry]:
    """A registry on SQLite, with a blob in `app` that nothing needs."""
    registry = registry_on(sqlite_db, store, clock)
    plant_blobs(registry, "app", [LAYER])
    yield registry
    assert_sound(registry)


class Undone(Exception):
    """Undoes a transaction."""


def release(registry: Registry, tx: Transaction) -> Released:
    """What a deletion does last."""
    repository_id = lock_repository(tx, APP)
    assert repository_id is not None
    return release_links(
        tx,
        registry.leases,
        repository_id,
        [DIGEST],
        now=registry.now(),
        due=Due(registry.now(), timedelta(0)),
    )


def offered(registry: Registry) -> bool:
    try:
        head(registry, BOB)
    except BlobUnknown:
        return False
    return True


def test_a_promise_before_the_deletion_looks_is_kept(linked: Registry) -> None:
    assert offered(linked)
    assert linked.write(lambda tx: release(linked, tx)).freed_bytes == 0
    assert stat_blob(linked, APP, DIGEST).size == len(LAYER)


def test_a_deletion_right_after_a_head_has_looked_finds_its_promise(
    linked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R3: the promise is made first, and only then is the link looked at."""
    look = linked.db.cached_read

    def look_and_delete(key: Any, work: Any, weigh: Any) -> Any:
        found = look(key, work, weigh)
        if key[0] == "linked":
            assert linked.write(lambda tx: release(linked, tx)).freed_bytes == 0
        return found

    monkeypatch.setattr(linked.db, "cached_read", look_and_delete)
    assert offered(linked)
    monkeypatch.undo()
    assert stat_blob(linked, APP, DIGEST).size == len(LAYER)


def test_no_promise_is_made_from_the_look_to_the_commit(linked: Registry) -> None:
    """The reader still sees the link; only the mark says that it is going."""

    def work(tx: Transaction) -> None:
        assert release(linked, tx).freed_bytes == len(LAYER)
        assert stat_blob(linked, APP, DIGEST).size == len(LAYER)
        assert not offered(linked)

    linked.write(work)
    assert not offered(linked)
    # Nor did the refused question leave a promise behind.
    assert push_blob(linked, "app", LAYER, ALICE)
    push_blob(linked, "app", b"{}", ALICE)
    assert delete(linked, put(linked, ALICE)).leased_bytes == 0


def test_a_deletion_that_is_undone_leaves_promises_possible(linked: Registry) -> None:
    def work(tx: Transaction) -> None:
        release(linked, tx)
        raise Undone

    with pytest.raises(Undone):
        linked.write(work)
    assert offered(linked)
    assert linked.write(lambda tx: release(linked, tx)).freed_bytes == 0


def test_of_two_deletions_the_first_to_end_does_not_lift_the_mark(linked: Registry) -> None:
    """Two looks in one transaction, of which a shared commit may have many."""

    def twice(tx: Transaction) -> None:
        repository_id = lock_repository(tx, APP)
        assert repository_id is not None
        links = [Link(repository_id, DIGEST, linked.now())]
        assert linked.leases.running(tx, links, linked.now()) == {}
        release(linked, tx)
        assert not offered(linked)

    linked.write(twice)
    push_blob(linked, "app", LAYER, BOB)
    assert offered(linked)


def test_a_session_may_finish_while_the_same_blob_goes(linked: Registry) -> None:
    """R9: the upload's transaction comes after the deletion's, and finds no row: a new copy."""
    upload = start_upload(linked, APP, BOB)
    session = append_upload(linked, APP, upload.id, BOB)
    session.write(LAYER)
    linked.write(lambda tx: release(linked, tx))
    blob = session.commit(DIGEST)
    settle(linked)
    assert linked.blobs.size(blob.key) == len(LAYER)
    assert stored_bytes(linked) == len(LAYER)
