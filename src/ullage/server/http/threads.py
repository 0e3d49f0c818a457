"""Where the blocking work of use cases runs, off the event loop."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A bounded pool. Work that waits in its queue is bounded by the connections there are."""

    def __init__(self, size: int, *, inline_reads: bool) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="ullage")
        self._size = size
        # At work or waiting. Changed by the event loop only.
        self._submitted = 0
        # Reading metadata takes less time than changing threads.
        self.inline_reads = inline_reads

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run blocking work in a thread."""
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._pool, partial(work, *args, **kwargs))
        self._submitted += 1
        running.add_done_callback(self._ended)
        return running

    def _ended(self, _: asyncio.Future[Any]) -> None:
        self._submitted -= 1

    def load(self) -> tuple[int, int]:
        """How many threads are at work, and how many pieces of work wait for one."""
        submitted = self._submitted
        return min(submitted, self._size), max(submitted - self._size, 0)

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a short metadata read: here and now where that is cheaper than changing threads."""
        if self.inline_reads:
            return work(*args, **kwargs)
        return await self.submit(work, *args, **kwargs)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Line:
    """Where work waits: parties take turns, and within a party its names do."""

    party: str
    name: str


class FairThreads:
    """A bounded pool with a line for each name of each party, served in turn.

    However much one of them sends, the next one's first piece of work waits for no more than one of
    each. Used from one event loop only.
    """

    def __init__(self, size: int) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="ullage-slow")
        self._size = self._free = size
        self._waiting: OrderedDict[str, OrderedDict[str, deque[_Job]]] = OrderedDict()

    def submit(
        self, line: Line, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Run blocking work in a thread when it is its turn."""
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        names = self._waiting.setdefault(line.party, OrderedDict())
        names.setdefault(line.name, deque()).append((partial(work, *args, **kwargs), result))
        self._start()
        return result

    def _start(self) -> None:
        while self._free and self._waiting:
            work, result = self._next()
            if result.done():
                # Whoever asked has gone.
                continue
            self._free -= 1
            running = asyncio.get_running_loop().run_in_executor(self._pool, work)
            running.add_done_callback(partial(self._finished, result))

    def _next(self) -> _Job:
        party, names = self._waiting.popitem(last=False)
        name, jobs = names.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            names[name] = jobs
        if names:
            self._waiting[party] = names
        return job

    def _finished(self, result: asyncio.Future[Any], running: asyncio.Future[Any]) -> None:
        self._free += 1
        if not result.done():
            error = running.exception()
            if error is None:
                result.set_result(running.result())
            else:
                result.set_exception(error)
        self._start()

    def load(self) -> tuple[int, int]:
        """How many threads are at work, and how many pieces of work wait for one."""
        waiting = [*self._waiting.values()]
        return self._size - self._free, sum(
            len(jobs) for names in waiting for jobs in [*names.values()]
        )

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


_Job: TypeAlias = tuple[Callable[[], Any], asyncio.Future[Any]]
