"""A use case whose bytes are safe, and whose facts are still to be committed.

Bytes come before facts (docs/design/architecture.md), so there is a place to wait in. Where one
thread does several of them, the bytes of all come first and then the facts, in one commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from ullage.database.transaction import Transaction
from ullage.oci.errors import Unavailable
from ullage.registry.context import Registry

T = TypeVar("T")


class Facts(ABC, Generic[T]):
    """Facts of a use case that one statement can write of many at once."""

    @property
    @abstractmethod
    def apart(self) -> Hashable:
        """No two with the same are written at once."""

    @classmethod
    @abstractmethod
    def record_all(cls, tx: Transaction, several: Sequence[Any]) -> list[T]:
        """Write them all, of one registry; the results of the use cases.

        What it raises may be about any of them.
        """

    def record(self, tx: Transaction) -> T:
        """Write these alone; the result of the use case."""
        (result,) = self.record_all(tx, [self])
        return result


class NotTogether(Exception):
    """Raised by Facts.record_all of several, to be asked for each of them."""


class Prepared(ABC, Generic[T]):
    """What is left of a use case: its facts, and what follows once they are there or refused."""

    # What can be recorded together with others of its kind.
    facts: Facts[T] | None = None

    @abstractmethod
    def record(self, tx: Transaction) -> T:
        """Write the facts; returns the result of the use case."""

    def again(self, outcome: Any) -> Any:
        """What becomes of an outcome that says what to do before it is tried once more."""
        return outcome

    def recorded(self, result: T) -> None:
        """The facts are committed."""

    def undo(self) -> None:
        """The facts are refused: give back what the use case took before."""

    def end(self, outcome: Any) -> T:
        """The result of the use case, from what `record` returned or raised. Raises the latter."""
        outcome = self.again(outcome)
        if isinstance(outcome, BaseException):
            self.undo()
            raise outcome
        self.recorded(outcome)
        result: T = outcome
        return result


@dataclass(frozen=True, slots=True)
class AlreadyDone(Prepared[T]):
    """Nothing is left to do."""

    result: T

    def record(self, tx: Transaction) -> T:
        return self.result


def commit(registry: Registry, prepared: Prepared[T]) -> T:
    """Commit one use case. Raises what its facts raise, and what Registry.write does."""
    (outcome,) = registry.write_each([prepared.record])
    return prepared.end(outcome)


class Left(NamedTuple):
    """What was not committed with the others, and is still to be."""

    prepared: Prepared[Any]


def commit_each(registry: Registry, prepared: Sequence[Prepared[Any]]) -> list[Any]:
    """Commit several together: the result of each or, in its place, what it raised.

    Facts of one kind are written at once. Where that fails, each is to undo only itself: it is
    committed alone, or Left to be, where others would have to wait for that.
    """
    if not prepared:
        return []
    hurried = not registry.db.inline_reads
    sets = _sets(prepared)
    works = [partial(_record, [prepared[place] for place in places]) for places in sets]
    recorded: dict[int, Any] = {}
    for places, outcome in zip(sets, registry.write_each(works, hurried=hurried), strict=True):
        if not isinstance(outcome, BaseException):
            recorded |= zip(places, outcome, strict=True)
        elif len(places) == 1 and not (hurried and _may_go_alone(outcome)):
            recorded[places[0]] = outcome
    left = [place for place in range(len(prepared)) if place not in recorded]
    if not hurried:
        alone = [prepared[place].record for place in left]
        recorded |= zip(left, registry.write_each(alone) if left else [], strict=True)
    return [
        _end(each, recorded[place]) if place in recorded else Left(each)
        for place, each in enumerate(prepared)
    ]


def _may_go_alone(error: BaseException) -> bool:
    """Whether it failed only because it was hurried."""
    return isinstance(error, NotTogether | Unavailable)


def _sets(prepared: Sequence[Prepared[Any]]) -> list[list[int]]:
    """Places of what is written at once."""
    sets: dict[Hashable, list[int]] = {}
    times: Counter[Hashable] = Counter()
    for place, each in enumerate(prepared):
        if each.facts is None:
            sets[place] = [place]
            continue
        apart = (type(each.facts), each.facts.apart)
        sets.setdefault((type(each.facts), times[apart]), []).append(place)
        times[apart] += 1
    return list(sets.values())


def _record(prepared: Sequence[Prepared[Any]], tx: Transaction) -> list[Any]:
    facts = [each.facts for each in prepared if each.facts is not None]
    return facts[0].record_all(tx, facts) if facts else [each.record(tx) for each in prepared]


def _end(prepared: Prepared[Any], outcome: Any) -> Any:
    try:
        return prepared.end(outcome)
    except BaseException as error:  # noqa: BLE001 - handed to the request that waits for it
        return error
