"""Use cases in two halves: bytes that are safe already, and the facts about them still to commit.

Bytes come before facts (docs/design/architecture.md), so there is a place to wait in. Where one
thread does several of them, the bytes of all come first and then the facts, in one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ullage.database.transaction import Work
from ullage.registry.context import Registry

P = ParamSpec("P")
T = TypeVar("T")


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True)
class Half(Generic[T]):
    """What is left to do: `facts`, and then `ended` with what they gave, or `undone`."""

    facts: Work[Any]
    ended: Callable[[Any], T]
    undone: Callable[[], None] = _nothing

    def end(self, outcome: Any) -> T:
        """What the use case gives, its facts having given `outcome`. Raises what they raised."""
        if isinstance(outcome, BaseException):
            self.undone()
            raise outcome
        return self.ended(outcome)


def done(result: T) -> Half[T]:
    """Nothing is left to do."""
    return Half(lambda _: result, lambda outcome: outcome)


def complete(registry: Registry, half: Half[T]) -> T:
    """Do the second half. Raises what its facts raise, and what Registry.write does."""
    (outcome,) = registry.write_each([half.facts])
    return half.end(outcome)


def whole(
    begin: Callable[Concatenate[Registry, P], Half[T]],
) -> Callable[Concatenate[Registry, P], T]:
    """The use case whose first half is `begin`: takes and raises the same, and gives its result."""

    def both(registry: Registry, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return complete(registry, begin(registry, *args, **kwargs))

    return both


def complete_each(registry: Registry, halves: Sequence[Half[Any]]) -> list[Any]:
    """Do several second halves in one commit: what each gave or, in its place, what it raised."""
    if not halves:
        return []
    outcomes = registry.write_each([half.facts for half in halves])
    return [_end(half, outcome) for half, outcome in zip(halves, outcomes, strict=True)]


def _end(half: Half[Any], outcome: Any) -> Any:
    try:
        return half.end(outcome)
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits
        return error
