"""A store whose objects can be read by URLs: each says which key, and from when until when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from ullage.blobs.memory import MemoryBlobStore
from ullage.blobs.protocol import KeyUnknown


class SignedUrl(NamedTuple):
    key: str
    signed_at: datetime
    ends_at: datetime

    def __str__(self) -> str:
        return f"signed:{self.key}:{self.signed_at.isoformat()}"


class LinkingStore(MemoryBlobStore):
    """`signed` has every URL that was made, in order."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._now = now
        self.signed: list[SignedUrl] = []

    def link(self, key: str, seconds: int) -> str:
        now = self._now()
        self.signed.append(SignedUrl(key, now, now + timedelta(seconds=seconds)))
        return str(self.signed[-1])

    def ends_at(self, url: str) -> datetime:
        return next(each.ends_at for each in self.signed if str(each) == url)

    def reads(self, url: str) -> bool:
        """Whether the URL reads its object now: it has not ended, and the bytes are there."""
        found = next(each for each in self.signed if str(each) == url)
        size = self.size(found.key)
        if size is None or self._now() >= found.ends_at:
            return False
        try:
            with self.open(found.key, size) as reader:
                return len(reader.read_at(0, size)) == size
        except KeyUnknown:
            return False
