"""Small pushes in rounds, on the thread that writes: the bytes of all that wait, then one commit.

Threads of one interpreter take turns at it. Each file call and each statement is a turn, and waking
another thread takes longer than storing a small blob. So where one process owns the database, the
thread that will commit a small blob stores it, too: two changes of threads in place of five.

That is the wrong thing where waiting for a disk takes long, because many threads can wait at once.
A round that finds itself waiting leaves the work to the others for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry
from ullage.registry.push.prepared import Prepared, commit, commit_each
from ullage.server.http.threads import Threads

T = TypeVar("T")

# Work of one round; more waits for the next one.
MAX_ROUND = 32
# Bodies up to here are small: hashing and writing longer ones is worth two processors.
SMALL_BYTES = 64 * 1024
# When the bytes of one piece of work take this long to be safe, most of them, the disk is what is
# waited for. Measured with 2 KB blobs and eight clients: rounds push a quarter more than a pool of
# threads where an fsync takes 0.25 ms (1.4 ms a piece), as much at 0.45 ms (1.8 ms a piece), and
# two thirds at 0.75 ms.
SLOW_SECONDS = 0.002
# How much the last round counts against those before; and no round for more than this, so that one
# long wait is not taken for a slow disk.
LAST_COUNTS = 0.1
MOST_SECONDS = 0.01
# How long to leave the work to other threads then.
LEAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    begin: Callable[[], Prepared[Any]]
    result: asyncio.Future[Any]


class WriteBatches:
    """Used from one event loop only."""

    def __init__(
        self, registry: Registry, threads: Threads, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._threads = threads
        # In seconds, from whenever.
        self._now = now
        self._waiting: deque[_Waiting] = deque()
        # Whether a round is coming that will look at what waits.
        self._coming = False
        # How long the bytes of one piece of work take to be safe.
        self._seconds = 0.0
        self._leave_until = 0.0

    async def run(self, begin: Callable[[], Prepared[T]], size: int) -> T:
        """Do a use case whose first half is `begin`, which is about `size` bytes.

        Once begun it is done to its end, whoever is cancelled meanwhile.
        """
        if not self._suited(size):
            return await self._threads.submit(_whole, self._registry, begin)
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(begin, result))
        if not self._coming:
            self._call()
        return await result

    def _suited(self, size: int) -> bool:
        alone = self._threads.inline_reads
        return alone and size <= SMALL_BYTES and self._now() >= self._leave_until

    def _call(self) -> None:
        """Let a round come."""
        self._coming = True
        try:
            self._registry.on_writer(self._work)
        except RegistryError as error:
            waiting = self._take()
            self._end(waiting, [error] * len(waiting))

    def _take(self) -> list[_Waiting]:
        return [self._waiting.popleft() for _ in range(min(MAX_ROUND, len(self._waiting)))]

    def _work(self) -> None:
        """One round, on the thread that writes."""
        waiting = self._take()
        outcomes = self._round([one.begin for one in waiting])
        # All of them at once: waking the event loop costs as much as answering.
        loop = waiting[0].result.get_loop()
        # A loop that has ended takes nothing: those who asked were cut off.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._end, waiting, outcomes)

    def _round(self, begins: Sequence[Callable[[], Prepared[Any]]]) -> list[Any]:
        """What each of them gave or, in its place, what it raised."""
        began = self._now()
        outcomes = [_begun(begin) for begin in begins]
        self._took((self._now() - began) / len(begins))
        # What failed is over.
        places = [
            place for place, prepared in enumerate(outcomes) if isinstance(prepared, Prepared)
        ]
        ended = commit_each(self._registry, [outcomes[place] for place in places])
        for place, outcome in zip(places, ended, strict=True):
            outcomes[place] = outcome
        return outcomes

    def _took(self, seconds: float) -> None:
        """Leave the work to other threads if it takes this long again and again."""
        self._seconds += LAST_COUNTS * (min(seconds, MOST_SECONDS) - self._seconds)
        if self._seconds > SLOW_SECONDS:
            self._seconds, self._leave_until = 0.0, self._now() + LEAVE_SECONDS

    def _end(self, waiting: Sequence[_Waiting], outcomes: Sequence[Any]) -> None:
        """Tell those who wait, and let the next round come if somebody else does."""
        for one, outcome in zip(waiting, outcomes, strict=True):
            if one.result.done():
                # Whoever asked has gone.
                continue
            if isinstance(outcome, BaseException):
                one.result.set_exception(outcome)
            else:
                one.result.set_result(outcome)
        self._coming = False
        if self._waiting:
            self._call()


def _whole(registry: Registry, begin: Callable[[], Prepared[T]]) -> T:
    return commit(registry, begin())


def _begun(begin: Callable[[], Prepared[Any]]) -> Any:
    try:
        return begin()
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits
        return error
