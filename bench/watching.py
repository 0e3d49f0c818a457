"""What it costs to watch a large registry: `python -m bench.watching http://127.0.0.1:5000`.

The address is that of a server without accounts, on a registry such as `python -m bench.workload`
makes. It is asked once it has taken its bill: for the usage as people and as programs ask for it,
for the figures of Prometheus, and whether it is ready. Also what counting adds to a request.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from statistics import median

import httpx
from starlette.types import Message

from ullage.server.distribution.routes import ROUTES
from ullage.server.http.request import Request
from ullage.server.monitoring.counting import RequestCounts

ASKED = 100
COUNTED = 200_000
# To take the bill of a million manifests takes seconds, on a busy machine a minute.
PATIENCE_SECONDS = 900.0


def milliseconds(ask: Callable[[], object]) -> str:
    """The shortest and the median, of requests over a kept connection: others may be at work."""
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return f"fastest {min(took):.1f} ms, median {median(took):.1f} ms"


def wait_for_bill(client: httpx.Client) -> float:
    """Seconds until the bill was there."""
    began = time.monotonic()
    while "ullage_overview_timestamp_seconds" not in client.get("/metrics").text:
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise SystemExit("the bill was not taken in time")
        time.sleep(1)
    return time.monotonic() - began


def counting_microseconds() -> float:
    """What a request pays for being counted."""
    counts = RequestCounts()
    pull = next(route for route in ROUTES if route.endpoint == "end-3")
    request = Request({"type": "http", "method": "GET", "headers": []}, _nothing)
    head = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
    began = time.process_time()
    for _ in range(COUNTED):
        counts.begun.add(request)
        counts.begun.discard(request)
        counts.end(("GET", pull, 200, None, 0.003, head))
    return (time.process_time() - began) / COUNTED * 1e6


async def _nothing() -> Message:
    raise AssertionError("nothing is read")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.watching", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("url", help="where it serves")
    given = parser.parse_args()
    with httpx.Client(base_url=given.url, timeout=PATIENCE_SECONDS) as client:
        print(f"the bill was there after {wait_for_bill(client):.0f} s")
        figures = client.get("/metrics").text
        for name in ("repositories", "manifests", "blobs", "tags"):
            found = re.search(rf"^ullage_{name} (\S+)$", figures, re.MULTILINE)
            print(f"{name}: {float(found[1]) if found else 0:.0f}")
        for page in ("/api/v1/usage?top=20", "/api/v1/usage", "/metrics", "/readyz"):
            print(f"{page}: {milliseconds(lambda page=page: client.get(page))}")  # type: ignore[misc]
        began = time.perf_counter()
        client.get("/api/v1/usage", params={"fresh": "true", "top": "20"})
        print(f"counted anew: {time.perf_counter() - began:.1f} s")
    print(f"counting a request: {counting_microseconds():.2f} us")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
