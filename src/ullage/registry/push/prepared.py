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
class Prepared(Generic[T]):
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


def already_done(result: T) -> Prepared[T]:
    """Nothing is left to do."""
    return Prepared(lambda _: result, lambda outcome: outcome)


def commit(registry: Registry, prepared: Prepared[T]) -> T:
    """Do the second half. Raises what its facts raise, and what Registry.write does."""
    (outcome,) = registry.write_each([prepared.facts])
    return prepared.end(outcome)


def in_one_go(
    begin: Callable[Concatenate[Registry, P], Prepared[T]],
) -> Callable[Concatenate[Registry, P], T]:
    """The use case whose first half is `begin`: takes and raises the same, and gives its result."""

    def both(registry: Registry, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return commit(registry, begin(registry, *args, **kwargs))

    return both


def commit_each(registry: Registry, prepared: Sequence[Prepared[Any]]) -> list[Any]:
    """Do several second halves in one commit: what each gave or, in its place, what it raised."""
    if not prepared:
        return []
    outcomes = registry.write_each([prepared.facts for prepared in prepared])
    return [_end(prepared, outcome) for prepared, outcome in zip(prepared, outcomes, strict=True)]


def _end(prepared: Prepared[Any], outcome: Any) -> Any:
    try:
        return prepared.end(outcome)
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits
        return error
