"""Uploads that come together share a transaction on PostgreSQL (deletion.md section 3.3)."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.registry import ALICE, plain_manifest, push_image, push_manifest, settle
from tests.support.soundness import assert_sound
from tests.support.statements import listened
from ullage.blobs.memory import MemoryBlobStore
from ullage.database import postgresql
from ullage.database.postgresql import PostgresDatabase
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_repository
from ullage.oci.digest import digest_of
from ullage.oci.errors import BlobUploadUnknown, ManifestBlobUnknown, NameUnknown
from ullage.oci.reference import RepositoryName, parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.pull.read import stat_blob
from ullage.registry.push.prepared import Left, Prepared, commit, commit_each
from ullage.registry.push.sessions import cancel_upload, start_upload
from ullage.registry.push.sessions_in_memory import MemorySessions
from ullage.registry.push.tickets import open_tickets
from ullage.registry.push.uploads import prepare_blob
from ullage.registry.queries import audit
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.server.http.threads import Threads
from ullage.server.http.write_batches import WriteBatches

pytestmark = pytest.mark.postgresql

NAMES = [parse_repository_name(f"app{number}") for number in range(4)]
APP, WEB = NAMES[:2]


@pytest.fixture
def process(postgres_db: Database, clock: FakeClock) -> Callable[[], Registry]:
    store = MemoryBlobStore()

    def make() -> Registry:
        return replace(
            registry_on(postgres_db, store, clock),
            memory_sessions=MemorySessions(),
            tickets=open_tickets(postgres_db, "a secret"),
            process="one",
        )

    return make


@pytest.fixture
def registry(process: Callable[[], Registry]) -> Registry:
    registry = process()
    for name in NAMES:
        push_image(registry, name, "v1", [b"first"])
    return registry


def prepared(registry: Registry, name: RepositoryName, data: bytes) -> Prepared[StoredBlob]:
    upload = start_upload(registry, name, ALICE)
    return prepare_blob(registry, name, upload.id, ALICE, digest_of(data), [data])


def test_many_uploads_cost_as_many_statements_as_one(registry: Registry) -> None:
    """For four repositories and twelve blobs; each has an entry in the audit log."""
    # Its connection is made.
    commit_each(registry, [prepared(registry, APP, b"first of all")])
    one = prepared(registry, APP, b"alone")
    several = [prepared(registry, NAMES[n % 4], b"%d" % n) for n in range(12)]
    heard: list[list[str]] = []
    for batch in ([one], several):
        with listened(registry.db) as statements:
            outcomes = commit_each(registry, batch)
        heard.append(statements)
        assert all(isinstance(outcome, StoredBlob) for outcome in outcomes)
    assert len(heard[0]) == len(heard[1])
    assert sum(each == "COMMIT" for each in heard[1]) == 1
    for n in range(12):
        assert stat_blob(registry, NAMES[n % 4], digest_of(b"%d" % n)).size == len(b"%d" % n)
    actions = registry.read(lambda tx: [each.action for each in audit.entries(tx, limit=1000)])
    assert actions.count("blob.upload") == 14 + 2 * len(NAMES)
    settle(registry)
    assert_sound(registry)


def test_one_blob_that_comes_twice_is_stored_once(registry: Registry) -> None:
    """R19: to two repositories, and to one of them twice, together with what is there already."""
    same = [prepared(registry, name, b"same") for name in (APP, APP, WEB)]
    there = prepared(registry, WEB, b"first")
    ended = commit_each(registry, [*same, there])
    # What met a copy that nobody has looked at goes apart, and so do those beside it.
    assert isinstance(ended[3], Left)
    outcomes = [
        commit(registry, each.prepared) if isinstance(each, Left) else each for each in ended
    ]
    assert len({outcome.key for outcome in outcomes[:3]}) == 1
    assert outcomes[3].key == stat_blob(registry, APP, digest_of(b"first")).key
    settle(registry)
    assert sorted({found.size for found in registry.blobs.list()}) == [2, 4, 5]
    assert len(list(registry.blobs.list())) == 3
    assert_sound(registry)


def test_what_fails_undoes_only_itself(registry: Registry) -> None:
    good = [prepared(registry, name, b"%d" % n) for n, name in enumerate(NAMES)]
    upload = start_upload(registry, APP, ALICE)
    bad = prepare_blob(registry, APP, upload.id, ALICE, digest_of(b"bad"), [b"bad"])
    cancel_upload(registry, APP, upload.id, ALICE)
    outcomes = commit_each(registry, [*good[:2], bad, *good[2:]])
    assert all(isinstance(outcome, Left) for outcome in outcomes)
    for outcome in outcomes:
        if outcome.prepared is bad:
            with pytest.raises(BlobUploadUnknown):
                commit(registry, bad)
        else:
            commit(registry, outcome.prepared)
    for n, name in enumerate(NAMES):
        assert stat_blob(registry, name, digest_of(b"%d" % n)).size == 1
    settle(registry)
    assert len(list(registry.blobs.list())) == len(NAMES) + 2
    assert_sound(registry)


def test_a_repository_that_is_busy_holds_up_no_other_s_pushes(
    registry: Registry, emptied_postgres_url: str
) -> None:
    """R26: a deletion has locked its row. What goes there waits, on a thread of its own."""
    threads = Threads(4, inline_reads=False)

    async def run() -> None:
        batches = WriteBatches(registry, threads)

        def push(name: RepositoryName, data: bytes) -> asyncio.Future[StoredBlob]:
            upload = start_upload(registry, name, ALICE)
            return asyncio.ensure_future(
                batches.run(
                    lambda: prepare_blob(registry, name, upload.id, ALICE, digest_of(data), [data]),
                    len(data),
                    needs_database=False,
                )
            )

        with psycopg.connect(emptied_postgres_url) as other:
            other.execute("SELECT FROM repositories WHERE name = %s FOR UPDATE", [WEB])
            held = push(WEB, b"held")
            for n in range(5):
                assert (await push(APP, b"%d" % n)).size == 1
            assert not held.done()
            other.rollback()
        assert (await held).size == 4

    try:
        asyncio.run(run())
    finally:
        threads.close()
    assert_sound(registry)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.thorough
def test_batches_of_two_processes_and_deletions_never_wait_for_each_other_in_a_circle(
    process: Callable[[], Registry],
    postgres_db: Database,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    """Repositories in name order, blobs in digest order. A deadlock would be tried again unseen."""
    deadlocks = []
    worth = postgresql._worth_another_try

    def watched(error: Any) -> bool:
        if getattr(error.orig, "sqlstate", None) == "40P01":
            deadlocks.append(str(error))
        return worth(error)

    monkeypatch.setattr(postgresql, "_worth_another_try", watched)
    # Nothing gives up before a deadlock would be noticed.
    assert isinstance(postgres_db, PostgresDatabase)
    monkeypatch.setattr(postgres_db, "_hurried", postgres_db._engine)
    pool = [b"shared %d" % n for n in range(8)]
    failures: list[BaseException] = []

    def guarded(work: Callable[[Registry, random.Random], None], number: int) -> None:
        try:
            work(process(), random.Random(seed * 10 + number))
        except BaseException as error:  # noqa: BLE001 - raised by the test
            failures.append(error)

    def push(registry: Registry, choice: random.Random) -> None:
        for _ in range(12):
            goes = [(choice.choice(NAMES), choice.choice(pool)) for _ in range(6)]
            for outcome in commit_each(registry, [prepared(registry, *each) for each in goes]):
                if isinstance(outcome, Left):
                    commit(registry, outcome.prepared)
                elif isinstance(outcome, BaseException):
                    raise outcome
            name, data = choice.choice(goes)
            push_config_only(registry, name, data)

    def delete(registry: Registry, choice: random.Random) -> None:
        for _ in range(15):
            with suppress(NameUnknown):
                delete_repository(registry, choice.choice(NAMES), ALICE)
            settle(registry)

    workers = [
        threading.Thread(target=guarded, args=(work, number))
        for number, work in enumerate((push, push, push, delete))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert deadlocks == []
    registry = process()
    settle(registry)
    assert_sound(registry)


def push_config_only(registry: Registry, name: RepositoryName, data: bytes) -> None:
    """A manifest of one blob, which was promised."""
    try:
        push_manifest(registry, name, "v1", plain_manifest(data))
    except ManifestBlobUnknown:
        raise AssertionError(f"{name} was promised {data!r}") from None
