"""A use case whose bytes are safe, and whose facts are still to be committed.

Bytes come before facts (docs/design/architecture.md), so there is a place to wait in. Where one
thread does several of them, the bytes of all come first and then the facts, in one commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ullage.database.transaction import Transaction
from ullage.registry.context import Registry

T = TypeVar("T")


class Prepared(ABC, Generic[T]):
    """What is left of a use case: its facts, and what follows once they are there or refused."""

    @abstractmethod
    def record(self, tx: Transaction) -> T:
        """Write the facts; returns the result of the use case."""

    def recorded(self, result: T) -> None:
        """The facts are committed."""

    def undo(self) -> None:
        """The facts are refused: give back what the use case took before."""

    def end(self, outcome: Any) -> T:
        """The result of the use case, from what `record` returned or raised. Raises the latter."""
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


def commit_each(registry: Registry, prepared: Sequence[Prepared[Any]]) -> list[Any]:
    """Commit several together: the result of each or, in its place, what it raised."""
    if not prepared:
        return []
    outcomes = registry.write_each([each.record for each in prepared])
    return [_end(each, outcome) for each, outcome in zip(prepared, outcomes, strict=True)]


def _end(prepared: Prepared[Any], outcome: Any) -> Any:
    try:
        return prepared.end(outcome)
    except BaseException as error:  # noqa: BLE001 - handed to the request that waits for it
        return error
