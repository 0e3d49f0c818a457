"""What pushes wait for beside a purge, and how long that takes alone: `python -m bench.purging`.

    python -m bench.purging --peer http://127.0.0.1:5300    # another Ullage that runs already
    python -m bench.purging --peer-checkout ../before       # another commit

Both get the same in turns: untagged manifests and a purge of them, first alone, then while one
client pushes small images. docs/benchmarks.md has figures and what they mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.connection import Connection
from bench.deleting import quantiles
from bench.images import Image, make_image, push_blob, push_image, put_manifest
from bench.measure import Server
from bench.servers import Checkout, Running, Ullage
from bench.together import together

REPOSITORY = "bench/purged"
MANIFESTS = 20_000
CLIENTS = 8
# After it, pushes that filled a server no longer count as pushes beside the purge.
SETTLING_SECONDS = 2.0
PATIENCE_SECONDS = 1800.0

# Seconds and milliseconds, by their names.
Figures = Mapping[str, float]


def measured(server: Server, manifests: int) -> Figures:
    """One turn of a server: `alone` and `beside` in seconds, the pushes' `p50` and `p99` in ms."""
    fill(server, manifests)
    time.sleep(SETTLING_SECONDS)
    alone = purge(server, manifests)
    fill(server, manifests)
    time.sleep(SETTLING_SECONDS)
    times: list[float] = []
    with pushing(server, times):
        beside = purge(server, manifests)
    found = quantiles(times)
    return {"alone": alone, "beside": beside, "p50": found["p50"], "p99": found["p99"]}


def fill(server: Server, manifests: int) -> None:
    """Push so many untagged manifests that share their blobs."""
    image = make_image(1, 2000)
    with Connection(server.url) as connection:
        for blob in image.blobs:
            push_blob(connection, REPOSITORY, blob.data, blob.digest)

    def push(client: int) -> None:
        with Connection(server.url) as connection:
            for number in range(client, manifests, CLIENTS):
                each = _annotated(image, str(number))
                put_manifest(connection, REPOSITORY, each, each.digest)

    together([partial(push, client) for client in range(CLIENTS)])


def _annotated(image: Image, text: str) -> Image:
    manifest = {**json.loads(image.manifest), "annotations": {"number": text}}
    return Image(image.blobs, json.dumps(manifest).encode())


def purge(server: Server, manifests: int) -> float:
    """Seconds from asking for a purge of all that is untagged until its job is done."""
    wanted = {"filters": [f"{REPOSITORY}:.*"], "untagged_only": True, "ago": "0s"}
    with Connection(server.url) as connection:
        began = time.perf_counter()
        body = json.dumps(wanted).encode()
        answer = connection.expect(202, "POST", "/api/v1/purge", body, "application/json")
        path = answer.headers["location"]
        while time.perf_counter() - began < PATIENCE_SECONDS:
            job = json.loads(connection.expect(200, "GET", path).body)
            if job["finished"] is not None:
                assert job["state"] == "done", job
                return time.perf_counter() - began
            time.sleep(0.05)
    raise AssertionError(f"{manifests} manifests take too long")


@contextmanager
def pushing(server: Server, times: list[float]) -> Iterator[None]:
    """One client pushes small images; `times` gets the seconds of each."""
    stop = threading.Event()

    def push() -> None:
        with Connection(server.url) as connection:
            while not stop.is_set():
                image = make_image(1, 2000)
                began = time.perf_counter()
                push_image(connection, "bench/meanwhile", image, "latest")
                times.append(time.perf_counter() - began)
                # What is measured is waiting, not a full machine.
                stop.wait(0.01)

    thread = threading.Thread(target=push)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.purging", description=(__doc__ or "").split("\n")[0]
    )
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--peer", metavar="URL", help="another Ullage that runs, to compare with")
    peers.add_argument(
        "--peer-checkout",
        type=Path,
        metavar="PATH",
        help="one of another commit, checked out there",
    )
    parser.add_argument("--manifests", type=int, default=MANIFESTS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ullage-bench-") as name:
        folder = Path(name).resolve()
        ours = [Ullage(folder / "ullage")]
        if options.peer_checkout:
            ours.append(Checkout(folder / "peer", options.peer_checkout))
        servers: list[Server] = [*ours, *([Running(options.peer)] if options.peer else [])]
        with ExitStack() as running:
            for own in ours:
                own.start()
                running.callback(own.stop)
            rounds = [_round(servers, options.manifests) for _ in range(options.rounds)]
    for number, server in enumerate(servers):
        medians = {
            key: round(statistics.median(each[number][key] for each in rounds), 2)
            for key in rounds[0][number]
        }
        print(f"{server.name}: medians {json.dumps(medians)}")


def _round(servers: Sequence[Server], manifests: int) -> list[Figures]:
    found = []
    for server in servers:
        found.append(measured(server, manifests))
        print(f"{server.name}: {json.dumps(found[-1])}", flush=True)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
