"""Callers that want the same at the same time, and share one piece of work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Outcome = TypeVar("Outcome")


@dataclass(slots=True)
class _Batch(Generic[Value, Outcome]):
    """What is done at once. A caller that comes before it has `begun` may join."""

    values: list[Value]
    outcome: Future[Outcome] = field(default_factory=Future)
    begun: bool = False


class SharedGrants(Generic[Key, Value, Outcome]):
    """A caller that comes while another works on the same key waits, and shares the next work.

    So what a caller gets was done after it came, and it waits for no more than two pieces of work,
    however many come at once. Callers with different keys do not wait for each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[Key, _Batch[Value, Outcome]] = {}

    def join(self, key: Key, value: Value, work: Callable[[Sequence[Value]], Outcome]) -> Outcome:
        """What `work` gave, or raised, for the values of all that share it; one of them does it."""
        with self._lock:
            last = self._last.get(key)
            if last is not None and not last.begun:
                last.values.append(value)
                batch, mine = last, False
            else:
                batch, mine = _Batch([value]), True
                self._last[key] = batch
        if mine:
            self._carry_out(key, batch, last, work)
        return batch.outcome.result()

    def waiting(self, key: Key) -> int:
        """How many wait for work on the key that has not begun."""
        with self._lock:
            last = self._last.get(key)
            return len(last.values) if last is not None and not last.begun else 0

    def _carry_out(
        self,
        key: Key,
        batch: _Batch[Value, Outcome],
        before: _Batch[Value, Outcome] | None,
        work: Callable[[Sequence[Value]], Outcome],
    ) -> None:
        if before is not None:
            wait([before.outcome])
        with self._lock:
            batch.begun = True
        try:
            batch.outcome.set_result(work(batch.values))
        except BaseException as error:  # noqa: BLE001 - raised by all that wait
            batch.outcome.set_exception(error)
        with self._lock:
            if self._last.get(key) is batch:
                del self._last[key]
