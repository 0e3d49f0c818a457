"""Ullage on an S3 server: `python -m bench.buckets layer|keys|rows`.

    python -m bench.buckets layer --gib 20          # memory while one layer goes to S3 and back
    python -m bench.buckets keys --keys 10000       # seconds until so many blobs are off the bucket
    python -m bench.buckets rows --peer-binary distribution3=PATH     # uploads and pulls, in turns

The S3 server is versitygw, on the same disk; distribution keeps its blobs on the same one, in a
bucket of its own. docs/benchmarks.md has figures and what they mean.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.connection import Connection
from bench.images import make_image, push_blob, put_manifest
from bench.servers import Distribution, DockerRegistry, Process, Ullage
from bench.together import together
from ullage.oci.digest import digest_of

MIB = 1024 * 1024
ACCESS_KEY, SECRET_KEY = "ullage", "ullagesecret"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
REPOSITORY = "bench/buckets"
CLIENTS = 8
UPLOAD, PULL = 256 * MIB, 64 * MIB
PIECE = 4 * MIB
PATIENCE_SECONDS = 600.0

_PEER_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  s3:
    region: us-east-1
    regionendpoint: {endpoint}
    forcepathstyle: true
    bucket: {bucket}
    accesskey: {access}
    secretkey: {secret}
  delete: {{enabled: true}}
  cache: {{blobdescriptor: inmemory}}
http: {{addr: "{host}"}}
"""


class Versitygw(Process):
    """An S3 server that keeps its objects in a folder."""

    name = "versitygw"

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder)
        self._program = program

    def command(self) -> Sequence[str | Path]:
        where = ["--port", self.host, "--quiet", "--keep-alive"]
        return [self._program, *where, "posix", self.folder]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}

    def client(self) -> Any:
        """One that makes and lists buckets."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )


class UllageOnBucket(Ullage):
    """`ullage serve` with its blobs in a bucket; clients are sent there for large ones."""

    def __init__(self, folder: Path, store: Versitygw, bucket: str) -> None:
        storage = f"s3://{bucket}?endpoint={store.url}"
        super().__init__(folder, settings=("--storage", storage, "--redirect", "always"))

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **CREDENTIALS}

    def peak_bytes(self) -> int:
        """The most memory that it has had since it started, its helpers included."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return sum(_peak_bytes(process) for process in (self.pid, *map(int, children)))


def _peak_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of process {process}")


class DistributionOnBucket(DockerRegistry):
    """distribution with its blobs in a bucket of the same server; it redirects all pulls."""

    def __init__(
        self, folder: Path, store: Versitygw, bucket: str, distribution: Distribution
    ) -> None:
        super().__init__(folder, distribution=distribution)
        self._store, self._bucket = store, bucket

    def prepare(self) -> None:
        super().prepare()
        text = _PEER_CONFIG.format(
            endpoint=self._store.url,
            bucket=self._bucket,
            access=ACCESS_KEY,
            secret=SECRET_KEY,
            host=self.host,
        )
        self._config.write_text(text)


# --- one large layer ------------------------------------------------------------------------------


def layer(server: UllageOnBucket, gib: int) -> None:
    """Push one layer of so many GiB in one PATCH; pull it by redirect and through the server."""
    idle = server.peak_bytes()
    size = gib * 1024 * MIB
    began = time.perf_counter()
    digest = _push_streamed(server.url, size)
    pushed, after_push = time.perf_counter() - began, server.peak_bytes()
    target = f"/v2/{REPOSITORY}/blobs/{digest}"
    began = time.perf_counter()
    _require(_pulled(server.url, target, redirected=True), digest)
    redirected = time.perf_counter() - began
    # A range is served by the registry itself: so is a client that follows no redirect.
    began = time.perf_counter()
    _require(_pulled(server.url, target, redirected=False), digest)
    proxied = time.perf_counter() - began
    print(
        f"{gib} GiB: push {pushed:.0f} s, pull redirected {redirected:.0f} s, "
        f"proxied {proxied:.0f} s; memory at most {idle / MIB:.0f} MiB before, "
        f"{after_push / MIB:.0f} after the push, {server.peak_bytes() / MIB:.0f} after the pulls",
        flush=True,
    )


def _push_streamed(url: str, size: int) -> str:
    """One chunked PATCH and a PUT, as docker does it; the digest."""
    http = _http(url)
    location = _path(_answered(http, 202, "POST", f"/v2/{REPOSITORY}/blobs/uploads/"))
    hashed = hashlib.sha256()
    patched = _answered(http, 202, "PATCH", location, _pieces(size, hashed.update))
    digest = f"sha256:{hashed.hexdigest()}"
    location = _path(patched)
    _answered(http, 201, "PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}")
    http.close()
    return digest


def _pieces(size: int, seen: Callable[[bytes], None]) -> Iterator[bytes]:
    noise = bytearray(os.urandom(PIECE))
    for number in range(size // PIECE):
        noise[:8] = number.to_bytes(8, "big")
        piece = bytes(noise)
        seen(piece)
        yield piece


def _pulled(url: str, target: str, *, redirected: bool) -> str:
    """The digest of what comes, from the store or through the registry."""
    fields = {} if redirected else {"Range": "bytes=0-"}
    http = _http(url)
    http.request("GET", target, headers=fields)
    answer = http.getresponse()
    if answer.status == 307:
        answer.read()
        place = answer.headers["Location"]
        http = _http(place)
        http.request("GET", "/" + place.split("/", 3)[3])
        answer = http.getresponse()
    if answer.status not in (200, 206):
        raise AssertionError(f"GET {target}: {answer.status} {answer.read(300)!r}")
    hashed = hashlib.sha256()
    while piece := answer.read(PIECE):
        hashed.update(piece)
    http.close()
    return f"sha256:{hashed.hexdigest()}"


def _require(found: str, digest: str) -> None:
    if found != digest:
        raise AssertionError(f"pulled {found} in place of {digest}")


def _http(url: str) -> HTTPConnection:
    return HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_SECONDS)


def _answered(
    http: HTTPConnection, status: int, method: str, target: str, body: Iterator[bytes] | None = None
) -> HTTPResponse:
    http.request(method, target, body, encode_chunked=body is not None, headers=_fields(body))
    answer = http.getresponse()
    text = answer.read()
    if answer.status != status:
        raise AssertionError(f"{method} {target}: {answer.status} {text[:300]!r}")
    return answer


def _fields(body: Iterator[bytes] | None) -> dict[str, str]:
    return {} if body is None else {"Transfer-Encoding": "chunked"}


def _path(answer: HTTPResponse) -> str:
    location = answer.headers["Location"]
    return "/" + location.split("/", 3)[3] if location.startswith("http") else location


# --- many keys ------------------------------------------------------------------------------------


def keys(server: UllageOnBucket, client: Any, bucket: str, count: int) -> None:
    """Push so many blobs of 2 KB, delete their repository, and watch the bucket."""
    image = make_image(count - 1, 2048)

    def push(number: int) -> None:
        with Connection(server.url) as connection:
            for blob in image.blobs[number::CLIENTS]:
                push_blob(connection, REPOSITORY, blob.data, blob.digest)

    together([partial(push, number) for number in range(CLIENTS)])
    with Connection(server.url) as connection:
        put_manifest(connection, REPOSITORY, image, "v1")
        before = _count(client, bucket)
        began = time.perf_counter()
        connection.expect(202, "DELETE", f"/acr/v1/{REPOSITORY}")
    answered = time.perf_counter() - began
    while (left := _count(client, bucket)) > before - count:
        if time.perf_counter() - began > PATIENCE_SECONDS:
            raise AssertionError(f"{left} objects are left")
        time.sleep(0.1)
    gone = time.perf_counter() - began
    print(
        f"{count} keys: DELETE answered after {answered:.2f} s, "
        f"all off the bucket after {gone:.2f} s",
        flush=True,
    )


def _count(client: Any, bucket: str) -> int:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return sum(page["KeyCount"] for page in pages)


# --- in turns -------------------------------------------------------------------------------------


def rows(servers: Sequence[Process], rounds: int) -> None:
    """MiB per second of an upload of 256 MiB and of a redirected pull of 64 MiB, in turns."""
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for server in servers:
            for row, figure in _turn(server):
                if number:
                    found.setdefault((row, server.name), []).append(figure)
    for (row, name), figures in found.items():
        print(f"{row}: {name} {statistics.median(figures):.0f} MiB/s (median of {rounds})")


def _turn(server: Process) -> Iterator[tuple[str, float]]:
    data = os.urandom(UPLOAD)
    digest = digest_of(data)
    with Connection(server.url) as connection:
        began = time.perf_counter()
        push_blob(connection, REPOSITORY, data, digest)
        yield "upload of 256 MiB", UPLOAD / MIB / (time.perf_counter() - began)
        connection.expect(202, "DELETE", f"/v2/{REPOSITORY}/blobs/{digest}")
        small = data[:PULL]
        digest = digest_of(small)
        push_blob(connection, REPOSITORY, small, digest)
        target = f"/v2/{REPOSITORY}/blobs/{digest}"
        began = time.perf_counter()
        place = connection.expect(307, "GET", target).headers["location"]
        _drained(place, PULL)
        yield "redirected pull of 64 MiB", PULL / MIB / (time.perf_counter() - began)
        began = time.perf_counter()
        _drained(place, PULL)
        yield "the same from the store alone", PULL / MIB / (time.perf_counter() - began)
        connection.expect(202, "DELETE", target)


def _drained(url: str, size: int) -> None:
    with Connection(url) as connection:
        if len(connection.expect(200, "GET", url).body) != size:
            raise AssertionError(f"GET {url}: not {size} bytes")


# --- the command line -----------------------------------------------------------------------------


@contextmanager
def _running(*servers: Process) -> Iterator[None]:
    started: list[Process] = []
    try:
        for server in servers:
            server.start()
            started.append(server)
        yield
    finally:
        for server in reversed(started):
            server.stop()


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.buckets", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("what", choices=("layer", "keys", "rows"))
    parser.add_argument("--versitygw", default="versitygw", metavar="PATH", help="the S3 server")
    parser.add_argument("--peer-binary", metavar="distribution3=PATH", help="for rows")
    parser.add_argument("--gib", type=int, default=20)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the data goes (default: temporary)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ullage-bench-", dir=options.folder) as name:
        folder = Path(name).resolve()
        store = Versitygw(folder / "store", options.versitygw)
        server = UllageOnBucket(folder / "ullage", store, "ullage")
        servers: list[Process] = [server]
        with _running(store):
            client = store.client()
            client.create_bucket(Bucket="ullage")
            if options.peer_binary:
                title, _, program = options.peer_binary.partition("=")
                client.create_bucket(Bucket="peer")
                peer = Distribution(title, program)
                servers.append(DistributionOnBucket(folder / "peer", store, "peer", peer))
            with _running(*servers):
                if options.what == "layer":
                    layer(server, options.gib)
                elif options.what == "keys":
                    keys(server, client, "ullage", options.keys)
                else:
                    rows(servers, options.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
