"""Long work that many may ask for at once: it is done once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SingleFlight:
    """One piece of work at a time. Used from one event loop only.

    A caller waits for one that began after it asked, and shares it with the others that did: what
    is under way may not see what the caller has just changed.
    """

    def __init__(self) -> None:
        self._running: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def run(self, work: Callable[[], Awaitable[object]]) -> None:
        """Wait until the work was done, begun after now. Raises what it raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._begin(self._running, work))
        # A caller that goes away takes it from no other.
        await asyncio.shield(self._next)

    async def _begin(
        self, before: asyncio.Future[None] | None, work: Callable[[], Awaitable[object]]
    ) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        await work()
