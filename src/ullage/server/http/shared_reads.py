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

from ullage.database.errors import DatabaseBusy, DatabaseUnreachable
from ullage.database.transaction import Question
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.errors import database_errors
from ullage.registry.leases.offers import Offer
from ullage.registry.pull import read
from ullage.registry.pull.together import (
    BlobAt,
    ManifestAt,
    TagsOf,
    find_blobs,
    find_manifests,
    find_tags,
    promise_blobs,
)
from ullage.registry.push.sessions import may_start
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
        answer: Callable[[Mapping[Key, int]], Awaitable[Mapping[Key, Value]]],
        most: int = MOST_KEYS,
    ) -> None:
        """`answer` gives what is found of at most `most` keys, each with how many wait for it."""
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
            asked = {
                key: [result for result in self._waiting.pop(key) if not result.done()]
                for key in list(self._waiting)[: self._most]
            }
            # The request of a result that is done was cancelled.
            wanted = {key: len(results) for key, results in asked.items() if results}
            try:
                found = await self._answer(wanted) if wanted else {}
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
            if not result.done():
                result.set_result(found.get(key))


def _fail(asked: Mapping[Key, Sequence[asyncio.Future[Value | None]]], error: Exception) -> None:
    for results in asked.values():
        for result in results:
            if not result.done():
                result.set_exception(error)


class SharedReads:
    """What clients ask most; what is not found is asked once more alone, for its error's words."""

    def __init__(self, registry: Registry, threads: Threads) -> None:
        self._registry = registry
        self._threads = threads
        self._manifests: Shared[ManifestAt, StoredManifest] | None = self._shared(
            partial(find_manifests, registry.manifest_cache)
        )
        self._blobs: Shared[BlobAt, StoredBlob] | None = self._shared(find_blobs)
        self._tags: Shared[TagsOf, read.Page] | None = self._shared(find_tags, most=MOST_PAGES)
        # No promise has to outlive a crash.
        self._promises: Shared[Offer, int] | None = self._shared(
            partial(promise_blobs, registry), durable=False, alone_if_busy=True
        )

        self._uploads: Shared[RepositoryName, bool] | None = None
        if registry.tickets is not None:
            self._uploads = self._shared(partial(may_start, registry))

    def _shared(
        self,
        question: Callable[[Mapping[Key, int]], Question[dict[Key, Value]]],
        *,
        most: int = MOST_KEYS,
        durable: bool = True,
        alone_if_busy: bool = False,
    ) -> Shared[Key, Value] | None:
        """On a connection of its own, so that pages of tags hold up no manifest.

        With `alone_if_busy`, nothing is found if a lock was waited for in vain.
        """
        connection = self._registry.db.loop_connection(durable=durable)
        if connection is None:
            return None

        async def answer(asked: Mapping[Key, int]) -> Mapping[Key, Value]:
            with database_errors():
                try:
                    return await connection.answer(partial(question, asked))
                except DatabaseUnreachable:
                    raise
                except DatabaseBusy:
                    if alone_if_busy:
                        return {}
                    raise

        return Shared(answer, most)

    async def takes_uploads(self, name: RepositoryName) -> bool:
        """Whether `sessions.sign_upload` may open one here; False also where it is not known."""
        return self._uploads is not None and bool(await self._uploads.ask(name))

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

    async def promised_size(self, name: RepositoryName, digest: Digest, caller: Caller) -> int:
        """As `read.stat_blob_for_push`, with its errors: the size of a blob that stays."""
        if self._promises is not None:
            pusher = caller.pusher
            size = await self._promises.ask(Offer(name, digest, pusher.key, pusher.confirms))
            if size is not None:
                return size
        blob = await self._threads.read(
            read.stat_blob_for_push, self._registry, name, digest, caller
        )
        return blob.size

    async def tags(self, name: RepositoryName, n: int, last: str | None) -> read.Page:
        """As `read.list_tags`, with its errors."""
        if self._tags is not None:
            found = await self._tags.ask(TagsOf(name, n, last))
            if found is not None:
                return found
        return await self._threads.read(read.list_tags, self._registry, name, n, last)
