"""Very many pushers and deleters at once over the same few layers (gate G12).

Each is a connection of its own. Nobody waits for long, nobody is refused what was promised, no
answer is a 5xx, and in the end the disk holds what manifests need. ULLAGE_OPERATIONS sets how many
pushes and deletions (in the full gate, a thousand of each go on at the same time), ULLAGE_SEED with
which dice.
"""

import asyncio
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import pytest

from tests.crash.harness import (
    MANIFEST,
    SHORT_LEASE,
    CrashServer,
    ForkServer,
    Image,
    assert_no_leak,
    digest_of,
    let_pass,
    make_image,
    some_bytes,
)

OPERATIONS = int(os.environ.get("ULLAGE_OPERATIONS", "") or 400)
SEED = int(os.environ.get("ULLAGE_SEED", "1"))
# Of each.
AT_ONCE = min(1_000, OPERATIONS // 10)
LAYERS = tuple(some_bytes(f"crowd {n}", 300 + 40 * n) for n in range(50))
REPOSITORIES = tuple(f"crowd/r{n}" for n in range(4))
# Behind two thousand others.
LONGEST_SECONDS = 120


@dataclass
class Crowd:
    host: str
    port: int
    left: int
    chance: random.Random
    there: list[tuple[str, Image]] = field(default_factory=list)
    pushed: int = 0
    deleted: int = 0
    longest: float = 0.0
    refused: list[str] = field(default_factory=list)


class Connection:
    """HTTP/1.1, as much of it as this needs: every answer here has a Content-Length."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = ""
    ) -> tuple[int, str]:
        """The status, and the answer's body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._crowd.host, self._crowd.port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {kind}\r\n\r\n" if kind else "\r\n"
        began = monotonic()
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        length = 0 if method == "HEAD" else int(fields.get("content-length", "0"))
        said = (await reader.readexactly(length)).decode()
        self._crowd.longest = max(self._crowd.longest, monotonic() - began)
        if fields.get("connection") == "close":
            self.close()
        assert status < 500, f"{method} {path}: {status} {said}"
        return status, said

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _push(crowd: Crowd, connection: Connection, number: int) -> None:
    repository = crowd.chance.choice(REPOSITORIES)
    image = make_image(*crowd.chance.sample(LAYERS, 3), config=f"{SEED} {number}".encode())
    for data in image.blobs:
        digest = digest_of(data)
        status, _ = await connection.ask("HEAD", f"/v2/{repository}/blobs/{digest}")
        if status == 404:
            path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
            status, said = await connection.ask("POST", path, data)
            assert status == 201, said
    path = f"/v2/{repository}/manifests/{image.digest}"
    status, said = await connection.ask("PUT", path, image.raw, MANIFEST)
    if status != 201:
        crowd.refused.append(said)
        return
    crowd.pushed += 1
    crowd.there.append((repository, image))


async def _delete(crowd: Crowd, connection: Connection) -> None:
    if not crowd.there:
        await asyncio.sleep(0.01)
        return
    at = crowd.chance.randrange(len(crowd.there))
    crowd.there[at], crowd.there[-1] = crowd.there[-1], crowd.there[at]
    repository, image = crowd.there.pop()
    status, said = await connection.ask("DELETE", f"/v2/{repository}/manifests/{image.digest}")
    assert status == 202, said
    crowd.deleted += 1


async def _live(crowd: Crowd, *, pushes: bool) -> None:
    connection = Connection(crowd)
    while crowd.left > 0:
        crowd.left -= 1
        if pushes:
            await _push(crowd, connection, crowd.left)
        else:
            await _delete(crowd, connection)
    connection.close()


async def _all_at_once(crowd: Crowd) -> None:
    await asyncio.gather(*(_live(crowd, pushes=n % 2 == 0) for n in range(2 * AT_ONCE)))


@pytest.mark.slow
def test_a_crowd_that_pushes_and_deletes_gets_what_it_was_promised(
    forkserver: ForkServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with CrashServer(forkserver, tmp_path / "data", "--read-grace", "0s") as server:
        server.start()
        host, _, port = server.host.partition(":")
        crowd = Crowd(host, int(port), OPERATIONS, random.Random(SEED))
        asyncio.run(_all_at_once(crowd))
        assert not crowd.refused, json.loads(crowd.refused[0])
        assert crowd.longest < LONGEST_SECONDS
        server.kill9()
        let_pass(server.database, hours=25)
        server.arguments = SHORT_LEASE
        server.start()
        assert_no_leak(server)
        server.check("--deep")
        server.assert_no_500()
    record_property("operations", crowd.pushed + crowd.deleted)
    record_property("longest_seconds", round(crowd.longest, 2))
