"""A repository is deleted again and again while clients push to it: no push is refused (race R16).

What a client was promised (an upload acknowledged, a HEAD answered 200, a mount, an open session)
lives on under the repository's name; once the promises are redeemed or have ended, all of it comes
back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import pytest

from tests.support.cleaning import wait_days
from tests.support.clock import FakeClock
from tests.support.fixtures import Installation, registry_on
from tests.support.planting import image_manifest, plant_image
from tests.support.registry import ALICE, push_blob, push_image, push_manifest, settle
from tests.support.soundness import assert_sound
from tests.support.undoing import assert_explained, hard, operations, soft, stands
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest, delete_repository
from ullage.deletion.reclaim import erase_deleted
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
)
from ullage.oci.reference import parse_repository_name
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.pull.read import get_manifest, list_repositories, open_blob, stat_blob_for_push
from ullage.registry.push.links import mount_blob
from ullage.registry.push.sessions import cancel_upload, get_upload, start_upload
from ullage.registry.push.sessions_in_memory import open_memory_sessions
from ullage.registry.push.uploads import append_upload, finish_upload
from ullage.registry.quarantine import quarantine_blob
from ullage.registry.queries.content.blobs import find_blob
from ullage.restore.deleted import free_all
from ullage.restore.restore import restore_operation

pytestmark = pytest.mark.thorough

APP, BASE = parse_repository_name("app"), parse_repository_name("base")
BOB = Caller(subject="bob", address="192.0.2.2", agent="test")
GUARDRAILS = ("empty-repository", "most-of-repository", "only-tag", "newest-image")
PUSHERS, PUSHES = 3, 25
SHARED, CONFIG = b"shared by all", b"{}"


@pytest.fixture
def registry(db: Database, clock: FakeClock) -> Iterator[Registry]:
    """With sessions in memory where the server has them there; sound when the test is over."""
    registry = registry_on(db, MemoryBlobStore(), clock)
    registry = replace(registry, memory_sessions=open_memory_sessions(db))
    yield registry
    assert_sound(registry)
    assert check(registry, Mode.DEFAULT).findings == ()
    assert_explained(registry)


# --- deleting in every way ------------------------------------------------------------------------


def _delete(registry: Registry) -> None:
    delete_repository(registry, APP, ALICE)


def _plan(registry: Registry) -> None:
    wanted = PlanRequest(repositories=(APP,))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    apply_plan(registry, plan.id, ALICE, allow=GUARDRAILS)


class Way(NamedTuple):
    """How the repository is deleted, and with soft delete on or not."""

    delete: Callable[[Registry], None]
    softly: bool


WAYS = {
    "deleted": Way(_delete, softly=False),
    "deleted-softly": Way(_delete, softly=True),
    "by-plan": Way(_plan, softly=False),
    "by-plan-softly": Way(_plan, softly=True),
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# --- the race -------------------------------------------------------------------------------------


class Pusher:
    """One client, that pushes images as docker, buildah and others do, each in turn."""

    def __init__(self, registry: Registry, number: int) -> None:
        self._registry = registry
        self._number = number
        self._caller = Caller(f"pusher {number}", f"192.0.2.{number}", "test")

    def push(self, n: int) -> None:
        own = b"of %d, number %d" % (self._number, n)
        self._have(SHARED, n)
        self._have(CONFIG, n + 1)
        self._upload(own, n)
        manifest = image_manifest([SHARED, own], config=CONFIG)
        push_manifest(self._registry, APP, f"by-{self._number}", manifest, self._caller)

    def _have(self, data: bytes, n: int) -> None:
        """Ask for it or mount it, and upload it only if need be."""
        digest = digest_of(data)
        if n % 3 == 2 and mount_blob(self._registry, APP, BASE, digest, self._caller):
            return
        try:
            stat_blob_for_push(self._registry, APP, digest, self._caller)
        except BlobUnknown:
            self._upload(data, n)

    def _upload(self, data: bytes, n: int) -> None:
        """In one piece, or in two requests."""
        registry, caller = self._registry, self._caller
        upload = start_upload(registry, APP, caller)
        half = len(data) // 2 if n % 2 else 0
        if half:
            session = append_upload(registry, APP, upload.id, caller, start=0)
            session.write(data[:half])
            session.close()
        finish_upload(registry, APP, upload.id, caller, digest_of(data), [data[half:]], half)


@pytest.mark.parametrize("softly", [False, True])
def test_no_push_is_refused_while_its_repository_is_deleted_in_a_loop(
    registry: Registry, softly: bool
) -> None:
    (soft if softly else hard)(registry)
    plant_image(registry, BASE, "v1", [SHARED], config=CONFIG)
    over = threading.Event()

    def delete() -> int:
        count = 0
        while not over.is_set():
            # Or nothing was pushed since.
            with suppress(NameUnknown):
                delete_repository(registry, APP, ALICE)
                count += 1
        return count

    def erase() -> None:
        while not over.is_set():
            settle(registry)

    def push(number: int) -> None:
        pusher = Pusher(registry, number)
        for n in range(PUSHES):
            pusher.push(n)

    with ThreadPoolExecutor(PUSHERS + 2) as threads:
        deleting, erasing = threads.submit(delete), threads.submit(erase)
        pushing = [threads.submit(push, number) for number in range(1, PUSHERS + 1)]
        try:
            for each in pushing:
                each.result()
        finally:
            over.set()
        erasing.result()
        assert deleting.result() > 0
    _everything_comes_back(registry)


def _everything_comes_back(registry: Registry) -> None:
    """When promises have ended nothing is left but what the other repository has."""
    hard(registry)
    free_all(registry, WITHOUT_ACCOUNTS, ALICE)
    if stands(registry, APP):
        delete_repository(registry, APP, ALICE)
    wait_days(registry, 1)
    settle(registry)
    wait_days(registry, 1)
    settle(registry)
    sizes = sorted(found.size for found in registry.blobs.list())
    assert sizes == sorted((len(SHARED), len(CONFIG)))


# --- one push, one deletion -----------------------------------------------------------------------


def _there(registry: Registry, digest: Digest) -> bool:
    return digest in stands(registry, APP)


@each_way
def test_what_was_uploaded_before_the_deletion_is_there_for_its_manifest(
    registry: Registry, way: Way
) -> None:
    """Its layer in no other repository; nothing else of the old one is there."""
    old = plant_image(registry, APP, "old", [b"old"])
    for data in (b"layer", CONFIG):
        push_blob(registry, APP, data, BOB)
    (soft if way.softly else hard)(registry)
    way.delete(registry)
    assert list_repositories(registry, 9, None, WITHOUT_ACCOUNTS).items == ()
    with pytest.raises(NameUnknown):
        get_manifest(registry, APP, old)
    settle(registry)
    new = push_manifest(registry, APP, "new", image_manifest([b"layer"]), BOB)
    assert stands(registry, APP).keys() == {new}
    with pytest.raises(BlobUnknown):
        open_blob(registry, APP, digest_of(b"old"))
    # It has redeemed what was promised: its own deletion gives everything back at once.
    hard(registry)
    assert delete_manifest(registry, APP, new, ALICE).leased_bytes == 0


@each_way
def test_a_head_that_was_answered_before_the_deletion_is_kept(registry: Registry, way: Way) -> None:
    """The deleted image has the blobs, and keeps its own links where it can be restored."""
    old = plant_image(registry, APP, "old", [b"layer"])
    for data in (b"layer", CONFIG):
        stat_blob_for_push(registry, APP, digest_of(data), BOB)
    (soft if way.softly else hard)(registry)
    way.delete(registry)
    settle(registry)
    new = push_manifest(registry, APP, "new", image_manifest([b"layer"], by="bob"), BOB)
    assert stands(registry, APP).keys() == {new}
    for operation in operations(registry):
        restore_operation(registry, operation.id, ALICE)
        assert stands(registry, APP).keys() == {old, new}


@each_way
def test_an_upload_that_is_open_goes_on(registry: Registry, way: Way) -> None:
    """Before its first byte, in the middle, and after its last answer was lost."""
    plant_image(registry, APP, "old", [b"old"])
    first, middle, last = (start_upload(registry, APP, BOB) for _ in range(3))
    session = append_upload(registry, APP, middle.id, BOB, start=0)
    session.write(b"mid")
    session.close()
    finish_upload(registry, APP, last.id, BOB, digest_of(CONFIG), [CONFIG])
    (soft if way.softly else hard)(registry)
    way.delete(registry)
    settle(registry)
    assert get_upload(registry, APP, middle.id, BOB).offset == 3
    finish_upload(registry, APP, first.id, BOB, digest_of(b"first"), [b"first"])
    finish_upload(registry, APP, middle.id, BOB, digest_of(b"middle"), [b"dle"], 3)
    finish_upload(registry, APP, last.id, BOB, digest_of(CONFIG))
    new = push_manifest(registry, APP, "new", image_manifest([b"first", b"middle"]), BOB)
    assert _there(registry, new)


def test_a_request_that_is_in_the_middle_of_its_body_goes_on(registry: Registry) -> None:
    plant_image(registry, APP, "old", [b"old"])
    uploads = [start_upload(registry, APP, BOB) for _ in range(3)]
    chunk, end, gone = (append_upload(registry, APP, each.id, BOB, start=0) for each in uploads)
    for session in (chunk, end, gone):
        session.write(b"half")
    delete_repository(registry, APP, ALICE)
    settle(registry)
    assert chunk.close().offset == 4
    end.commit(digest_of(b"half"))
    gone.abandon()
    for each in (uploads[0], uploads[2]):
        cancel_upload(registry, APP, each.id, BOB)
    wait_days(registry, 1)
    settle(registry)
    wait_days(registry, 1)
    settle(registry)
    assert list(registry.blobs.list()) == []


def test_nothing_is_promised_after_a_deletion_that_was_not_promised_before(
    registry: Registry,
) -> None:
    """Nor is another client's promise: each has its own."""
    plant_image(registry, APP, "old", [b"layer"])
    stat_blob_for_push(registry, APP, digest_of(CONFIG), BOB)
    delete_repository(registry, APP, ALICE)
    with pytest.raises(BlobUnknown):
        stat_blob_for_push(registry, APP, digest_of(b"layer"), BOB)
    with pytest.raises(ManifestBlobUnknown):
        push_manifest(registry, APP, "new", image_manifest([b"layer"]), BOB)
    # The link is there, so it can be promised to others.
    stat_blob_for_push(registry, APP, digest_of(CONFIG), ALICE)


def test_promises_outlive_any_number_of_deletions_and_end_when_they_would_have(
    registry: Registry,
) -> None:
    push_blob(registry, APP, b"layer", BOB)
    for n in range(3):
        push_image(registry, APP, f"v{n}", [b"own %d" % n])
        delete_repository(registry, APP, ALICE)
        settle(registry)
        wait_days(registry, 0.2 / 24)
        settle(registry)
    assert b"layer" in _contents(registry)
    wait_days(registry, 0.5 / 24)
    settle(registry)
    wait_days(registry, 1 / 1440)
    settle(registry)
    assert _contents(registry) == []


def _contents(registry: Registry) -> list[bytes]:
    found = []
    for each in registry.blobs.list():
        with registry.blobs.open(each.key, each.size) as reader:
            found.append(reader.read_at(0, reader.size))
    return found


def test_a_deletion_that_is_rolled_back_has_moved_no_promise(registry: Registry) -> None:
    """It comes after the look at what is promised: the transaction fails as a whole."""
    plant_image(registry, APP, "old", [b"layer"])
    for data in (b"layer", CONFIG):
        stat_blob_for_push(registry, APP, digest_of(data), BOB)

    class Stumble(Exception):
        pass

    def fail(*_: object, **__: object) -> None:
        raise Stumble

    stumbling = replace(registry)
    object.__setattr__(stumbling, "audit", fail)
    with pytest.raises(Stumble):
        delete_repository(stumbling, APP, ALICE)
    old = next(iter(stands(registry, APP)))
    deleted = delete_manifest(registry, APP, Digest(old), ALICE)
    assert deleted.leased_bytes == len(b"layer") + len(CONFIG)
    assert push_manifest(registry, APP, "new", image_manifest([b"layer"]), BOB)


def test_damaged_bytes_are_kept_for_no_promise_and_pushed_anew(registry: Registry) -> None:
    """damage.md section 3: the client is told that they are not there; its upload heals them."""
    push_image(registry, APP, "old", [b"old"])
    for data in (b"layer", CONFIG):
        push_blob(registry, APP, data, BOB)
    blob = registry.read(lambda tx: find_blob(tx, APP, digest_of(b"layer")))
    assert blob is not None
    assert quarantine_blob(registry, blob.digest, blob.key, "damaged by the test")
    wanted = PlanRequest(repositories=(APP,))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    assert plan.freed_later_bytes == len(CONFIG)
    apply_plan(registry, plan.id, ALICE, allow=GUARDRAILS)
    assert_sound(registry)
    manifest = image_manifest([b"layer"])
    with pytest.raises(ManifestBlobUnknown):
        push_manifest(registry, APP, "new", manifest, BOB)
    push_blob(registry, APP, b"layer", BOB)
    assert _there(registry, push_manifest(registry, APP, "new", manifest, BOB))


def test_a_plan_of_several_repositories_leaves_each_what_it_promised(registry: Registry) -> None:
    """And both what they promised together."""
    for name in (APP, BASE):
        plant_image(registry, name, "old", [b"old of " + name.encode()])
        push_blob(registry, name, b"own of " + name.encode(), BOB)
        for data in (SHARED, CONFIG):
            push_blob(registry, name, data, BOB)
    wanted = PlanRequest(repositories=(BASE, APP))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    later = sum(map(len, (b"own of app", b"own of base", SHARED)))
    assert plan.freed_later_bytes == later + len(CONFIG)
    receipt = apply_plan(registry, plan.id, ALICE, allow=GUARDRAILS)
    assert receipt.freed_bytes == plan.freed_bytes
    settle(registry)
    for name in (APP, BASE):
        manifest = image_manifest([SHARED, b"own of " + name.encode()])
        new = push_manifest(registry, name, "new", manifest, BOB)
        assert stands(registry, name).keys() == {new}


# --- plans and undoing ----------------------------------------------------------------------------


def test_a_plan_says_what_pushers_keep_and_frees_the_rest_to_the_byte(registry: Registry) -> None:
    plant_image(registry, APP, "v1", [b"goes", b"is promised", SHARED])
    plant_image(registry, BASE, "v1", [SHARED])
    for data in (b"is promised", SHARED):
        stat_blob_for_push(registry, APP, digest_of(data), BOB)
    push_blob(registry, APP, b"uploaded", BOB)
    wanted = PlanRequest(repositories=(APP,))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    later = len(b"is promised") + len(b"uploaded")
    assert (plan.freed_bytes, plan.freed_later_bytes) == (len(b"goes"), later)
    before = sum(found.size for found in registry.blobs.list())
    receipt = apply_plan(registry, plan.id, ALICE, allow=GUARDRAILS)
    assert (receipt.freed_bytes, receipt.freed_later_bytes) == (len(b"goes"), later)
    settle(registry)
    wait_days(registry, 1 / 1440)
    settle(registry)
    assert sum(found.size for found in registry.blobs.list()) == before - len(b"goes")


def test_a_repository_of_which_pushers_keep_something_comes_back_as_it_was(
    registry: Registry,
) -> None:
    """As a row, however large it is; and they find there what they were promised."""
    soft(registry)
    push_image(registry, APP, "v1", [b"layer"])
    before = stands(registry, APP)
    stat_blob_for_push(registry, APP, digest_of(b"layer"), BOB)
    push_blob(registry, APP, b"uploaded", BOB)
    upload = start_upload(registry, APP, BOB)
    session = append_upload(registry, APP, upload.id, BOB, start=0)
    session.write(b"half")
    session.close()
    operation = delete_repository(registry, APP, ALICE).operation
    assert operation is not None
    settle(registry)
    restore_operation(registry, operation, ALICE)
    settle(registry)
    assert stands(registry, APP) == before
    assert get_upload(registry, APP, upload.id, BOB).offset == 4
    push_blob(registry, APP, CONFIG, BOB)
    push_manifest(registry, APP, "v2", image_manifest([b"layer", b"uploaded"]), BOB)


# --- after a crash --------------------------------------------------------------------------------


def test_what_may_have_been_promised_before_a_crash_is_kept_too(
    ready_url: str, clock: FakeClock
) -> None:
    """For one lease everything counts as promised, also across a deletion of its repository."""
    installation = Installation(ready_url, MemoryBlobStore(), clock)
    plant_image(installation.registry, APP, "old", [b"layer"])
    for data in (b"layer", CONFIG):
        stat_blob_for_push(installation.registry, APP, digest_of(data), BOB)
    installation.crash()
    clock.advance(1)
    installation.start()
    registry = installation.registry
    delete_repository(registry, APP, ALICE)
    while erase_deleted(registry):
        pass
    push_manifest(registry, APP, "new", image_manifest([b"layer"]), BOB)
    with pytest.raises(ManifestUnknown):
        get_manifest(registry, APP, digest_of(b"no such manifest"))
    assert_sound(registry)
    installation.stop()
