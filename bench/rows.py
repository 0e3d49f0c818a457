"""What is measured: the paths that registries spend their time on."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from bench import deletion, memory, mixed
from bench.connection import Connection
from bench.images import (
    MANIFEST_TYPE,
    Blob,
    Image,
    digest_of,
    make_image,
    push_blob,
    push_image,
    put_manifest,
)
from bench.measure import Row, Server
from bench.servers import Nginx, Place
from bench.together import together

MIB = 1024 * 1024
READ_SECONDS = 3
READERS = 16
HEADS = 8000
PUSHERS = 8
IMAGES_EACH = 12
TAGS = 1000
LARGE = 256 * MIB
MIDDLE = 64 * MIB
SMALL = 4096


@dataclass(frozen=True)
class Stock:
    """What a server holds for the readers."""

    image: Image
    small: Blob
    middle: Blob


# The same bytes for both servers.
_IMAGE = make_image(5, 2048)
_SMALL = Blob.random(SMALL)


def _stock(server: Server) -> Stock:
    with Connection(server.url) as connection:
        push_image(connection, "bench/app", _IMAGE, "v1")
        push_blob(connection, "bench/app", _SMALL.data, _SMALL.digest)
    return Stock(_IMAGE, _SMALL, _SMALL)


def _with_tags(server: Server) -> None:
    with Connection(server.url) as connection:
        push_image(connection, "bench/tags", _IMAGE, "t0000")
        for number in range(1, TAGS):
            put_manifest(connection, "bench/tags", _IMAGE, f"t{number:04}")


def _read(path: str, server: Server, _: object, clients: int = READERS) -> float:
    return wrk(server.urls, path, clients)[0]


def wrk(urls: Sequence[str], path: str, clients: int) -> tuple[float, float]:
    """Requests per second and MiB per second over kept-alive connections, some to each URL."""
    rates: list[tuple[float, float]] = []

    def ask(url: str, share: int) -> None:
        rates.append(_wrk(url + path, share))

    shares = zip(urls, _shares(clients, len(urls)), strict=True)
    together([partial(ask, url, share) for url, share in shares])
    return sum(rate[0] for rate in rates), sum(rate[1] for rate in rates)


def _shares(total: int, parts: int) -> list[int]:
    """`total` in as many parts that differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _wrk(url: str, clients: int) -> tuple[float, float]:
    command = ["wrk", "-t1", f"-c{clients}", f"-d{READ_SECONDS}s", "--timeout", "30s"]
    done = subprocess.run(
        [*command, "-H", f"Accept: {MANIFEST_TYPE}", url],
        capture_output=True,
        text=True,
        check=True,
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise AssertionError(f"{url}: {done.stdout}")
    requests = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    transfer = re.search(r"Transfer/sec:\s+([\d.]+)([KMG]?)B", done.stdout)
    assert requests
    assert transfer
    scale = {"": 1 / MIB, "K": 1 / 1024, "M": 1.0, "G": 1024.0}[transfer[2]]
    return float(requests[1]), float(transfer[1]) * scale


def _head_blob(server: Server, stock: object) -> float:
    """wrk waits for the body that HEAD does not have; ApacheBench does not.

    Requests per second; with several URLs until the last of them has answered its share.
    """
    path = f"/v2/bench/app/blobs/{cast(Stock, stock).small.digest}"
    seconds: list[float] = []

    def ask(url: str, clients: int, requests: int) -> None:
        seconds.append(_ab(url + path, clients, requests))

    count = len(server.urls)
    shares = zip(server.urls, _shares(READERS, count), _shares(HEADS, count), strict=True)
    together([partial(ask, *share) for share in shares])
    return HEADS / max(seconds)


def _ab(url: str, clients: int, requests: int) -> float:
    """Seconds for so many HEAD requests over kept-alive connections."""
    command = ["ab", "-i", "-k", "-q", "-c", str(clients), "-n", str(requests), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took = re.search(r"Time taken for tests:\s+([\d.]+)", done.stdout)
    for trouble in (r"Non-2xx responses:\s+\d+", r"Failed requests:\s+[1-9]"):
        assert re.search(trouble, done.stdout) is None, done.stdout
    assert took
    return float(took[1])


def _small_blob(server: Server, stock: object) -> float:
    path = f"/v2/bench/app/blobs/{cast(Stock, stock).small.digest}"
    return wrk(server.urls, path, READERS)[0]


def _push_middle(server: Server) -> str:
    blob = _middle()
    with Connection(server.url) as connection:
        push_blob(connection, "bench/middle", blob.data, blob.digest)
    return blob.digest


_kept: dict[str, Blob] = {}


def _middle() -> Blob:
    if "middle" not in _kept:
        _kept["middle"] = Blob.random(MIDDLE)
    return _kept["middle"]


def _download(server: Server, digest: object) -> float:
    return wrk(server.urls, f"/v2/bench/middle/blobs/{digest}", 4)[1]


def _download_floor(place: Place) -> float:
    """The same file from nginx with sendfile (over TLS if the servers speak that), MiB/s."""
    nginx = Nginx(place.folder / "nginx", place.tls)
    nginx.start()
    try:
        (nginx.folder / "files" / "blob").write_bytes(_middle().data)
        (nginx.folder / "files" / "blob").chmod(0o644)
        return wrk(nginx.urls, "/blob", 4)[1]
    finally:
        nginx.stop()


def _push_images(server: Server, _: object) -> float:
    """Images per second: five layers of 2 KB each, eight clients with a repository each."""
    images = [[make_image(5, 2048) for _ in range(IMAGES_EACH)] for _ in range(PUSHERS)]

    def push(client: int) -> None:
        with Connection(server.urls[client % len(server.urls)]) as connection:
            for number, image in enumerate(images[client]):
                push_image(connection, f"bench/push{client}", image, f"t{number}")

    seconds = together([partial(push, client) for client in range(PUSHERS)])
    return PUSHERS * IMAGES_EACH / seconds


def _upload(clients: int, server: Server, _: object) -> float:
    """MiB per second of new bytes, 256 MiB from each client, POST and PUT."""
    blobs = []
    for _number in range(clients):
        data = os.urandom(16) + bytes(_noise())[16:]
        blobs.append((data, digest_of(data)))

    def push(client: int) -> None:
        with Connection(server.urls[client % len(server.urls)]) as connection:
            push_blob(connection, "bench/large", *blobs[client])

    seconds = together([partial(push, client) for client in range(clients)])
    # Otherwise rounds fill the disk.
    for _data, digest in blobs:
        with Connection(server.url) as connection:
            connection.ask("DELETE", f"/v2/bench/large/blobs/{digest}")
    return clients * LARGE / MIB / seconds


def _noise() -> bytes:
    if "noise" not in _kept:
        _kept["noise"] = Blob(os.urandom(LARGE), "")
    return _kept["noise"].data


def _upload_floor(place: Place) -> float:
    """sha256 of the bytes on one core, then writing and syncing them; MiB/s."""
    path, data = place.folder / "floor", _noise()
    began = time.perf_counter()
    hashlib.sha256(data).digest()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view[: 4 * MIB]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    took = time.perf_counter() - began
    path.unlink()
    return LARGE / MIB / took


def _nothing(_: Server) -> None:
    return None


_TAG = "/v2/bench/app/manifests/v1"
ROWS = (
    Row("manifest-tag", "manifest GET by tag, 16 clients", "requests/s", _stock,
        partial(_read, _TAG), needs=("wrk",)),
    Row("manifest-digest", "manifest GET by digest, 16 clients", "requests/s", _stock,
        partial(_read, f"/v2/bench/app/manifests/{_IMAGE.digest}"), needs=("wrk",)),
    Row("head-blob", "blob HEAD, 16 clients", "requests/s", _stock, _head_blob, needs=("ab",)),
    Row("tags", "tags/list of 1,000 tags, n=100, 16 clients", "requests/s", _with_tags,
        partial(_read, "/v2/bench/tags/tags/list?n=100"), needs=("wrk",)),
    Row("small-blob", "4 KB blob GET, 16 clients", "requests/s", _stock, _small_blob,
        needs=("wrk",)),
    Row("download", "64 MiB blob GET, 4 clients", "MiB/s", _push_middle, _download,
        floor=_download_floor, needs=("wrk", "nginx")),
    Row("push", "push of 5 layers of 2 KB, 8 clients", "images/s", _nothing, _push_images),
    Row("upload-1", "256 MiB upload, 1 client", "MiB/s", _nothing, partial(_upload, 1),
        floor=_upload_floor),
    Row("upload-2", "256 MiB upload, 2 clients", "MiB/s", _nothing, partial(_upload, 2),
        floor=_upload_floor),
    *deletion.ROWS,
    *memory.ROWS,
    *mixed.ROWS,
)  # fmt: skip
