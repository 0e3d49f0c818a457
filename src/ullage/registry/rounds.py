"""Whether the work beside the requests goes on: when each thread of it last came round."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable


class Rounds:
    """The threads of the worker by name. Each name has one thread that writes, any that read.

    `clock` gives seconds that no setting of the machine's time moves.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._errors: Counter[str] = Counter()

    def note(self, name: str) -> None:
        """This one is at work: it began, or a piece of its work is done."""
        self._last[name] = self._clock()

    def note_error(self, name: str) -> None:
        """A piece of its work failed; it is tried again."""
        self._errors[name] += 1

    def ages(self) -> dict[str, float]:
        """Seconds since each last came round."""
        now = self._clock()
        return {name: now - at for name, at in [*self._last.items()]}

    def errors(self) -> dict[str, int]:
        """How often each that ever came round has failed."""
        return {name: self._errors[name] for name in [*self._last]}
