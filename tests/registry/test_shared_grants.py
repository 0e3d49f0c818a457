"""Callers that want the same at once share one piece of work (registry/leases/shared_grants.py)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from ullage.registry.leases.shared_grants import SharedGrants

SECONDS = 30


class Slow:
    """Work that notes for which caller it was done, and ends when it is told to."""

    def __init__(self) -> None:
        self.done_for: list[list[str]] = []
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.failure: Exception | None = None

    def __call__(self, values: Sequence[str]) -> int:
        self.done_for.append(sorted(values))
        self.began.set()
        assert self.may_end.wait(SECONDS)
        if self.failure is not None:
            raise self.failure
        return len(values)


Pieces = SharedGrants[str, str, int]


def start(
    together: Pieces, pool: ThreadPoolExecutor, key: str, value: str, work: Slow
) -> Future[int]:
    """Let a caller come; when this returns it works or waits."""
    waiting = together.waiting(key)
    future = pool.submit(together.join, key, value, work)
    while not work.began.is_set() and together.waiting(key) == waiting:
        wait([future], timeout=0.001)
    return future


@pytest.fixture
def together() -> Pieces:
    return SharedGrants()


def test_who_comes_while_another_works_shares_what_comes_next(together: Pieces) -> None:
    first, next_ = Slow(), Slow()
    with ThreadPoolExecutor(4) as pool:
        alone = start(together, pool, "layer", "a", first)
        assert first.began.wait(SECONDS)
        shared = [start(together, pool, "layer", value, next_) for value in "bcd"]
        assert not next_.began.is_set()
        next_.may_end.set()
        first.may_end.set()
        assert alone.result(SECONDS) == 1
        assert [future.result(SECONDS) for future in shared] == [3, 3, 3]
    assert (first.done_for, next_.done_for) == ([["a"]], [["b", "c", "d"]])


def test_who_comes_late_gets_nothing_that_was_done_before_it_came(together: Pieces) -> None:
    """Also not what waited before it and has begun since: that may have looked already."""
    works = [Slow(), Slow(), Slow()]
    with ThreadPoolExecutor(3) as pool:
        futures = []
        for n, work in enumerate(works):
            futures.append(start(together, pool, "layer", "abc"[n], work))
            if n > 0:
                works[n - 1].may_end.set()
            assert work.began.wait(SECONDS)
        works[-1].may_end.set()
        assert [future.result(SECONDS) for future in futures] == [1, 1, 1]
    assert [work.done_for for work in works] == [[["a"]], [["b"]], [["c"]]]


def test_another_key_does_not_wait(together: Pieces) -> None:
    slow, quick = Slow(), Slow()
    quick.may_end.set()
    with ThreadPoolExecutor(2) as pool:
        waiting = start(together, pool, "layer", "a", slow)
        assert together.join("another layer", "b", quick) == 1
        assert not waiting.done()
        slow.may_end.set()
        assert waiting.result(SECONDS) == 1


def test_a_failure_reaches_all_that_shared_it_and_no_other(together: Pieces) -> None:
    first, failing, after = Slow(), Slow(), Slow()
    failing.failure = ConnectionError("the database is away")
    for work in (failing, after):
        work.may_end.set()
    with ThreadPoolExecutor(3) as pool:
        alone = start(together, pool, "layer", "a", first)
        assert first.began.wait(SECONDS)
        shared = [start(together, pool, "layer", value, failing) for value in "bc"]
        first.may_end.set()
        assert alone.result(SECONDS) == 1
        for future in shared:
            with pytest.raises(ConnectionError, match="is away"):
                future.result(SECONDS)
    assert together.join("layer", "d", after) == 1


def test_nothing_is_kept_of_what_is_done(together: Pieces) -> None:
    work = Slow()
    work.may_end.set()
    for value in "abc":
        assert together.join("layer", value, work) == 1
    assert together._last == {}
