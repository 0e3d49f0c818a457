"""Reads that share a question (docs/design/architecture.md): each is told what holds after it came.

An acknowledged deletion is answered 200 by no process afterwards (deletion.md section 1).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import plant_image
from tests.support.server import UllageServer
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.transaction import Database
from ullage.oci.digest import digest_of
from ullage.oci.errors import NameUnknown, Unavailable
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.pull import read
from ullage.registry.pull.together import (
    BlobAt,
    ManifestAt,
    TagsOf,
    find_blobs,
    find_manifests,
    find_tags,
)
from ullage.server.http.shared_reads import Shared
from ullage.server.http.threads import Threads

READS = int(os.environ.get("ULLAGE_READS", "") or 3000)
READERS = 6


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2, inline_reads=False)
    yield threads
    threads.close()


class Asked:
    """Answers with what the keys are told by, once it may."""

    def __init__(self) -> None:
        self.questions: list[list[int]] = []
        self.may_go_on = threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.questions.append(list(keys))
        assert self.may_go_on.acquire(timeout=20)
        if self.error is not None:
            raise self.error
        return {key: f"{key} of {len(self.questions)}" for key in keys if key >= 0}


def test_what_comes_while_a_question_runs_shares_the_next_one(threads: Threads) -> None:
    async def run() -> None:
        asked = Asked()
        shared = Shared(threads, asked)
        first = shared.ask(1)
        later = [shared.ask(key) for key in (1, 2, 2, -1)]
        asked.may_go_on.release(2)
        assert await first == "1 of 1"
        assert await asyncio.gather(*later) == ["1 of 2", "2 of 2", "2 of 2", None]
        assert asked.questions == [[1], [1, 2, -1]]

    asyncio.run(run())


def test_a_question_is_about_so_many_keys_at_most(threads: Threads) -> None:
    async def run() -> None:
        asked = Asked()
        asked.may_go_on.release(4)
        shared = Shared(threads, asked, most=2)
        await asyncio.gather(*(shared.ask(key) for key in range(6)))
        assert asked.questions == [[0], [1, 2], [3, 4], [5]]

    asyncio.run(run())


def test_what_fails_fails_once_for_each_and_the_next_question_is_asked(threads: Threads) -> None:
    """reliability.md: one clear 503, and reads go on."""

    async def run() -> None:
        asked = Asked()
        asked.error = Unavailable(message="no server")
        shared = Shared(threads, asked)
        several = [shared.ask(key) for key in (1, 2, 3)]
        asked.may_go_on.release(2)
        told = await asyncio.gather(*several, return_exceptions=True)
        assert [type(each) for each in told] == [Unavailable] * 3
        asked.error = None
        asked.may_go_on.release()
        assert await shared.ask(4) == "4 of 3"

    asyncio.run(run())


def test_a_request_that_is_cancelled_takes_no_other_s_answer(threads: Threads) -> None:
    async def run() -> None:
        asked = Asked()
        shared = Shared(threads, asked)
        cancelled, other = shared.ask(1), shared.ask(1)
        same = shared.ask(1)
        assert cancelled.cancel()
        assert other.cancel()
        asked.may_go_on.release(2)
        assert await same == "1 of 2"

    asyncio.run(run())


def test_a_question_about_many_is_answered_as_each_is(db: Database, clock: FakeClock) -> None:
    """On both engines: what is there, what is not, by tag and by digest."""
    registry = registry_on(db, MemoryBlobStore(), clock)
    app, gone, v1 = parse_repository_name("app"), parse_repository_name("gone"), parse_tag("v1")
    plant_image(registry, app, v1, [b"layer"])
    manifest = read.get_manifest(registry, app, v1)
    here = [ManifestAt(app, v1), ManifestAt(app, manifest.digest)]
    nowhere = [ManifestAt(gone, v1), ManifestAt(app, parse_tag("v2"))]
    for _ in range(2):
        found = find_manifests(registry, [*here, *nowhere, ManifestAt(gone, manifest.digest)])
        assert found == dict.fromkeys(here, manifest)
    blob = BlobAt(app, digest_of(b"layer"))
    asked = [blob, BlobAt(gone, blob.digest), BlobAt(app, digest_of(b"other"))]
    assert find_blobs(registry, asked) == {blob: read.stat_blob(registry, *blob)}
    pages = [TagsOf(app, 10, None), TagsOf(app, 10, "v1"), TagsOf(gone, 10, None)]
    assert find_tags(registry, pages) == {at: read.list_tags(registry, *at) for at in pages[:2]}
    with pytest.raises(NameUnknown):
        read.list_tags(registry, *pages[2])


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
            digest = push_image(client, "app", "v0", [b"0" * 100])
            with ThreadPoolExecutor(READERS) as pool:
                readers = [
                    pool.submit(_read, servers[-1].url, tombs, READS // READERS)
                    for _ in range(READERS)
                ]
                while not all(reader.done() for reader in readers):
                    upcoming = tombs.newest + 1
                    following = push_image(client, "app", f"v{upcoming}", [b"%d" % upcoming * 100])
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
            if number % 3:
                answer = client.get(f"/v2/app/manifests/v{asked}")
                ok = answer.status_code == 200
            else:
                answer = client.get("/v2/app/tags/list")
                ok = f"v{asked}" in (answer.json().get("tags") or ())
            assert answer.status_code in (200, 404), answer.text
            stale += ok and asked <= deleted
            there += ok
            absent += not ok
    return stale, there, absent
