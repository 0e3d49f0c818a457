"""What is measured: the paths that registries spend their time on."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from bench.servers import Nginx
from bench.together import together

MIB = 1024 * 1024
READ_SECONDS = 3
READERS = 16
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
    with Connection(server.host) as connection:
        push_image(connection, "bench/app", _IMAGE, "v1")
        push_blob(connection, "bench/app", _SMALL.data, _SMALL.digest)
    return Stock(_IMAGE, _SMALL, _SMALL)


def _with_tags(server: Server) -> None:
    with Connection(server.host) as connection:
        push_image(connection, "bench/tags", _IMAGE, "t0000")
        for number in range(1, TAGS):
            put_manifest(connection, "bench/tags", _IMAGE, f"t{number:04}")


def _read(path: str, server: Server, _: object, clients: int = READERS) -> float:
    return wrk(f"http://{server.host}{path}", clients)[0]


def wrk(url: str, clients: int) -> tuple[float, float]:
    """Requests per second and MiB per second over kept-alive connections."""
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
    """wrk waits for the body that HEAD does not have; ApacheBench does not."""
    url = f"http://{server.host}/v2/bench/app/blobs/{cast(Stock, stock).small.digest}"
    command = ["ab", "-i", "-k", "-q", "-c", str(READERS), "-n", "8000", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    failed = re.search(r"Non-2xx responses:\s+(\d+)", done.stdout)
    found = re.search(r"Requests per second:\s+([\d.]+)", done.stdout)
    assert failed is None, done.stdout
    assert found
    return float(found[1])


def _small_blob(server: Server, stock: object) -> float:
    path = f"/v2/bench/app/blobs/{cast(Stock, stock).small.digest}"
    return wrk(f"http://{server.host}{path}", READERS)[0]


def _push_middle(server: Server) -> str:
    blob = _middle()
    with Connection(server.host) as connection:
        push_blob(connection, "bench/middle", blob.data, blob.digest)
    return blob.digest


_kept: dict[str, Blob] = {}


def _middle() -> Blob:
    if "middle" not in _kept:
        _kept["middle"] = Blob.random(MIDDLE)
    return _kept["middle"]


def _download(server: Server, digest: object) -> float:
    return wrk(f"http://{server.host}/v2/bench/middle/blobs/{digest}", 4)[1]


def _download_floor(folder: Path) -> float:
    """The same file from nginx with sendfile, MiB/s."""
    nginx = Nginx(folder / "nginx")
    nginx.start()
    try:
        (nginx.folder / "files" / "blob").write_bytes(_middle().data)
        (nginx.folder / "files" / "blob").chmod(0o644)
        return wrk(f"http://{nginx.host}/blob", 4)[1]
    finally:
        nginx.stop()


def _push_images(server: Server, _: object) -> float:
    """Images per second: five layers of 2 KB each, eight clients with a repository each."""
    images = [[make_image(5, 2048) for _ in range(IMAGES_EACH)] for _ in range(PUSHERS)]

    def push(client: int) -> None:
        with Connection(server.host) as connection:
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

    def push(data: bytes, digest: str) -> None:
        with Connection(server.host) as connection:
            push_blob(connection, "bench/large", data, digest)

    seconds = together([partial(push, data, digest) for data, digest in blobs])
    # Otherwise rounds fill the disk.
    for _data, digest in blobs:
        with Connection(server.host) as connection:
            connection.ask("DELETE", f"/v2/bench/large/blobs/{digest}")
    return clients * LARGE / MIB / seconds


def _noise() -> bytes:
    if "noise" not in _kept:
        _kept["noise"] = Blob(os.urandom(LARGE), "")
    return _kept["noise"].data


def _upload_floor(folder: Path) -> float:
    """sha256 of the bytes on one core, then writing and syncing them; MiB/s."""
    path, data = folder / "floor", _noise()
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
