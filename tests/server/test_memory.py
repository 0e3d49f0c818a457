"""Memory does not follow the size of what is pushed or pulled, nor how many do so at once.

ULLAGE_LARGE_BLOB_GIB says how large the large blob is (1 GiB unless told).
"""

import hashlib
import os
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.server.processes import MIB, forget_peak, in_use, peak_bytes, resident_bytes
from tests.server.pushing import (
    push_blob,
    start_upload,
    wait_for_bytes,
)
from tests.server.raw import Connection
from tests.support.server import UllageServer
from ullage.oci.digest import digest_of
from ullage.server.http.blob_response import (
    LARGE_PIECE_BYTES,
    PIECE_BYTES,
    PIECES_READY,
    QUICK_BYTES,
    READY_BYTES,
    SMALLEST_PIECE_BYTES,
    ReadyMemory,
)

pytestmark = pytest.mark.thorough

LARGE = int(os.environ.get("ULLAGE_LARGE_BLOB_GIB", "1")) * 1024 * MIB
PIECE = os.urandom(MIB)
READERS = 400


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UllageServer]:
    """A server of this module's own, whose memory no other test has used."""
    with UllageServer(tmp_path_factory.mktemp("memory") / "data", "--read-grace", "0s") as server:
        yield server
        server.assert_no_500()


@contextmanager
def growing_at_most(server: UllageServer, size: int) -> Iterator[None]:
    """Fail if the server's memory rises by more than `size`, even for a moment."""
    before = resident_bytes(server)
    forget_peak(server)
    yield
    grown = peak_bytes(server) - before
    assert grown <= size, f"{grown / MIB:.1f} MiB more, {size / MIB:.0f} allowed"


def test_a_large_blob_goes_through_without_being_held(roomy: UllageServer) -> None:
    """The registry's promise: at most 64 MiB more, for a blob of any size, in and out."""
    with (
        growing_at_most(roomy, 64 * MIB),
        httpx.Client(base_url=roomy.url, timeout=120) as client,
    ):
        location = start_upload(client, "large")
        hashed = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            for _ in range(LARGE // MIB):
                hashed.update(PIECE)
                yield PIECE

        answer = client.patch(location, content=pieces())
        assert answer.headers["Range"] == f"0-{LARGE - 1}"
        digest = f"sha256:{hashed.hexdigest()}"
        assert client.put(location, params={"digest": digest}).status_code == 201
        for headers, first in (({}, 0), ({"Range": f"bytes={LARGE // 4 * 3}-"}, LARGE // 4 * 3)):
            with client.stream("GET", f"/v2/large/blobs/{digest}", headers=headers) as got:
                assert int(got.headers["Content-Length"]) == LARGE - first
                received = sum(map(len, got.iter_raw(MIB)))
            assert received == LARGE - first
        assert client.delete(f"/v2/large/blobs/{digest}").status_code == 202


def test_hundreds_of_slow_readers_share_what_there_is(roomy: UllageServer) -> None:
    """Each has some of its blob ready, together there is a limit, and it is given back."""
    data = os.urandom(8 * MIB)
    with httpx.Client(base_url=roomy.url, timeout=60) as client:
        digest = push_blob(client, "slow", data)
        before, used = resident_bytes(roomy), in_use(roomy)
        with growing_at_most(roomy, READY_BYTES + 32 * MIB), ExitStack() as connections:
            readers = [
                connections.enter_context(Connection(roomy, seconds=60, receive_buffer=16384))
                for _ in range(READERS)
            ]
            for reader in readers:
                reader.request("GET", f"/v2/slow/blobs/{digest}")
            for reader in readers:
                assert reader.head().startswith(b"HTTP/1.1 200")
            # A reader that does read is served meanwhile, and whole.
            for _ in range(3):
                assert client.get(f"/v2/slow/blobs/{digest}").content == data
            for reader in readers[::20]:
                assert digest_of(reader.exactly(len(data))) == digest
    deadline = time.monotonic() + 60
    while resident_bytes(roomy) > before + 24 * MIB or in_use(roomy) > used:
        assert time.monotonic() < deadline, (resident_bytes(roomy) / MIB, before / MIB)
        time.sleep(0.1)


def test_pieces_shrink_before_the_memory_for_them_is_used_up() -> None:
    """However many readers there are, and quick ones have some that the others have not."""
    memory = ReadyMemory()
    slow = [memory.hold(PIECE_BYTES, quick=False) for _ in range(2000)]
    assert slow[0] == PIECE_BYTES
    assert slow == sorted(slow, reverse=True)
    smallest = slow.count(SMALLEST_PIECE_BYTES) * SMALLEST_PIECE_BYTES
    assert (sum(slow) - smallest) * PIECES_READY <= READY_BYTES - QUICK_BYTES
    for size in slow:
        memory.release(size)
    assert memory.hold(LARGE_PIECE_BYTES, quick=True) == LARGE_PIECE_BYTES
    crowd = [memory.hold(PIECE_BYTES, quick=False) for _ in range(500)]
    assert crowd[-1] == SMALLEST_PIECE_BYTES
    assert memory.hold(PIECE_BYTES, quick=True) > 8 * SMALLEST_PIECE_BYTES


def test_a_hundred_uploads_at_once_share_what_there_is(roomy: UllageServer) -> None:
    """Each holds about a piece on its way to the disk, and together there is a limit."""
    data = [PIECE * 4 + n.to_bytes(2, "big") for n in range(100)]
    with growing_at_most(roomy, 160 * MIB), ExitStack() as connections:
        uploads = [connections.enter_context(Connection(roomy, seconds=120)) for _ in data]
        # All of them first arrive up to the last bytes, so that they are really there at once.
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(_begin, uploads, data))
            statuses = list(pool.map(_end, uploads, data))
    assert statuses == [201] * len(data)


def _begin(connection: Connection, data: bytes) -> None:
    path = f"/v2/many/blobs/uploads/?digest={digest_of(data)}"
    connection.request("POST", path, body=data[:-2], length=len(data))


def _end(connection: Connection, data: bytes) -> int:
    return connection.send(data[-2:]).answer().status


def test_bytes_that_come_one_by_one_are_not_collected(roomy: UllageServer) -> None:
    """Each chunk is an object of its own: a megabyte of tiny ones would take thirty."""
    before = {path.name for path in (roomy.data / "uploads").iterdir()}
    with httpx.Client(base_url=roomy.url, timeout=60) as client, Connection(roomy) as connection:
        session = start_upload(client, "tiny")
        head = f"PATCH {session} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.send(head.encode() + b"2\r\nab\r\n" * 17_000)
        # Otherwise 17,000 chunks are held in memory.
        wait_for_bytes(roomy.data / "uploads", before)


def test_manifests_at_once_have_a_limit_together(roomy: UllageServer) -> None:
    """They are held whole, so too many large ones at once are told to come again: 429."""
    size = 4 * MIB
    with growing_at_most(roomy, 256 * MIB), ExitStack() as connections:
        waiting = []
        for _ in range(60):
            connection = connections.enter_context(Connection(roomy))
            connection.request("PUT", "/v2/app/manifests/v1", body=bytes(size - 1), length=size)
            waiting.append(connection)
        # 32 of them fit into 128 MiB; those never end, so they get no answer.
        for _ in range(20):
            answered, _, _ = select.select(waiting, [], [], 20)
            answer = answered[0].answer()
            assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
            assert "retry-after" in answer.headers
            waiting.remove(answered[0])
    assert httpx.get(f"{roomy.url}/v2/").status_code == 200
