"""Thousands of requests that are almost right, against a real server: no 5xx, no hang, no growth.

The requests are mutated from valid ones by a seeded generator, so a failure can be had again:
ULLAGE_FUZZ_REQUESTS says how many (10,000 unless told), ULLAGE_FUZZ_SEED which.
"""

import os
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from tests.server.processes import MIB, resident_bytes
from tests.server.pushing import encoded, image, index_of, push_image, start_upload
from tests.server.raw import Connection
from tests.support.registry import INDEX, MANIFEST
from tests.support.server import UllageServer, run_ullage
from ullage.oci.digest import digest_of

REQUESTS = int(os.environ.get("ULLAGE_FUZZ_REQUESTS", "10000"))
SEED = int(os.environ.get("ULLAGE_FUZZ_SEED", "1"))
CLIENTS = 4
# Nobody should wait this long for an answer, also on a busy machine.
HANG_SECONDS = 30
MAX_GROWTH = 50 * MIB
# 503 is for a session that the request before has not let go of yet.
_FAILED = re.compile(rb"HTTP/1\.[01] 5(?!03 )")

WORDS = [
    *[b"", b"/", b"//", b"..", b".", b"%2f", b"%2e%2e", b"%00", b"%0d%0a", b"%", b"%zz", b"%FF"],
    *[b"%C0%AF", b"%ED%A0%80", b"\\", b"?", b"#", b"&", b"=", b":", b"@", b";", b"*", b"~", b"'"],
    *[b'"', b"<script>", b"\xc3\xa9", b"\xff", b"\0", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t"],
    *[b"v2", b"blobs", b"uploads", b"manifests", b"tags", b"list", b"referrers", b"_catalog"],
    *[b"sha256:", b"sha512:", b"sha256:" + b"0" * 64, b"0", b"-1", b"1", b"4294967296", b"9" * 25],
    *[b"1e9", b"NaN", b"null", b"true", b"{}", b"[]", b"[" * 50, b"{\"a\":" * 50, b"a" * 300],
    *[b"A" * 9000, b"bytes=", b"bytes=0-0", b"bytes=-1", b"0-0", b"5-2", b"chunked", b"gzip"],
    *[b"100-continue", b"close", b"identity", b"\\u0000", b"\\ud800", b"x" * 70],
]  # fmt: skip
FIELDS = [
    *[b"Range", b"Content-Range", b"If-None-Match", b"If-Range", b"Accept", b"Content-Type"],
    *[b"Content-Encoding", b"Transfer-Encoding", b"Content-Length", b"Host", b"Connection"],
    *[b"Expect", b"User-Agent", b"Authorization", b"Cookie", b"X-Forwarded-For", b"Upgrade"],
]
CHUNKED = (b"Transfer-Encoding", b"chunked")
METHODS = [
    b"GET",
    b"HEAD",
    b"PUT",
    b"POST",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"get",
    b"",
    b"X" * 99,
]


@dataclass(frozen=True)
class Request:
    """A request in parts that can be bent one by one."""

    method: bytes
    path: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    def __bytes__(self) -> bytes:
        fields = [(b"Host", b"x"), *self.fields]
        if self.body and not any(name == b"Content-Length" for name, _ in fields):
            fields.append((b"Content-Length", str(len(self.body)).encode()))
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (self.method, self.path, head, self.body)


def valid_requests(client: httpx.Client, name: str) -> list[Request]:
    """One good request for every endpoint, about content that is really there."""
    digest = push_image(client, name, "v1", [b"layer" * 100])
    manifest = encoded(
        image(client, name, subject={"mediaType": MANIFEST, "digest": digest, "size": 1})
    )
    index = encoded(index_of(client, name, [digest]))
    layer = digest_of(b"layer" * 100)
    sessions = [start_upload(client, name).encode() for _ in range(3)]
    repository = f"/v2/{name}".encode()
    blob = digest_of(b"blob").encode()

    def typed(media_type: str) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"Content-Type", media_type.encode()),)

    return [
        Request(b"GET", b"/v2/"),
        Request(b"GET", b"/v2/_catalog?n=2&last=a"),
        Request(b"GET", repository + b"/tags/list?n=2&last=a"),
        Request(b"GET", repository + b"/manifests/v1", ((b"Accept", b"*/*"),)),
        Request(b"HEAD", repository + b"/manifests/" + digest.encode()),
        Request(b"PUT", repository + b"/manifests/v2", typed(MANIFEST), manifest),
        Request(b"PUT", repository + b"/manifests/v3", typed(INDEX), index),
        Request(
            b"PUT",
            b"%b/manifests/%b?tag=a&tag=b" % (repository, digest_of(manifest).encode()),
            typed(MANIFEST),
            manifest,
        ),
        Request(b"DELETE", repository + b"/manifests/v2"),
        Request(b"GET", repository + b"/blobs/" + layer.encode(), ((b"Range", b"bytes=5-20"),)),
        Request(b"HEAD", repository + b"/blobs/" + layer.encode()),
        Request(b"DELETE", repository + b"/blobs/" + blob),
        Request(b"POST", repository + b"/blobs/uploads/"),
        Request(b"POST", repository + b"/blobs/uploads/?digest=" + blob, (), b"blob"),
        Request(b"POST", repository + b"/blobs/uploads/?digest-algorithm=sha512"),
        Request(b"POST", b"%b/blobs/uploads/?mount=%b&from=%b" % (repository, blob, name.encode())),
        Request(b"PATCH", sessions[0], ((b"Content-Range", b"0-3"),), b"blob"),
        Request(b"PATCH", sessions[1], (CHUNKED,), b"4\r\nblob\r\n0\r\n\r\n"),
        Request(b"PUT", sessions[2] + b"?digest=" + blob, (), b"blob"),
        Request(b"GET", sessions[0]),
        Request(b"DELETE", sessions[1]),
        Request(b"GET", repository + b"/referrers/" + digest.encode() + b"?artifactType=a&n=1"),
    ]  # fmt: skip


def bent(request: Request, chance: random.Random) -> bytes:
    """The request with one to four things wrong."""
    for _ in range(chance.randint(1, 4)):
        match chance.randrange(8):
            case 0:
                request = replace(request, method=chance.choice(METHODS))
            case 1 | 2:
                request = replace(request, path=spliced(request.path, chance))
            case 3:
                parts = request.path.split(b"/")
                parts[chance.randrange(len(parts))] = chance.choice(WORDS)
                request = replace(request, path=b"/".join(parts))
            case 4 | 5:
                added = (chance.choice(FIELDS), chance.choice(WORDS))
                request = replace(request, fields=(*request.fields, added))
            case _:
                request = replace(request, body=spliced(request.body, chance))
    raw = bytes(request)
    return raw if chance.random() < 0.7 else spliced(raw, chance)


def spliced(data: bytes, chance: random.Random) -> bytes:
    """Some of the bytes replaced by a word, by noise, by others of them, or by nothing."""
    start = chance.randint(0, len(data))
    stop = min(len(data), start + chance.choice([0, 0, 1, 1, 4, 20]))
    piece = chance.choice(
        [chance.choice(WORDS), chance.randbytes(chance.randint(1, 4)), data[: stop - start], b""]
    )
    return data[:start] + piece + data[stop:]


def failures(server: UllageServer, requests: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Send the requests one by one; those that got no end, or a 5xx, with what came back."""
    for raw in requests:
        with Connection(server, seconds=HANG_SECONDS) as connection:
            # Nothing more will come: no server may wait for the rest of what was announced.
            received = connection.send(raw).half_close().everything()
        if received is None or _FAILED.search(received):
            yield raw, received or b"(no end)"


def assert_no_session_is_stuck(server: UllageServer, paths: set[bytes]) -> None:
    """Whatever happened to an upload session, it goes on or is gone."""
    sessions = {path.decode() for path in paths if re.search(rb"/uploads/[0-9a-f]{32}$", path)}
    assert len(sessions) == 2 * CLIENTS
    with httpx.Client(base_url=server.url) as client:
        for session in sessions:
            deadline = time.monotonic() + 5
            while (status := client.patch(session).status_code) == 503:
                assert time.monotonic() < deadline, session
            assert status in (202, 404)


@pytest.mark.thorough
def test_nearly_right_requests_do_no_harm(tmp_path: Path) -> None:
    """G8: no 5xx, nothing hangs, memory stays, and what is stored is as sound as before."""
    chance = random.Random(SEED)
    with UllageServer(tmp_path / "data", "--read-grace", "0s") as server:
        with httpx.Client(base_url=server.url, timeout=HANG_SECONDS) as client:
            good = [valid_requests(client, f"fuzz/{number}") for number in range(CLIENTS)]

        def run(requests: int) -> None:
            each = [
                [bent(chance.choice(mine), chance) for _ in range(requests // CLIENTS)]
                for mine in good
            ]
            with ThreadPoolExecutor(CLIENTS) as pool:
                for found in pool.map(lambda mine: list(failures(server, mine)), each):
                    assert not found, f"seed {SEED}: {found[0][0]!r} was answered {found[0][1]!r}"

        run(REQUESTS // 4)
        before = resident_bytes(server)
        run(REQUESTS - REQUESTS // 4)
        grown = resident_bytes(server) - before
        assert grown < MAX_GROWTH, f"{grown} bytes more"
        assert_no_session_is_stuck(server, {one.path for mine in good for one in mine})
        done = run_ullage("check", "--deep", "--data", server.data)
        assert done.returncode == 0, done.stdout + done.stderr
        server.assert_no_500()
