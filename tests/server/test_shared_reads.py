"""Reads that share a question (docs/design/architecture.md): each is told what holds after it came.

An acknowledged deletion is answered 200 by no process afterwards (deletion.md section 1).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import plant_image
from tests.support.server import UllageServer
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.statements import Statement
from ullage.database.transaction import Database, Question, answered
from ullage.oci.digest import digest_of
from ullage.oci.errors import NameUnknown, Unavailable
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.pull import read
from ullage.registry.pull.blob_cache import BlobCache
from ullage.registry.pull.together import (
    BlobAt,
    ManifestAt,
    TagsOf,
    find_blobs,
    find_manifests,
    find_tags,
)
from ullage.server.http.shared_reads import Shared

T = TypeVar("T")
READS = int(os.environ.get("ULLAGE_READS", "") or 3000)
READERS = 6


class Asked:
    """Answers with what the keys are told by, once it may."""

    def __init__(self) -> None:
        self.questions: list[dict[int, int]] = []
        self.asking = asyncio.Event()
        self.may_go_on = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def __call__(self, keys: Mapping[int, int]) -> Mapping[int, str]:
        self.questions.append(dict(keys))
        self.asking.set()
        await self.may_go_on.acquire()
        if self.error is not None:
            raise self.error
        return {key: f"{key} of {len(self.questions)}" for key in keys if key >= 0}

    def go_on(self, questions: int) -> None:
        for _ in range(questions):
            self.may_go_on.release()


def _run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(bounded())


def test_what_comes_while_a_question_runs_shares_the_next_one() -> None:
    async def run() -> None:
        asked = Asked()
        shared = Shared(asked)
        first = shared.ask(1)
        await asked.asking.wait()
        later = [shared.ask(key) for key in (1, 2, 2, -1)]
        asked.go_on(2)
        assert await first == "1 of 1"
        assert await asyncio.gather(*later) == ["1 of 2", "2 of 2", "2 of 2", None]
        assert asked.questions == [{1: 1}, {1: 1, 2: 2, -1: 1}]

    _run(run())


def test_a_question_is_about_so_many_keys_at_most() -> None:
    async def run() -> None:
        asked = Asked()
        asked.go_on(3)
        shared = Shared(asked, most=2)
        await asyncio.gather(*(shared.ask(key) for key in range(5)))
        assert [list(keys) for keys in asked.questions] == [[0, 1], [2, 3], [4]]

    _run(run())


def test_what_fails_fails_once_for_each_and_the_next_question_is_asked() -> None:
    """reliability.md: one clear 503, and reads go on."""

    async def run() -> None:
        asked = Asked()
        asked.error = Unavailable(message="no server")
        shared = Shared(asked)
        several = [shared.ask(key) for key in (1, 2, 3)]
        asked.go_on(1)
        told = await asyncio.gather(*several, return_exceptions=True)
        assert [type(each) for each in told] == [Unavailable] * 3
        asked.error = None
        asked.go_on(1)
        assert await shared.ask(4) == "4 of 2"

    _run(run())


def test_a_request_that_is_cancelled_takes_no_other_s_answer() -> None:
    async def run() -> None:
        asked = Asked()
        shared = Shared(asked)
        cancelled = shared.ask(1)
        await asked.asking.wait()
        other, same = shared.ask(1), shared.ask(1)
        assert cancelled.cancel()
        assert other.cancel()
        asked.go_on(2)
        assert await same == "1 of 2"
        assert asked.questions == [{1: 1}, {1: 1}]

    _run(run())


def _answer(db: Database, ask: Callable[[], Question[T]]) -> T:
    """As a transaction answers it; where there is one, an event loop's connection says the same."""
    told = db.read(lambda tx: answered(tx, ask()))
    connection = db.loop_connection()
    if connection is not None:

        async def twice() -> tuple[T, T]:
            return await connection.answer(ask), await connection.answer(ask)

        assert asyncio.run(twice()) == (told, told)
    return told


def test_a_question_about_many_is_answered_as_each_is(db: Database, clock: FakeClock) -> None:
    """On both engines: what is there, what is not, by tag and by digest."""
    registry = registry_on(db, MemoryBlobStore(), clock)
    app, gone, v1 = parse_repository_name("app"), parse_repository_name("gone"), parse_tag("v1")
    plant_image(registry, app, v1, [b"layer"])
    manifest = read.get_manifest(registry, app, v1)
    here = [ManifestAt(app, v1), ManifestAt(app, manifest.digest)]
    nowhere = [ManifestAt(gone, v1), ManifestAt(app, parse_tag("v2"))]
    images = [*here, *nowhere, ManifestAt(gone, manifest.digest)]
    for cache in (registry.manifest_cache, BlobCache()):
        found = _answer(db, partial(find_manifests, cache, images))
        assert found == dict.fromkeys(here, manifest)
    blob = BlobAt(app, digest_of(b"layer"))
    layers = [blob, BlobAt(gone, blob.digest), BlobAt(app, digest_of(b"other"))]
    assert _answer(db, partial(find_blobs, layers)) == {blob: read.stat_blob(registry, *blob)}
    # A page without a tag may be one of no repository: `read` knows.
    pages = [TagsOf(app, 10, None), TagsOf(app, 10, "v1"), TagsOf(gone, 10, None)]
    assert _answer(db, partial(find_tags, pages)) == {pages[0]: read.list_tags(registry, *pages[0])}
    assert read.list_tags(registry, *pages[1]) == read.Page((), more=False)
    with pytest.raises(NameUnknown):
        read.list_tags(registry, *pages[2])


def test_what_may_not_be_pulled_is_in_no_answer(db: Database, clock: FakeClock) -> None:
    """azure.md section 3: `readEnabled` of a repository, a manifest and a tag."""
    registry = registry_on(db, MemoryBlobStore(), clock)
    app, v1 = parse_repository_name("app"), parse_tag("v1")
    digest = plant_image(registry, app, v1, [b"layer"])
    images = [ManifestAt(app, v1), ManifestAt(app, digest)]
    layers = [BlobAt(app, digest_of(b"layer"))]
    for table, left in (("tags", 1), ("manifests", 0), ("repositories", 0)):
        assert len(_answer(db, partial(find_blobs, layers))) == 1
        lock = Statement.text(f"UPDATE {table} SET read_enabled = false")
        db.write(lambda tx, lock=lock: tx.change(lock))  # type: ignore[misc]
        assert len(_answer(db, partial(find_manifests, registry.manifest_cache, images))) == left
    assert _answer(db, partial(find_blobs, layers)) == {}


def layer_of(number: int) -> bytes:
    return b"%d " % number * 100


class Tombs:
    """The newest image that was pushed, and the last whose deletion was acknowledged."""

    def __init__(self) -> None:
        self.newest = 0
        self.deleted = -1


@pytest.mark.thorough
def test_what_was_acknowledged_as_deleted_is_read_by_no_process(
    tmp_path: Path, database_url: str
) -> None:
    """deletion.md section 1: beside pushes and deletions, by another process if there is one."""
    storage = ("--database", database_url, "--storage", f"file:{tmp_path / 'shared'}")
    count = 1 if database_url.startswith("sqlite") else 2
    with ExitStack() as stack:
        servers = [
            stack.enter_context(UllageServer(tmp_path / f"data-{number}", *storage))
            for number in range(count)
        ]
        tombs = Tombs()
        with httpx.Client(base_url=servers[0].url, timeout=60) as client:
            digest = push_image(client, "app", "v0", [layer_of(0)])
            with ThreadPoolExecutor(READERS) as pool:
                readers = [
                    pool.submit(_read, servers[-1].url, tombs, READS // READERS)
                    for _ in range(READERS)
                ]
                while not all(reader.done() for reader in readers):
                    upcoming = tombs.newest + 1
                    following = push_image(client, "app", f"v{upcoming}", [layer_of(upcoming)])
                    tombs.newest = upcoming
                    answer = client.delete(f"/v2/app/manifests/{digest}")
                    assert answer.status_code == 202, answer.text
                    tombs.deleted, digest = upcoming - 1, following
        found = [reader.result() for reader in readers]
        for server in servers:
            server.assert_no_500()
    assert sum(stale for stale, _, _ in found) == 0
    # The race took place: both what was there and what was not were read.
    assert min(sum(there for _, there, _ in found), sum(absent for _, _, absent in found)) > 0


def _read(url: str, tombs: Tombs, reads: int) -> tuple[int, int, int]:
    """How many reads found what was deleted before they were sent; what was there; what was not."""
    stale = there = absent = 0
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(reads):
            deleted = tombs.deleted
            # The one that goes now or has just gone.
            asked = max(0, deleted + number % 2)
            if number % 3 == 0:
                answer = client.get(f"/v2/app/manifests/v{asked}")
                ok = answer.status_code == 200
            elif number % 3 == 1:
                answer = client.get(f"/v2/app/blobs/{digest_of(layer_of(asked))}")
                ok = answer.status_code == 200
            else:
                answer = client.get("/v2/app/tags/list")
                ok = f"v{asked}" in (answer.json().get("tags") or ())
            assert answer.status_code in (200, 404), answer.text
            stale += ok and asked <= deleted
            there += ok
            absent += not ok
    return stale, there, absent
