"""How long it takes until the bytes of untagged images are off the disk.

Ullage deletes while it serves, and somebody pushes all the time: one purge, which finds what nobody
tagged. docker-registry is stopped, and its time is that of `garbage-collect --delete-untagged`,
which finds the same. What was deleted is put back before the next round.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.connection import Connection
from bench.images import Blob, Image, make_image, push_image
from bench.measure import Result, Row
from bench.servers import DockerRegistry, Place, Ullage
from bench.stocking import fill
from bench.together import together

CLIENTS = 8
# A size that only the layers of the images have, so that they can be counted on the disk.
LAYER_BYTES = 2049
BASE_BYTES = 20_000
REPOSITORY = "bench/stock"
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Stock:
    """What both servers hold: images on one base, most or half of them tagged."""

    base: Blob
    kept: tuple[Image, ...]
    doomed: tuple[Image, ...]

    @classmethod
    def make(cls, images: int, doomed: int) -> Stock:
        base = Blob.random(BASE_BYTES)
        every = [make_image(1, LAYER_BYTES, (base,)) for _ in range(images)]
        return cls(base, tuple(every[doomed:]), tuple(every[:doomed]))

    def put_into(self, server: Ullage | DockerRegistry) -> None:
        first = Image((self.base, *self.kept[0].blobs), self.kept[0].manifest)
        fill(server, REPOSITORY, [(first, "first")])
        fill(server, REPOSITORY, [(image, f"t{n}") for n, image in enumerate(self.kept) if n])

    def put_doomed_into(self, server: Ullage | DockerRegistry) -> None:
        fill(server, REPOSITORY, [(image, image.digest) for image in self.doomed])
        # What has still to be written must not be counted.
        os.sync()


# Seconds from asking a server that runs until the last layer's bytes are off the disk.
Deletion = Callable[[Ullage, Stock, int], float]


def measure(
    row: Row,
    delete: Deletion,
    images: int,
    doomed: int,
    most_rounds: int,
    *,
    place: Place,
    rounds: int,
    progress: Callable[[str], None],
) -> Result:
    """Prepare both folders once; then delete, and put back, in turns."""
    stock = Stock.make(images, doomed)
    peer = place.collector(f"{row.name}-peer")
    result = Result(row, peer.name)
    ullage = Ullage(place.folder / f"{row.name}-ullage", place.tls)
    progress(f"{row.name}: preparing {images} images")
    for server in (ullage, peer):
        stock.put_into(server)
    rounds = min(rounds, most_rounds)
    for number in range(rounds):
        # No warm-up: the servers are started each time.
        progress(f"{row.name}: round {number + 1} of {rounds}")
        stock.put_doomed_into(ullage)
        own = _while_serving(ullage, stock, delete)
        stock.put_doomed_into(peer)
        other = _collect(peer, stock)
        result.ullage.append(own)
        result.peer.append(other)
        result.floor.append(_remove(place.folder / "floor", doomed * 2))
    return result


def _while_serving(server: Ullage, stock: Stock, delete: Deletion) -> float:
    left = _layers(server.blobs) - len(stock.doomed)
    server.start()
    try:
        with _pushing(server):
            return delete(server, stock, left)
    finally:
        server.stop()


def _purge(server: Ullage, stock: Stock, left: int) -> float:
    """One request: everything untagged."""
    wanted = {"filters": [f"{REPOSITORY}:.*"], "untagged_only": True, "ago": "0s"}
    with Connection(server.url) as connection:

        def done() -> bool:
            job = json.loads(connection.expect(200, "GET", path).body)
            assert job["state"] not in ("refused", "failed", "cancelled"), job
            return bool(job["state"] == "done")

        began = time.perf_counter()
        body = json.dumps(wanted).encode()
        answer = connection.expect(202, "POST", "/api/v1/purge", body, "application/json")
        path = answer.headers["location"]
        _wait_until(done, began)
        return _off_the_disk(server, connection, left, began)


def _one_by_one(server: Ullage, stock: Stock, left: int) -> float:
    """A request for each image, as clients do that know no purge."""

    def delete(client: int) -> None:
        with Connection(server.url) as connection:
            for image in stock.doomed[client::CLIENTS]:
                connection.expect(202, "DELETE", f"/v2/{REPOSITORY}/manifests/{image.digest}")

    began = time.perf_counter()
    together([partial(delete, client) for client in range(CLIENTS)])
    with Connection(server.url) as connection:
        return _off_the_disk(server, connection, left, began)


def _off_the_disk(server: Ullage, connection: Connection, left: int, began: float) -> float:
    """Seconds since `began` when the server says that nothing waits to be erased; and see."""

    def nothing_waits() -> bool:
        usage: dict[str, Any] = json.loads(connection.expect(200, "GET", "/api/v1/usage").body)
        return int(usage["registry"]["pending_bytes"]) == 0

    while True:
        _wait_until(nothing_waits, began)
        took = time.perf_counter() - began
        # Counted afterwards: looking at so many files takes longer than erasing some of them.
        if _layers(server.blobs) == left:
            return took
        assert took < PATIENCE_SECONDS, "other bytes are left than should be"


def _wait_until(is_so: Callable[[], bool], began: float) -> None:
    while not is_so():
        if time.perf_counter() - began > PATIENCE_SECONDS:
            raise AssertionError("the bytes do not come back")
        time.sleep(0.02)


@contextmanager
def _pushing(server: Ullage) -> Iterator[None]:
    """One client that pushes images all the time."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def push() -> None:
        try:
            with Connection(server.url) as connection:
                number = 0
                while not stop.is_set():
                    image = make_image(3, 3000)
                    push_image(connection, "bench/meanwhile", image, f"t{number % 50}")
                    number += 1
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def _collect(server: DockerRegistry, stock: Stock) -> float:
    server.prepare()
    left = _layers(server.blobs) - len(stock.doomed)
    began = time.perf_counter()
    server.collect()
    took = time.perf_counter() - began
    assert _layers(server.blobs) == left
    return took


def _layers(place: Path) -> int:
    """How many files of a layer's size lie below."""
    found = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                found += Path(folder, name).stat().st_size == LAYER_BYTES
            except FileNotFoundError:
                continue
    return found


def _remove(folder: Path, files: int) -> float:
    """`rm` of as many small files."""
    folder.mkdir()
    for number in range(files):
        (folder / f"{number:08}").write_bytes(b"x" * LAYER_BYTES)
    os.sync()
    began = time.perf_counter()
    subprocess.run(["rm", "-r", str(folder)], check=True)
    return time.perf_counter() - began


ROWS = (
    Row("delete-half", "purge 1,000 of 2,000 images, pushes running", "s",
        whole=partial(measure, delete=_purge, images=2_000, doomed=1_000, most_rounds=5)),
    Row("delete-each", "delete 1,000 of 2,000 images one by one, pushes running", "s", slow=True,
        whole=partial(measure, delete=_one_by_one, images=2_000, doomed=1_000, most_rounds=2)),
    Row("delete-few", "purge 200 of 20,000 images, pushes running", "s", slow=True,
        whole=partial(measure, delete=_purge, images=20_000, doomed=200, most_rounds=2)),
)  # fmt: skip
