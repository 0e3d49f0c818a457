"""Whether a history of concurrent operations on one register could have happened one by one.

The algorithm is Wing and Gong's with Lowe's memory of configurations ("Testing for
linearizability", 2017): an operation may come next if no other one ended before it began. What may
come next, gives its answer and changes nothing comes at once: no order is lost by that. Registers
are independent of each other, so each is checked alone, which is exact (Herlihy and Wing 1990,
"locality").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

Value = str | None
Kind = Literal["put", "get", "delete", "clear", "seen"]


@dataclass(frozen=True)
class Operation:
    """What a client asked of a register between two moments, and what it was told.

    - put: the register has `value` from then on;
    - get: it had `value`, None for "there is none";
    - delete: it had something and has nothing from then on (`held`), or had nothing;
    - clear: if it had `value` it has nothing from then on; without `held` it did not have it;
    - seen: it had something (`held`), or nothing.

    `ended` is infinite if there was no answer: then it happened at some time, or never.
    """

    kind: Kind
    began: float
    ended: float = inf
    value: Value = None
    held: bool = True

    @property
    def answered(self) -> bool:
        return self.ended != inf

    @property
    def looks_only(self) -> bool:
        """It changes nothing, whatever the register has."""
        return self.answered and (self.kind in ("get", "seen") or not self.held)


def explains(operations: Iterable[Operation], start: Value = None) -> bool:
    """Whether some order of these, from `start` on, gives every answer that was given."""
    # An unanswered question asks nothing of the order.
    ordered = sorted(
        (each for each in operations if each.answered or each.kind not in ("get", "seen")),
        key=lambda each: each.began,
    )
    answered = sum(1 << at for at, each in enumerate(ordered) if each.answered)
    stack: list[tuple[int, Value]] = [(0, start)]
    known = set(stack)
    while stack:
        done, value = stack.pop()
        if done & answered == answered:
            return True
        for configuration in _steps(ordered, done, value):
            if configuration not in known:
                known.add(configuration)
                stack.append(configuration)
    return False


def _steps(ordered: Sequence[Operation], done: int, value: Value) -> list[tuple[int, Value]]:
    """The configurations that one more operation leads to, as few as will do."""
    steps: dict[tuple[Kind, Value, float], tuple[int, Value]] = {}
    for at in _next(ordered, done):
        operation = ordered[at]
        after = _EFFECTS[operation.kind](operation, value)
        if after is _IMPOSSIBLE:
            continue
        step = (done | 1 << at, after)
        if operation.looks_only:
            return [step]
        if operation.answered:
            steps["put", after, at] = step
        elif after != value:
            # Of unanswered ones that do the same, one is as good as another.
            steps.setdefault((operation.kind, operation.value, inf), step)
    return list(steps.values())


def _next(ordered: Sequence[Operation], done: int) -> list[int]:
    """Operations that may come next: no other one ended before they began."""
    found: list[int] = []
    first_end = inf
    # All before the lowest bit that is not set are done.
    for at in range((~done & done + 1).bit_length() - 1, len(ordered)):
        if done >> at & 1:
            continue
        each = ordered[at]
        if each.began > first_end:
            break
        found.append(at)
        first_end = min(first_end, each.ended)
    return found


# --- what each operation does to a register -------------------------------------------------------

_IMPOSSIBLE = "(impossible)"
_Effect = Callable[[Operation, Value], Value]


def _put(operation: Operation, value: Value) -> Value:
    return operation.value


def _get(operation: Operation, value: Value) -> Value:
    return value if value == operation.value else _IMPOSSIBLE


def _delete(operation: Operation, value: Value) -> Value:
    if not operation.answered or operation.held == (value is not None):
        return None
    return _IMPOSSIBLE


def _clear(operation: Operation, value: Value) -> Value:
    if value != operation.value:
        return value
    return None if operation.held or not operation.answered else _IMPOSSIBLE


def _seen(operation: Operation, value: Value) -> Value:
    return value if operation.held == (value is not None) else _IMPOSSIBLE


_EFFECTS: dict[Kind, _Effect] = {
    "put": _put,
    "get": _get,
    "delete": _delete,
    "clear": _clear,
    "seen": _seen,
}
