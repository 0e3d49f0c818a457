"""Reads that arrive together share a question to the database, where asking costs a thread.

Of a read on PostgreSQL most time goes to changing threads, taking a connection and calling the
driver, and a question about many costs hardly more than a question about one. So the event loop
asks by itself, on connections of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from ullage.database.transaction import LoopConnection, Question
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.errors import database_errors
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
        answer: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Value]]],
        most: int = MOST_KEYS,
    ) -> None:
        """`answer` gives what is found of at most `most` different keys."""
        self._answer = answer
        self._most = most
        # In the order of their arrival.
        self._waiting: dict[Key, list[asyncio.Future[Value | None]]] = {}
        self._running: asyncio.Task[None] | None = None

    def ask(self, key: Key) -> asyncio.Future[Value | None]:
        """What is found for a key, None for nothing; or what asking raised."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Value | None] = loop.create_future()
        self._waiting.setdefault(key, []).append(result)
        if self._running is None:
            self._running = loop.create_task(self._run())
        return result

    async def _run(self) -> None:
        """Ask until nothing waits."""
        while self._waiting:
            keys = list(self._waiting)[: self._most]
            asked = {key: self._waiting.pop(key) for key in keys}
            try:
                found = await self._answer(keys)
            except Exception as error:  # noqa: BLE001 - raised by all that asked
                _fail(asked, error)
            else:
                _tell(asked, found)
        self._running = None


def _tell(
    asked: Mapping[Key, Sequence[asyncio.Future[Value | None]]], found: Mapping[Key, Value]
) -> None:
    for key, results in asked.items():
        for result in results:
            # The request of one that is done was cancelled.
            if not result.done():
                result.set_result(found.get(key))


def _fail(asked: Mapping[Key, Sequence[asyncio.Future[Value | None]]], error: Exception) -> None:
    for results in asked.values():
        for result in results:
            if not result.done():
                result.set_exception(error)


async def _answered(
    connection: LoopConnection,
    question: Callable[[Sequence[Key]], Question[dict[Key, Value]]],
    keys: Sequence[Key],
) -> dict[Key, Value]:
    """Raises Unavailable."""
    with database_errors():
        return await connection.answer(partial(question, keys))


class SharedReads:
    """What pulls read most; what is not found is asked once more alone, for its error's words."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads
        self._manifests: Shared[ManifestAt, StoredManifest] | None = self._shared(
            partial(find_manifests, registry.manifest_cache)
        )
        self._blobs: Shared[BlobAt, StoredBlob] | None = self._shared(find_blobs)
        self._tags: Shared[TagsOf, read.Page] | None = self._shared(find_tags, MOST_PAGES)

    def _shared(
        self,
        question: Callable[[Sequence[Key]], Question[dict[Key, Value]]],
        most: int = MOST_KEYS,
    ) -> Shared[Key, Value] | None:
        """On a connection of its own, so that pages of tags hold up no manifest."""
        connection = self._registry.db.loop_connection()
        if connection is None:
            return None
        return Shared(partial(_answered, connection, question), most)

    async def manifest(self, name: RepositoryName, reference: Tag | Digest) -> StoredManifest:
        """As `read.get_manifest`, with its errors."""
        if self._manifests is not None:
            found = await self._manifests.ask(ManifestAt(name, reference))
            if found is not None:
                return found
        return await self._threads.read(read.get_manifest, self._registry, name, reference)

    async def blob(self, name: RepositoryName, digest: Digest) -> StoredBlob:
        """As `read.stat_blob`, with its errors."""
        if self._blobs is not None:
            found = await self._blobs.ask(BlobAt(name, digest))
            if found is not None:
                return found
        return await self._threads.read(read.stat_blob, self._registry, name, digest)

    async def tags(self, name: RepositoryName, n: int, last: str | None) -> read.Page:
        """As `read.list_tags`, with its errors."""
        if self._tags is not None:
            found = await self._tags.ask(TagsOf(name, n, last))
            if found is not None:
                return found
        return await self._threads.read(read.list_tags, self._registry, name, n, last)
