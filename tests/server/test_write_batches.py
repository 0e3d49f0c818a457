"""Small pushes in batches (docs/design/architecture.md): one commit, and each for itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.registry import ALICE, make_registry
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.errors import DatabaseBusy
from ullage.database.sqlite.database import SqliteDatabase
from ullage.database.transaction import Transaction
from ullage.oci.digest import digest_of
from ullage.oci.errors import BlobUploadUnknown, DigestInvalid, Unavailable
from ullage.oci.reference import parse_repository_name
from ullage.registry.context import Registry
from ullage.registry.pull.read import stat_blob
from ullage.registry.push.prepared import AlreadyDone, Prepared
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.uploads import prepare_blob
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.server.http import write_batches
from ullage.server.http.threads import Threads
from ullage.server.http.write_batches import SMALL_BYTES, WriteBatches

APP = parse_repository_name("app")


@pytest.fixture
def registry(tmp_path: Path, clock: FakeClock) -> Iterator[Registry]:
    registry = make_registry(f"sqlite:///{tmp_path / 'ullage.db'}", MemoryBlobStore(), clock)
    yield registry
    registry.db.close()


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2, inline_reads=True)
    yield threads
    threads.close()


def commits(registry: Registry) -> int:
    assert isinstance(registry.db, SqliteDatabase)
    return registry.db._writer.commits


def pushing(
    registry: Registry, data: bytes, claimed: bytes | None = None
) -> Callable[[], Prepared[StoredBlob]]:
    """What prepares a push of `data` under the digest of `claimed`."""
    upload = start_upload(registry, APP, ALICE)
    digest = digest_of(data if claimed is None else claimed)
    return lambda: prepare_blob(registry, APP, upload.id, ALICE, digest, [data], 0)


def test_what_waits_shares_a_commit_and_what_fails_undoes_only_itself(
    registry: Registry, threads: Threads
) -> None:
    good = [b"%d" % number for number in range(8)]
    prepares = [pushing(registry, data) for data in good]
    prepares.insert(3, pushing(registry, b"other bytes", claimed=b"these bytes"))
    prepares.insert(5, lambda: prepare_blob(registry, APP, "0" * 32, ALICE, digest_of(b"")))
    before = commits(registry)

    async def run() -> list[StoredBlob | BaseException]:
        each = WriteBatches(registry, threads)
        return await asyncio.gather(
            *(each.run(begin, 100) for begin in prepares), return_exceptions=True
        )

    outcomes = asyncio.run(run())
    assert isinstance(outcomes.pop(5), BlobUploadUnknown)
    assert isinstance(outcomes.pop(3), DigestInvalid)
    for data in good:
        assert stat_blob(registry, APP, digest_of(data)).size == len(data)
    # The first may have gone alone, before the others came.
    assert commits(registry) - before <= 2


def test_facts_that_fail_undo_only_themselves(registry: Registry, threads: Threads) -> None:
    """Found out in the transaction: the session ended between its bytes and its facts."""
    prepares = [pushing(registry, b"%d" % number) for number in range(3)]
    undone = []

    class Failing(Prepared[StoredBlob]):
        def record(self, tx: Transaction) -> StoredBlob:
            raise DatabaseBusy("planted")

        def recorded(self, result: StoredBlob) -> None:
            pytest.fail("recorded")

        def undo(self) -> None:
            undone.append(True)

    async def run() -> list[StoredBlob | BaseException]:
        each = WriteBatches(registry, threads)
        return await asyncio.gather(
            *(each.run(begin, 100) for begin in (*prepares[:2], Failing, prepares[2])),
            return_exceptions=True,
        )

    outcomes = asyncio.run(run())
    # As an error of the protocol.
    assert isinstance(outcomes.pop(2), Unavailable)
    assert undone == [True]
    assert [outcome.size for outcome in outcomes if isinstance(outcome, StoredBlob)] == [1, 1, 1]


def test_a_client_that_leaves_does_not_stop_what_was_begun(
    registry: Registry, threads: Threads
) -> None:
    begin = pushing(registry, b"kept")
    begun = threading.Event()

    async def run() -> None:
        def slowly() -> Prepared[StoredBlob]:
            begun.set()
            return begin()

        request = asyncio.ensure_future(WriteBatches(registry, threads).run(slowly, 4))
        await asyncio.to_thread(begun.wait, 20)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(run())
    # Whatever is written next comes after it.
    registry.write(lambda tx: None)
    assert stat_blob(registry, APP, digest_of(b"kept")).size == 4


def test_a_closed_database_is_answered_with_unavailable(
    registry: Registry, threads: Threads
) -> None:
    begin = pushing(registry, b"late")
    registry.db.close()

    async def run() -> None:
        with pytest.raises(Unavailable):
            await WriteBatches(registry, threads).run(begin, 4)

    asyncio.run(run())


def where(registry: Registry, threads: Threads, sizes: list[int]) -> list[str]:
    """On which threads pieces of work of these sizes run, one after the other."""
    names = []

    def begin() -> Prepared[None]:
        names.append(threading.current_thread().name)
        return AlreadyDone(None)

    async def run() -> None:
        each = WriteBatches(registry, threads)
        for size in sizes:
            await each.run(begin, size)

    asyncio.run(run())
    return [name.rpartition("_")[0] or name for name in names]


def test_only_small_ones_are_done_by_the_thread_that_writes(
    registry: Registry, threads: Threads
) -> None:
    found = where(registry, threads, [1, SMALL_BYTES, SMALL_BYTES + 1])
    assert found == ["ullage-writer", "ullage-writer", "ullage"]


def test_a_disk_that_keeps_them_waiting_leaves_them_to_many_threads(
    registry: Registry, threads: Threads
) -> None:
    """Many threads can wait for a slow disk at once; one could not. Later it is tried again."""
    now = [1000.0]
    took = iter(
        [0.001] * 3 + [0.5] + [0.001] * 3 + [0.06] * 11 + [0.001] * 2 + [0.06] * 5 + [0.001]
    )
    names = []

    def begin() -> Prepared[None]:
        names.append(threading.current_thread().name.rpartition("_")[0] or "writer")
        now[0] += next(took)
        return AlreadyDone(None)

    async def run() -> None:
        each = WriteBatches(registry, threads, lambda: now[0], lambda: 0.0)
        for _ in range(20):
            await each.run(begin, 1)
        now[0] += write_batches.PAUSE_SECONDS
        for _ in range(6):
            await each.run(begin, 1)

    asyncio.run(run())
    # One long wait is an accident; many in a row are the disk, and then a few more.
    assert names == ["writer"] * 18 + ["ullage"] * 2 + ["writer"] * 5 + ["ullage"]


def test_a_processor_that_is_busy_is_not_taken_for_a_slow_disk(
    registry: Registry, threads: Threads
) -> None:
    """Many threads would only compete for it."""
    now = [1000.0]
    names = []

    def begin() -> Prepared[None]:
        names.append(threading.current_thread().name.rpartition("_")[0] or "writer")
        now[0] += 0.06
        return AlreadyDone(None)

    async def run() -> None:
        # All of it was computed.
        each = WriteBatches(registry, threads, lambda: now[0], lambda: now[0])
        for _ in range(20):
            await each.run(begin, 1)

    asyncio.run(run())
    assert names == ["writer"] * 20


def test_work_between_two_commits_writes_without_waiting_for_its_own_thread(
    registry: Registry,
) -> None:
    """It would wait for ever."""
    done = threading.Event()
    found = []

    def work() -> None:
        found.append(registry.write(lambda tx: "one"))
        found.extend(registry.write_each([lambda tx: "two", lambda tx: "three"]))
        done.set()

    registry.on_writer(work)
    assert done.wait(20)
    assert found == ["one", "two", "three"]
    assert registry.write(lambda tx: "four") == "four"


def test_a_defect_between_two_commits_is_not_the_end_of_writing(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    def defect() -> None:
        raise KeyError("planted")

    registry.on_writer(defect)
    assert registry.write(lambda tx: "one") == "one"
    assert "between two commits failed" in caplog.text


def test_calls_and_jobs_keep_their_order(registry: Registry) -> None:
    order: list[int] = []
    held = threading.Event()

    def hold() -> None:
        held.wait(20)

    registry.on_writer(hold)
    for number in range(0, 20, 2):
        registry.on_writer(lambda number=number: order.append(number))  # type: ignore[misc]
    writers = [
        threading.Thread(target=registry.write, args=(lambda tx: order.append(99),))
        for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 20
    assert isinstance(registry.db, SqliteDatabase)
    while registry.db._writer._queue.qsize() < 13:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    registry.on_writer(lambda: order.append(20))
    held.set()
    for writer in writers:
        writer.join()
    registry.write(lambda tx: None)
    assert order == [*range(0, 20, 2), 99, 99, 99, 20]
