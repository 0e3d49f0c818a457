"""How long it takes until the bytes of deleted images are off the disk.

Ullage deletes while it serves, and somebody pushes all the time. docker-registry is stopped, and
its time is that of `garbage-collect --delete-untagged`, which finds what nobody tagged by itself.
Each round starts from a copy of the same prepared folders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.connection import Connection
from bench.images import Blob, Image, make_image, push_image
from bench.measure import Result, Row
from bench.servers import DockerRegistry, Ullage
from bench.together import together

CLIENTS = 8
# A size that only the layers of the images have, so that they can be counted on the disk.
LAYER_BYTES = 2049
BASE_BYTES = 20_000
PATIENCE_SECONDS = 600.0


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


def measure(
    row: Row, images: int, doomed: int, folder: Path, rounds: int, progress: Callable[[str], None]
) -> Result:
    """Prepare both folders once; then delete from copies of them, in turns."""
    stock = Stock.make(images, doomed)
    result = Result(row, DockerRegistry.name)
    prepared = folder / f"prepared-{row.name}"
    for kind in (Ullage, DockerRegistry):
        progress(f"{row.name}: pushing {images} images to {kind.name}")
        _prepare(kind(prepared / kind.name), stock)
    for number in range(rounds + 1):
        progress(f"{row.name}: round {number} of {rounds}" if number else f"{row.name}: warm-up")
        with _copy(prepared / Ullage.name, folder / "round") as copy:
            own = _delete(Ullage(copy), stock)
        with _copy(prepared / DockerRegistry.name, folder / "round") as copy:
            other = _collect(DockerRegistry(copy), stock)
        if number:
            result.ullage.append(own)
            result.peer.append(other)
            result.floor.append(_remove(folder / "floor", doomed * 2))
    shutil.rmtree(prepared)
    return result


def _prepare(server: Ullage | DockerRegistry, stock: Stock) -> None:
    server.start()

    def push(client: int) -> None:
        repository = f"bench/delete{client}"
        with Connection(server.host) as connection:
            first = Image((stock.base, *stock.kept[0].blobs), stock.kept[0].manifest)
            push_image(connection, repository, first, "first")
            for number, image in enumerate(stock.kept[client::CLIENTS]):
                push_image(connection, repository, image, f"t{number}")
            for image in stock.doomed[client::CLIENTS]:
                push_image(connection, repository, image, image.digest)

    together([partial(push, client) for client in range(CLIENTS)])
    server.stop()


@contextmanager
def _copy(source: Path, target: Path) -> Iterator[Path]:
    shutil.copytree(source, target)
    # What the copy has still to write must not be counted.
    os.sync()
    try:
        yield target
    finally:
        shutil.rmtree(target)


def _delete(server: Ullage, stock: Stock) -> float:
    """Seconds from the first request until the last layer's bytes are off the disk."""
    server.start()
    left = _layers(server.blobs) - len(stock.doomed)
    try:
        with _pushing(server):

            def delete(client: int) -> None:
                with Connection(server.host) as connection:
                    for image in stock.doomed[client::CLIENTS]:
                        path = f"/v2/bench/delete{client}/manifests/{image.digest}"
                        connection.expect(202, "DELETE", path)

            began = time.perf_counter()
            together([partial(delete, client) for client in range(CLIENTS)])
            while _layers(server.blobs) > left:
                if time.perf_counter() - began > PATIENCE_SECONDS:
                    raise AssertionError("the bytes do not come back")
                time.sleep(0.01)
            return time.perf_counter() - began
    finally:
        server.stop()


@contextmanager
def _pushing(server: Ullage) -> Iterator[None]:
    """One client that pushes images all the time."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def push() -> None:
        try:
            with Connection(server.host) as connection:
                number = 0
                while not stop.is_set():
                    push_image(
                        connection, "bench/meanwhile", make_image(3, 3000), f"t{number % 50}"
                    )
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
    Row("delete-half", "delete 1,000 of 2,000 images, pushes running", "s",
        whole=partial(measure, images=2_000, doomed=1_000)),
    Row("delete-few", "delete 200 of 20,000 images, pushes running", "s",
        whole=partial(measure, images=20_000, doomed=200)),
)  # fmt: skip
