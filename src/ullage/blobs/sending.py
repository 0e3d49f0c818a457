"""Pieces of uploads to a service that are on their way in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# Pieces of one upload, and of all of a store, that are on their way at once.
PIECES_OF_ONE = 2
PIECES_OF_ALL = 8


class Senders:
    """The threads of one store, and the room for pieces that wait in memory."""

    def __init__(self, name: str) -> None:
        """`name` is of its threads."""
        self._pool = ThreadPoolExecutor(PIECES_OF_ALL, name)
        # Taken by what has a whole piece in memory.
        self.room = threading.BoundedSemaphore(PIECES_OF_ALL)

    def send(self, prepare: Callable[[], Callable[[], T]]) -> Future[T]:
        """Prepare a request here, once there is room for its piece, and make it in the background.

        What `prepare` raises is raised here, and what the request raises by the future.
        """
        self.room.acquire()
        try:
            sent = self._pool.submit(prepare())
        except BaseException:
            self.room.release()
            raise
        sent.add_done_callback(lambda _: self.room.release())
        return sent
