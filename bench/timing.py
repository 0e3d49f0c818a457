"""Can somebody tell by the clock which accounts and repositories there are?

    python bench/timing.py [--requests 2000] [--logins 2000] [--json FILE]

Starts a registry with accounts and asks it, in turns, for two things that must look alike; prints
the median of each, Welch's t of the faster 90 % of each, and the difference. reliability.md section
3.3 accepts |t| < 4.5 or a difference below 5 % of the median.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.access.house import House
from tests.access.keep import Keep
from tests.support.clock import FakeClock
from ullage.accounts.throttle import LONGEST_WAIT

LARGEST_T = 4.5
LARGEST_SHARE = 0.05
# What the scheduler adds to the slowest requests says nothing about the code.
KEPT = 0.9


@dataclass(frozen=True)
class Comparison:
    """Two kinds of requests; medians in milliseconds."""

    name: str
    requests: int
    first_ms: float
    second_ms: float
    t: float

    @property
    def share(self) -> float:
        return abs(self.first_ms - self.second_ms) / min(self.first_ms, self.second_ms)

    @property
    def alike(self) -> bool:
        return abs(self.t) < LARGEST_T or self.share < LARGEST_SHARE


def compare(name: str, requests: int, attempt: Callable[[int], float]) -> Comparison:
    """Make both attempts, 0 and 1, `requests` times each in random order; each gives seconds."""
    order = [0, 1] * requests
    random.Random(name).shuffle(order)  # an order, no secret
    times: tuple[list[float], list[float]] = ([], [])
    for which in order:
        times[which].append(attempt(which))
    kept = [sorted(some)[: int(len(some) * KEPT)] for some in times]
    medians = [statistics.median(some) * 1000 for some in times]
    return Comparison(name, requests, medians[0], medians[1], welch(kept[0], kept[1]))


def welch(first: list[float], second: list[float]) -> float:
    """Welch's t: how many standard errors the two means are apart."""
    spread = sum(statistics.variance(some) / len(some) for some in (first, second))
    return (statistics.mean(first) - statistics.mean(second)) / math.sqrt(spread)


def repositories(requests: int) -> Iterator[Comparison]:
    """A repository of somebody else against one that is not there, over one connection."""
    with tempfile.TemporaryDirectory() as folder, House(Path(folder) / "data") as house:
        house.token("reader", ["team/*", "content/read"])
        house.push_image("rival/app", "v1", b"layer")
        kinds = {
            "Basic": house.basic("reader"),
            "Bearer": house.bearer("reader", "repository:*:*"),
            "anonymous": {},
        }
        connection = http.client.HTTPConnection(house.server.host, timeout=60)

        def refused(which: int, headers: dict[str, str]) -> float:
            name = ("rival/app", "rival/abs")[which]
            began = time.perf_counter()
            connection.request("GET", f"/v2/{name}/tags/list", headers=headers)
            response = connection.getresponse()
            response.read()
            took = time.perf_counter() - began
            assert response.status == 401
            return took

        for kind, headers in kinds.items():
            label = f"repository of others / absent, {kind}"
            yield compare(label, requests, partial(refused, headers=headers))
        connection.close()


def logins(requests: int) -> Iterator[Comparison]:
    """A wrong password for somebody against one for nobody.

    In this process and with a clock of its own: a server slows down who guesses so often.
    """
    with tempfile.TemporaryDirectory() as folder:
        keep = Keep(f"sqlite:///{folder}/ullage.db", FakeClock())
        keep.user("known-user", "the right password")
        keep.token("known-token", "content/read")

        def refused(which: int, known: str) -> float:
            keep.advance(LONGEST_WAIT * 2)
            name = (known, f"nobody-{uuid.uuid4().hex[:6]}")[which]
            began = time.perf_counter()
            let_in = keep.lets_in(name, "a wrong password")
            took = time.perf_counter() - began
            assert not let_in
            return took

        for kind, name in (("user", "known-user"), ("token", "known-token")):
            label = f"wrong password of a {kind} / of nobody"
            yield compare(label, requests, partial(refused, known=name))
        keep.registry.db.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind")
    parser.add_argument("--logins", type=int, default=2000, help="of each kind")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    found = []
    for comparison in chain(repositories(options.requests), logins(options.logins)):
        found.append(comparison)
        verdict = "alike" if comparison.alike else "TELLS THEM APART"
        print(
            f"{comparison.name:<45} {comparison.first_ms:8.3f} ms {comparison.second_ms:8.3f} ms"
            f"  t = {comparison.t:6.2f}  {comparison.share:6.2%}  {verdict}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=2))
    return 0 if all(comparison.alike for comparison in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
