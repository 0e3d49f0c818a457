"""Signed URLs: a client that has one reads one object, without credentials, until it ends."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from ullage.blobs.azure.container import Container
from ullage.blobs.azure.places import object_place

# Where no account key signs, a key does that the service gives out for so long.
_DELEGATED_SECONDS = 24 * 3600
# Clocks that differ by less than this do not matter.
_EARLIER_SECONDS = 15 * 60


class Links:
    """URLs for clients that are sent to the container, at the host that they can reach."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._delegated: tuple[Any, float] = (None, 0.0)

    def link(self, key: str, seconds: int) -> str:
        """A URL that reads the object for `seconds` from now, and not longer.

        Raises ValueError for what is no key, OSError where nothing can be signed.
        """
        place, now = object_place(key), time.time()
        until = now + seconds
        query = self._container.sign(
            place,
            _by_the_services_clock(self._container, until),
            delegation_key=self._delegation_key(now, until),
            content_type="application/octet-stream",
            cache_control=f"private, max-age={seconds}",
        )
        return f"{self._container.url(place, public=True)}?{query}"

    def _delegation_key(self, now: float, until: float) -> Any:
        """A key that signs what lasts until then; None where the account's key does."""
        if self._container.account_key is not None:
            return None
        key, ends = self._delegated
        if until <= ends:
            return key
        ends = max(now + _DELEGATED_SECONDS, until)
        key = self._container.delegation_key(
            _by_the_services_clock(self._container, now - _EARLIER_SECONDS),
            _by_the_services_clock(self._container, ends),
        )
        self._delegated = (key, ends)
        return key


def _by_the_services_clock(container: Container, moment: float) -> datetime:
    return datetime.fromtimestamp(moment - container.ahead, UTC)
