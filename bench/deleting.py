"""How long deleting takes, and what pushes and pulls notice of it: `python -m bench.deleting`.

    python -m bench.deleting many FOLDER    # the orphans of ci/orphans: by a purge, by a plan
    python -m bench.deleting one FOLDER …   # one image of ci/orphans, in registries of any size

A FOLDER is one that `bench.workload` made. `many` works on a copy of it, `one` on the folder itself
(each round deletes an image of it). docs/benchmarks.md has figures and what they mean.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.connection import Connection
from bench.images import Blob, make_image, push_image
from bench.servers import Ullage

REPOSITORY = "ci/orphans"
IDLE_SECONDS = 15.0
PATIENCE_SECONDS = 1800.0
PUSHERS, PULLERS = 1, 2
# Between two requests of one client: what is measured is waiting, not a full machine.
PAUSE_SECONDS = 0.01


class Load:
    """Clients that push small images and pull them, and how long each of that took."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._times: dict[str, list[float]] = {"push": [], "pull": []}
        self._lock = threading.Lock()
        self._base = Blob.random(20_000)
        self._threads = [
            *(threading.Thread(target=self._push, args=(n,)) for n in range(PUSHERS)),
            *(threading.Thread(target=self._pull) for _ in range(PULLERS)),
        ]

    def __enter__(self) -> Load:
        with Connection(self._url) as connection:
            image = make_image(1, 2000, ())
            push_image(connection, "bench/pulled", image, "latest")
            self._digest = image.blobs[0].digest
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def taken(self) -> dict[str, list[float]]:
        """What was measured since it was asked for last."""
        with self._lock:
            times, self._times = self._times, {"push": [], "pull": []}
        return times

    def _note(self, kind: str, began: float) -> None:
        with self._lock:
            self._times[kind].append(time.perf_counter() - began)
        self._stop.wait(PAUSE_SECONDS)

    def _push(self, number: int) -> None:
        with Connection(self._url) as connection:
            while not self._stop.is_set():
                image = make_image(1, 2000, ())
                began = time.perf_counter()
                push_image(connection, f"bench/pushed{number}", image, "latest")
                self._note("push", began)

    def _pull(self) -> None:
        """A manifest by its tag, then its config."""
        with Connection(self._url) as connection:
            while not self._stop.is_set():
                began = time.perf_counter()
                connection.expect(200, "GET", "/v2/bench/pulled/manifests/latest")
                connection.expect(200, "GET", f"/v2/bench/pulled/blobs/{self._digest}")
                self._note("pull", began)


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "p50": 1000 * ordered[len(ordered) // 2],
        "p99": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "worst": 1000 * ordered[-1],
    }


# --- many -----------------------------------------------------------------------------------------


def many(folder: Path, way: str) -> dict[str, Any]:
    """Delete all orphans while others push and pull: seconds, and what those waited."""
    with _copy(folder) as copy, serving(copy) as server, Load(server.url) as load:
        time.sleep(2)
        load.taken()
        time.sleep(IDLE_SECONDS)
        idle = load.taken()
        filters = {"filters": [f"{REPOSITORY}:.*"], "untagged_only": True}
        figures: dict[str, Any] = {"way": way}
        with Connection(server.url) as connection:
            began = time.perf_counter()
            plan = _post(connection, "/api/v1/plans?n=0", filters, 201)
            figures["planned_seconds"] = time.perf_counter() - began
            figures["manifests"] = plan["manifest_count"]
            figures["freed_predicted"] = plan["freed_bytes"] + plan["freed_later_bytes"]
            planning = load.taken()
            began = time.perf_counter()
            if way == "purge":
                job = _post(connection, "/api/v1/purge", filters, 202)["id"]
            else:
                job = _post(connection, f"/api/v1/plans/{plan['id']}/apply", {}, 202)["job"]
            done = _wait(connection, job)
            figures["deleted_seconds"] = time.perf_counter() - began
            deleting = load.taken()
            figures["freed"] = done["freed_bytes"] + done["freed_later_bytes"]
            _wait_until_erased(connection)
            figures["off_the_disk_seconds"] = time.perf_counter() - began
            unlinking = load.taken()
    for name, times in (
        ("idle", idle),
        ("planning", planning),
        ("deleting", deleting),
        ("unlinking", unlinking),
    ):
        for kind in ("push", "pull"):
            if times[kind]:
                figures[f"{kind}_{name}"] = quantiles(times[kind])
    return figures


def _wait(connection: Connection, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found: dict[str, Any] = json.loads(
            connection.expect(200, "GET", f"/api/v1/jobs/{job}").body
        )
        if found["finished"] is not None:
            if found["state"] != "done":
                raise AssertionError(f"the job was {found['state']}: {found['notes']}")
            return found
        time.sleep(0.2)
    raise AssertionError("the job takes too long")


def _wait_until_erased(connection: Connection) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        bill = json.loads(connection.expect(200, "GET", "/api/v1/usage?top=0").body)
        # Tags that move leave something to erase all the time.
        if bill["registry"]["pending_bytes"] < 1_000_000:
            return
        time.sleep(0.5)
    raise AssertionError("erasing takes too long")


# --- one ------------------------------------------------------------------------------------------


def one(folder: Path, rounds: int) -> dict[str, Any]:
    """Delete single images of ci/orphans: milliseconds of a DELETE, as its client sees it."""
    with serving(folder) as server, Connection(server.url) as connection:
        digests = orphans(connection, rounds + 5)
        total = json.loads(connection.expect(200, "GET", "/api/v1/usage?top=0").body)
        times: list[float] = []
        for digest in digests:
            began = time.perf_counter()
            connection.expect(202, "DELETE", f"/v2/{REPOSITORY}/manifests/{digest}")
            times.append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
    # The first ones find nothing in any cache.
    return {"manifests": total["registry"]["manifest_count"], "delete": quantiles(times[5:])}


def orphans(connection: Connection, most: int) -> list[str]:
    """Digests of the newest untagged images of ci/orphans."""
    path = f"/acr/v1/{REPOSITORY}/_manifests?n={most}&orderby=timedesc"
    listed = json.loads(connection.expect(200, "GET", path).body)["manifests"]
    return [each["digest"] for each in listed if not each.get("tags")]


# --- servers --------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path, *settings: str) -> Iterator[Ullage]:
    """A running registry of that folder; `settings` are flags of `ullage serve`."""
    server = Ullage(folder, settings=settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    os.sync()
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def _post(connection: Connection, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
    raw = json.dumps(body).encode()
    answer: dict[str, Any] = json.loads(
        connection.expect(status, "POST", path, raw, "application/json").body
    )
    return answer


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.deleting", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("what", choices=("many", "one"))
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if options.what == "many":
        for folder in options.folders:
            for _ in range(options.rounds):
                for way in ("purge", "plan"):
                    print(json.dumps(many(folder, way)), flush=True)
        return
    medians: list[float] = []
    for folder in options.folders:
        rounds = [one(folder, 50) for _ in range(options.rounds)]
        medians.append(statistics.median(each["delete"]["p50"] for each in rounds))
        print(json.dumps(rounds), flush=True)
    print(f"medians: {medians} ms; last/first: {medians[-1] / medians[0]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
