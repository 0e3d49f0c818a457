"""Everything at once, as production traffic is: how long a request waits, how much memory it takes.

79 % GET, 11 % HEAD, 5 % PUT, 3 % POST, 2 % PATCH (FAST 2018: traces of IBM's registry), popular
things more often than others (Zipf), and somebody who deletes. Both servers get the same number of
requests a second: 70 % of what the slower one can do. They come when they are due, whether the last
ones were answered or not, and what a request waits for its turn counts.
"""

from __future__ import annotations

import json
import os
import queue
import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from bench.connection import Connection
from bench.images import MANIFEST_TYPE, Blob, Image, digest_of, make_image, push_image
from bench.measure import Result, Row
from bench.servers import DockerRegistry, Place, Ullage
from bench.together import together

MIB = 1024 * 1024
CLIENTS = 16
IMAGES = 100
SHARE_OF_PEAK = 0.7
PEAK_SECONDS = 3.0
SECONDS = 10.0
DELETE_EVERY_SECONDS = 0.1
# Of the requests; the rest is writing. Of the GETs that share is for blobs.
GETS, HEADS, BLOBS = 0.79, 0.11, 0.39
REPOSITORY = "bench/mixed"

Request = tuple[int, str, str, bytes | None, str]


@dataclass
class Measured:
    """Milliseconds from when each request was due to its answer, and the server's memory."""

    latencies: list[float] = field(default_factory=list)
    memory: float = 0.0

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Stock:
    """What there is to be pulled, and which of it is how popular."""

    def __init__(self) -> None:
        self.images = [make_image(5, 2048) for _ in range(IMAGES)]
        self._weights = [1 / (rank + 1) for rank in range(IMAGES)]

    def put_into(self, server: Ullage | DockerRegistry) -> None:
        with Connection(server.url) as connection:
            for number, image in enumerate(self.images):
                push_image(connection, REPOSITORY, image, f"t{number}")

    def popular(self, chance: random.Random) -> tuple[int, Image]:
        number = chance.choices(range(IMAGES), self._weights)[0]
        return number, self.images[number]


class Client:
    """One connection's requests, one after the other."""

    def __init__(self, url: str, stock: Stock, seed: int, doomed: queue.SimpleQueue[str]) -> None:
        self._connection = Connection(url)
        self._stock = stock
        self._chance = random.Random(seed)  # an order, no secret
        self._doomed = doomed
        self._writing: deque[Callable[[], None]] = deque()
        self._location = ""

    def close(self) -> None:
        self._connection.close()

    def next(self) -> None:
        """Make the next request and read its answer."""
        dice = self._chance.random()
        if dice < GETS + HEADS:
            self._read("GET" if dice < GETS else "HEAD")
            return
        if not self._writing:
            self._plan_push()
        self._writing.popleft()()

    def _read(self, method: str) -> None:
        number, image = self._stock.popular(self._chance)
        if self._chance.random() < BLOBS:
            path = f"blobs/{self._chance.choice(image.blobs).digest}"
        else:
            path = (
                f"manifests/t{number}"
                if self._chance.random() < 0.5
                else (f"manifests/{image.digest}")
            )
        self._connection.expect(200, method, f"/v2/{REPOSITORY}/{path}")

    def _plan_push(self) -> None:
        """Three uploads, two of them in a chunk of their own, and two manifests."""
        for chunked in (True, True, False):
            blob = Blob.random(2048)
            self._writing.append(self._open)
            if chunked:
                self._writing.append(partial(self._append, blob))
            self._writing.append(partial(self._finish, blob, chunked))
        self._writing += [self._push_manifest, self._push_manifest]

    def _open(self) -> None:
        answer = self._connection.expect(202, "POST", f"/v2/{REPOSITORY}/blobs/uploads/")
        self._location = answer.headers["location"]

    def _append(self, blob: Blob) -> None:
        answer = self._connection.expect(202, "PATCH", self._location, blob.data)
        self._location = answer.headers["location"]

    def _finish(self, blob: Blob, empty: bool) -> None:
        join = "&" if "?" in self._location else "?"
        target = f"{self._location}{join}digest={blob.digest}"
        self._connection.expect(201, "PUT", target, b"" if empty else blob.data)

    def _push_manifest(self) -> None:
        _, image = self._stock.popular(self._chance)
        manifest = json.loads(image.manifest)
        manifest["annotations"] = {"salt": os.urandom(8).hex()}
        raw = json.dumps(manifest).encode()
        digest = digest_of(raw)
        path = f"/v2/{REPOSITORY}/manifests/{digest}"
        self._connection.expect(201, "PUT", path, raw, MANIFEST_TYPE)
        self._doomed.put(digest)


@contextmanager
def _clients(url: str, stock: Stock, doomed: queue.SimpleQueue[str]) -> Iterator[list[Client]]:
    clients = [Client(url, stock, number, doomed) for number in range(CLIENTS)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def _peak(server: Ullage | DockerRegistry, stock: Stock) -> float:
    """Requests per second when nobody waits."""
    counts: list[int] = []

    def ask(client: Client) -> None:
        count, end = 0, time.perf_counter() + PEAK_SECONDS
        while time.perf_counter() < end:
            client.next()
            count += 1
        counts.append(count)

    with _clients(server.url, stock, queue.SimpleQueue()) as clients:
        seconds = together([partial(ask, client) for client in clients])
    return sum(counts) / seconds


def _at_rate(server: Ullage | DockerRegistry, stock: Stock, rate: float) -> Measured:
    measured, doomed, stop = Measured(), queue.SimpleQueue[str](), threading.Event()
    turns = iter(range(int(rate * SECONDS)))
    turn = threading.Lock()
    began = time.perf_counter() + 0.1

    def ask(client: Client) -> None:
        while True:
            with turn:
                number = next(turns, None)
            if number is None:
                return
            due = began + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            client.next()
            measured.latencies.append((time.perf_counter() - due) * 1000)

    def delete() -> None:
        with Connection(server.url) as connection:
            while not stop.wait(DELETE_EVERY_SECONDS):
                if not doomed.empty():
                    path = f"/v2/{REPOSITORY}/manifests/{doomed.get()}"
                    connection.expect(202, "DELETE", path)

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        with _clients(server.url, stock, doomed) as clients:
            together([partial(ask, client) for client in clients])
        measured.memory = (server.resident_bytes() or 0) / MIB
    finally:
        stop.set()
        deleting.join()
    return measured


# What was measured last: several rows show different sides of it.
_last: dict[str, list[Measured]] = {}


def _measure(place: Place, rounds: int, progress: Callable[[str], None]) -> None:
    stock = Stock()
    servers = (Ullage(place.folder / "mixed-ullage", place.tls), place.peer("mixed-peer"))
    try:
        for server in servers:
            server.start()
            stock.put_into(server)
        progress("mixed: finding the peak")
        rate = SHARE_OF_PEAK * min(_peak(server, stock) for server in servers)
        _last.update({server.name: [] for server in servers})
        for number in range(rounds):
            progress(f"mixed: round {number + 1} of {rounds}, {rate:.0f} requests/s")
            for server in servers:
                _last[server.name].append(_at_rate(server, stock, rate))
    finally:
        for server in servers:
            server.stop()


def _row(
    row: Row,
    of: Callable[[Measured], float],
    *,
    place: Place,
    rounds: int,
    progress: Callable[[str], None],
) -> Result:
    if not _last:
        _measure(place, rounds, progress)
    result = Result(row, place.peer("mixed-peer").name)
    result.ullage = [of(measured) for measured in _last[Ullage.name]]
    result.peer = [of(measured) for measured in _last[result.peer_name]]
    return result


def _median(measured: Measured) -> float:
    return statistics.median(measured.latencies)


ROWS = (
    Row("mixed-p50", "mixed load and deletes: half of the requests within", "ms",
        whole=partial(_row, of=_median)),
    Row("mixed-p99", "mixed load and deletes: 99 % within", "ms",
        whole=partial(_row, of=lambda measured: measured.quantile(0.99))),
    Row("mixed-p99.9", "mixed load and deletes: 99.9 % within", "ms",
        whole=partial(_row, of=lambda measured: measured.quantile(0.999))),
    Row("memory-mixed", "memory, after the mixed load", "MiB",
        whole=partial(_row, of=lambda measured: measured.memory)),
)  # fmt: skip
