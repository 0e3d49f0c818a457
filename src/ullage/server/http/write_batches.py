"""Small pushes in batches, on one thread: the bytes of all that wait, then one commit.

Threads of one interpreter take turns at it. Each file call and each statement is a turn, and waking
another thread takes longer than storing a small blob. So where one process owns the database, the
thread that will commit a small blob stores it, too: two changes of threads in place of five.

That is the wrong thing where waiting for a disk takes long, because many threads can wait at once.
After batches that waited, other threads store the bytes for a while, and only the facts are
committed together.

On PostgreSQL there is a thread for this, too. What a batch cannot write at once, because another
transaction has something locked, it leaves to other threads, which may wait.
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
from ullage.registry.push.prepared import Left, Prepared, commit, commit_each
from ullage.server.http.threads import Threads

T = TypeVar("T")

# Pushes of one batch; more wait for the next one.
MAX_BATCH = 32
# Bodies up to here are small: hashing and writing longer ones is worth two processors.
SMALL_BYTES = 64 * 1024
# When the bytes of a push are waited for so long until they are safe, on average, it is the disk
# that holds up pushes. Measured with 2 KB blobs and eight clients: batches push a quarter more than
# a pool of threads where an fsync takes 0.25 ms (0.7 ms of waiting a piece), as much at 0.45 ms
# (1.1 ms), with two thirds of the processor's time, and two thirds at 0.75 ms (1.7 ms).
SLOW_SECONDS = 0.0014
# The weight of the last batch in the average, and the most it counts for: a few long waits, as any
# disk has them, are not taken for a slow one. From 0.7 ms it takes eight in a row.
LAST_WEIGHT = 0.05
MOST_SECONDS = 2 * SLOW_SECONDS
# How long batches pause then, before one of them tries the disk again.
PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    # Gives what is prepared, or the error that it met.
    prepare: Callable[[], Any]
    result: asyncio.Future[Any]
    # Whether its bytes are stored by the batch.
    measured: bool = True


class WriteBatches:
    """Used from one event loop only."""

    def __init__(
        self,
        registry: Registry,
        threads: Threads,
        now: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        """`now` is the time in seconds, from any moment; `worked` what this thread has computed."""
        self._registry = registry
        self._threads = threads
        self._now = now
        self._worked = worked
        self._waiting: deque[_Waiting] = deque()
        # Whether a batch will take what waits.
        self._scheduled = False
        # How long a push waits for its bytes to be safe, on average.
        self._seconds = 0.0
        self._paused_until = 0.0

    async def run(
        self, prepare: Callable[[], Prepared[T]], size: int, *, needs_database: bool = True
    ) -> T:
        """Prepare and commit a push of about `size` bytes; its result.

        Once begun it is done to its end, even if the request is cancelled meanwhile.
        `needs_database`: to prepare it, too. Where processes share one, its answers are waited for,
        which many threads do at once.
        """
        alone = self._threads.inline_reads
        if needs_database and not alone:
            return await self._threads.submit(_push, self._registry, prepare)
        if size > SMALL_BYTES or self._now() < self._paused_until:
            return await self._prepared_apart(prepare)
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._add(_Waiting(prepare, result))
        return await result

    async def _prepared_apart(self, prepare: Callable[[], Prepared[T]]) -> T:
        """Where bytes take long, many threads store them, and the facts come together again."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def hand_over(done: asyncio.Future[Any]) -> None:
            self._add(_Waiting(done.result, result, measured=False))

        self._threads.submit(_prepared, prepare).add_done_callback(hand_over)
        return await result

    def _add(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._scheduled = True
        try:
            self._registry.on_writer(self._run_batch)
        except RegistryError as error:
            waiting = self._take()
            self._deliver(waiting, [error] * len(waiting))

    def _take(self) -> list[_Waiting]:
        return [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]

    def _run_batch(self) -> None:
        """On the writing thread."""
        waiting = self._take()
        outcomes = self._push_all(waiting)
        # All of them at once: waking the event loop costs as much as answering.
        loop = waiting[0].result.get_loop()
        # A loop that has ended takes nothing: its requests were cut off.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._deliver, waiting, outcomes)

    def _push_all(self, waiting: Sequence[_Waiting]) -> list[Any]:
        """The result of each or, in its place, its error."""
        began = self._now() - self._worked()
        outcomes = [_prepared(one.prepare) for one in waiting]
        measured = sum(one.measured for one in waiting)
        if measured:
            self._note_waiting((self._now() - self._worked() - began) / measured)
        places = [
            place for place, prepared in enumerate(outcomes) if isinstance(prepared, Prepared)
        ]
        ended = commit_each(self._registry, [outcomes[place] for place in places])
        for place, outcome in zip(places, ended, strict=True):
            outcomes[place] = outcome
        return outcomes

    def _note_waiting(self, seconds: float) -> None:
        """Pause if pushes wait so long again and again."""
        self._seconds += LAST_WEIGHT * (min(seconds, MOST_SECONDS) - self._seconds)
        if self._seconds > SLOW_SECONDS:
            # Of a disk that is slow still, a few more waits tell so.
            self._seconds, self._paused_until = SLOW_SECONDS * 3 / 4, self._now() + PAUSE_SECONDS

    def _deliver(self, waiting: Sequence[_Waiting], outcomes: Sequence[Any]) -> None:
        """End what waited, and schedule the next batch if more does."""
        for one, outcome in zip(waiting, outcomes, strict=True):
            if one.result.done() and not isinstance(outcome, Left):
                # Its request was cancelled.
                continue
            if isinstance(outcome, Left):
                self._commit_alone(outcome, one.result)
            elif isinstance(outcome, BaseException):
                one.result.set_exception(outcome)
            else:
                one.result.set_result(outcome)
        self._scheduled = False
        if self._waiting:
            self._schedule()

    def _commit_alone(self, left: Left, result: asyncio.Future[Any]) -> None:
        def tell(done: asyncio.Future[Any]) -> None:
            if result.done():
                return
            error = done.exception()
            if error is None:
                result.set_result(done.result())
            else:
                result.set_exception(error)

        self._threads.submit(commit, self._registry, left.prepared).add_done_callback(tell)


def _push(registry: Registry, prepare: Callable[[], Prepared[T]]) -> T:
    return commit(registry, prepare())


def _prepared(prepare: Callable[[], Prepared[Any]]) -> Any:
    try:
        return prepare()
    except BaseException as error:  # noqa: BLE001 - handed to the request
        return error
