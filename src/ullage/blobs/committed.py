"""An object of a service of which no state is left, and that should be committed."""

from __future__ import annotations

from collections.abc import Callable

from ullage.blobs.protocol import Buffer, Closing, KeyUnknown


class CommittedAppend(Closing):
    """Makes sure that an object is committed, and does nothing else."""

    def __init__(self, key: str, offset: int, size: Callable[[], int | None]) -> None:
        """`size` asks for the bytes of the committed object, None if there is none."""
        self._key = key
        self.offset = offset
        self._size = size

    def write(self, data: Buffer) -> None:
        raise KeyUnknown(self._key)

    def sync(self) -> str:
        raise KeyUnknown(self._key)

    def before_commit(self) -> str | None:
        return None

    def commit(self) -> None:
        if self._size() != self.offset:
            raise KeyUnknown(self._key)

    def close(self) -> None:
        pass
