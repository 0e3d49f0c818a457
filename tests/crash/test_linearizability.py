"""The checker itself: histories that have an order, and histories that have none."""

import random
from math import inf

import pytest

from tests.crash.linearizability import Kind, Operation, Value, explains


def op(
    kind: Kind, began: float, ended: float = inf, value: Value = None, *, held: bool = True
) -> Operation:
    return Operation(kind, began, ended, value, held)


GOOD = {
    "nothing": [],
    "one after the other": [
        op("put", 0, 1, "a"), op("get", 2, 3, "a"), op("delete", 4, 5), op("get", 6, 7),
    ],
    "a read of before, while a write goes on": [
        op("put", 0, 1, "a"), op("put", 2, 9, "b"), op("get", 3, 4, "a"), op("get", 5, 6, "b"),
    ],
    "two writes at once, read in either order": [
        op("put", 0, 9, "a"), op("put", 0, 9, "b"), op("get", 10, 11, "a"),
    ],
    "an unanswered write that happened": [op("put", 0, value="a"), op("get", 5, 6, "a")],
    "an unanswered write that happened late": [
        op("put", 0, value="a"), op("get", 1, 2), op("get", 3, 4, "a"),
    ],
    "an unanswered write that never happened": [op("put", 0, value="a"), op("get", 5, 6)],
    "an unanswered deletion that happened": [
        op("put", 0, 1, "a"), op("delete", 2), op("get", 5, 6),
    ],
    "an unanswered deletion that never happened": [
        op("put", 0, 1, "a"), op("delete", 2), op("get", 5, 6, "a"),
    ],
    "a deletion refused while the write goes on": [
        op("put", 0, 9, "a"), op("delete", 1, 2, held=False), op("get", 10, 11, "a"),
    ],
    "an image that goes with its tag": [
        op("put", 0, 1, "a"), op("clear", 2, 3, "a"), op("get", 4, 5),
    ],
    "an image that goes, and the tag had moved on": [
        op("put", 0, 1, "a"), op("put", 2, 3, "b"), op("clear", 4, 5, "a"), op("get", 6, 7, "b"),
    ],
    "a listing in between": [
        op("seen", 0, 1, held=False), op("put", 2, 3, "a"), op("seen", 4, 5),
    ],
}  # fmt: skip

BAD = {
    "a stale read": [op("put", 0, 1, "a"), op("put", 2, 3, "b"), op("get", 4, 5, "a")],
    "a lost update": [op("put", 0, 1, "a"), op("get", 2, 3)],
    "a resurrected value": [op("put", 0, 1, "a"), op("delete", 2, 3), op("get", 4, 5, "a")],
    "a value nobody wrote": [op("put", 0, 1, "a"), op("get", 2, 3, "b")],
    "reads that go back": [
        op("put", 0, 1, "a"), op("put", 2, 20, "b"), op("get", 3, 4, "b"), op("get", 5, 6, "a"),
    ],
    "two readers that see two orders": [
        op("put", 0, 30, "a"), op("put", 0, 30, "b"),
        op("get", 1, 2, "a"), op("get", 3, 4, "b"), op("get", 5, 6, "a"),
    ],
    "a deletion twice": [op("put", 0, 1, "a"), op("delete", 2, 3), op("delete", 4, 5)],
    "a refused deletion of what is there": [
        op("put", 0, 1, "a"), op("delete", 2, 3, held=False),
    ],
    "an unanswered write that is undone by itself": [
        op("put", 0, value="a"), op("get", 1, 2, "a"), op("get", 3, 4),
    ],
    "a tag that outlives its image": [
        op("put", 0, 1, "a"), op("clear", 2, 3, "a"), op("get", 4, 5, "a"),
    ],
    "an image that was not there under its tag": [
        op("put", 0, 1, "a"), op("clear", 2, 3, "a", held=False),
    ],
    "a listing that misses it": [op("put", 0, 1, "a"), op("seen", 2, 3, held=False)],
    "a listing that still has it": [
        op("put", 0, 1, "a"), op("delete", 2, 3), op("seen", 4, 5),
    ],
}  # fmt: skip


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_a_history_with_an_order_is_accepted(history: list[Operation]) -> None:
    assert explains(history)


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_a_history_without_one_is_not(history: list[Operation]) -> None:
    assert not explains(history)


def register(seed: int, size: int) -> list[Operation]:
    """What eight clients are told by a register that is right; some answers are lost."""
    chance = random.Random(seed)
    free_at, now, value, history = [0.0] * 8, 0.0, None, list[Operation]()
    for _ in range(size):
        # Each takes effect at `now`, and its client waited before and after.
        client = min(range(8), key=lambda each: free_at[each])
        now = max(now + 1, free_at[client])
        began, ended = max(free_at[client], now - chance.random() * 8), now + chance.random() * 8
        free_at[client] = ended
        if chance.random() < 0.05:
            ended = inf
        kind: Kind = chance.choice(["put", "get", "delete", "clear", "seen"])
        match kind:
            case "put":
                value = chance.choice("abc")
                history.append(op(kind, began, ended, value))
            case "clear":
                wanted = chance.choice("abc")
                history.append(op(kind, began, ended, wanted))
                value = None if value == wanted else value
            case "delete":
                history.append(op(kind, began, ended, held=value is not None))
                value = None
            case _:
                history.append(op(kind, began, ended, value, held=value is not None))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_what_a_right_register_said_is_accepted(seed: int) -> None:
    """200 operations; and it takes no time."""
    assert explains(register(seed, 200))


@pytest.mark.parametrize("seed", range(4))
def test_one_wrong_answer_among_two_hundred_is_found_out(seed: int) -> None:
    history = register(seed, 200)
    reads = [at for at, each in enumerate(history) if each.kind == "get" and each.answered]
    at = reads[len(reads) // 2]
    history[at] = op("get", history[at].began, history[at].ended, "what nobody put")
    assert not explains(history)
