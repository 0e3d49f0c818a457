"""Where blocking work of the services runs, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A bounded pool. Work that waits in its queue is bounded by the connections there are."""

    def __init__(self, size: int, *, inline_reads: bool) -> None:
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="ullage")
        self._inline_reads = inline_reads

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Run blocking work in a thread."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, partial(work, *args, **kwargs))

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a short metadata read: here and now where that is cheaper than changing threads."""
        if self._inline_reads:
            return work(*args, **kwargs)
        return await self.submit(work, *args, **kwargs)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
