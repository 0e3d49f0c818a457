"""Reads that arrive together share a question to the database, where asking costs a thread.

Of a read on PostgreSQL most time goes to changing threads, taking a connection and calling the
driver, and a question about many costs hardly more than a question about one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.pull import read
from ullage.registry.pull.together import (
    BlobAt,
    ManifestAt,
    TagsOf,
    find_blobs,
    find_manifests,
    find_tags,
)
from ullage.registry.queries.content.blobs import StoredBlob
from ullage.registry.queries.content.manifests import StoredManifest
from ullage.server.http.threads import Threads

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# Keys of one question.
MOST_KEYS = 500
# Pages of tags of one question: each is a statement of its own.
MOST_PAGES = 32


class Shared(Generic[Key, Value]):
    """Requests that come while a question is running share the next one; none joins a running one.

    So what a request is told was read after it came. Used from one event loop only.
    """

    def __init__(
        self,
        threads: Threads,
        answer: Callable[[Sequence[Key]], Mapping[Key, Value]],
        most: int = MOST_KEYS,
    ) -> None:
        """`answer` blocks; it gives what is found of at most `most` different keys."""
        self._threads = threads
        self._answer = answer
        self._most = most
        # In the order of their arrival.
        self._waiting: dict[Key, list[asyncio.Future[Value | None]]] = {}
        self._running = False

    def ask(self, key: Key) -> asyncio.Future[Value | None]:
        """What is found for a key, None for nothing; or what asking raised."""
        result: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(result)
        if not self._running:
            self._start()
        return result

    def _start(self) -> None:
        keys = list(self._waiting)[: self._most]
        asked = {key: self._waiting.pop(key) for key in keys}
        try:
            answer = self._threads.submit(self._answer, keys)
        except RuntimeError as error:
            # The threads are closed: the process ends.
            _fail(asked, error)
            return
        self._running = True
        answer.add_done_callback(partial(self._ended, asked))

    def _ended(
        self,
        asked: Mapping[Key, Sequence[asyncio.Future[Value | None]]],
        answer: asyncio.Future[Mapping[Key, Value]],
    ) -> None:
        self._running = False
        # What came meanwhile is asked before the answers are used: the threads do not wait.
        if self._waiting:
            self._start()
        error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
        if error is not None:
            _fail(asked, error)
            return
        found = answer.result()
        for key, results in asked.items():
            for result in results:
                # The request of one that is done was cancelled.
                if not result.done():
                    result.set_result(found.get(key))


def _fail(
    asked: Mapping[Key, Sequence[asyncio.Future[Value | None]]], error: BaseException
) -> None:
    for results in asked.values():
        for result in results:
            if isinstance(error, asyncio.CancelledError):
                result.cancel()
            elif not result.done():
                result.set_exception(error)


class SharedReads:
    """What pulls read most; what is not found is asked once more alone, for its error's words."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads
        self._manifests: Shared[ManifestAt, StoredManifest] = Shared(
            threads, partial(find_manifests, registry)
        )
        self._blobs: Shared[BlobAt, StoredBlob] = Shared(threads, partial(find_blobs, registry))
        self._tags: Shared[TagsOf, read.Page] = Shared(
            threads, partial(find_tags, registry), MOST_PAGES
        )

    async def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest:
        """As `read.get_manifest`, with its errors."""
        if not self._threads.inline_reads:
            found = await self._manifests.ask(ManifestAt(name, reference))
            if found is not None:
                return found
        return await self._threads.read(read.get_manifest, self._registry, name, reference)

    async def blob(self, name: RepositoryName, digest: Digest) -> StoredBlob:
        """As `read.stat_blob`, with its errors."""
        if not self._threads.inline_reads:
            found = await self._blobs.ask(BlobAt(name, digest))
            if found is not None:
                return found
        return await self._threads.read(read.stat_blob, self._registry, name, digest)

    async def tags(self, name: RepositoryName, n: int, last: str | None) -> read.Page:
        """As `read.list_tags`, with its errors."""
        if not self._threads.inline_reads:
            found = await self._tags.ask(TagsOf(name, n, last))
            if found is not None:
                return found
        return await self._threads.read(read.list_tags, self._registry, name, n, last)
