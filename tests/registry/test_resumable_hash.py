"""Digests in the making go on where they were saved: in this process, another one, or a later one.

The measure is hashlib, and the bytes that a server's process reads.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from tests.server.processes import MIB, bytes_read
from tests.support.server import UllageServer, command_environment
from ullage.oci.digest import Hasher
from ullage.registry.push import resumable_hash
from ullage.registry.push.resumable_hash import (
    ResumableHasher,
    begin_hash,
    restore_hash,
    saved_hash,
)

ALGORITHMS = ("sha256", "sha512")
STATE_BYTES = {"sha256": 112, "sha512": 216}
# On both sides of a block's end, for both block lengths, and of where the lock is let go.
CUTS = (0, 1, 3, 63, 64, 65, 127, 128, 129, 191, 2047, 2048, 2049, 4096, 9973)


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Let the library be another one, or none."""

    def patch(**changes: Any) -> None:
        for name, value in changes.items():
            monkeypatch.setattr(resumable_hash, name, value)
        resumable_hash._contexts.cache_clear()

    yield patch
    monkeypatch.undo()
    resumable_hash._contexts.cache_clear()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_hash_that_is_saved_and_restored_at_any_byte_is_hashlibs(algorithm: str) -> None:
    data = random.Random(1).randbytes(CUTS[-1])
    hasher = begin_hash(algorithm)
    for start, end in itertools.pairwise(CUTS):
        hasher.update(data[start:end])
        assert hasher.digest().hex == hashlib.new(algorithm, data[:end]).hexdigest()
        saved = saved_hash(hasher)
        assert saved is not None
        assert len(saved) == STATE_BYTES[algorithm]
        restored = restore_hash(algorithm, saved, end)
        assert restored is not None
        hasher = restored
        assert hasher.length == end


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bytes_are_hashed_from_whatever_holds_them(algorithm: str) -> None:
    hasher, buffer = begin_hash(algorithm), bytearray(b"one ")
    hasher.update(buffer)
    buffer.clear()  # a BufferError if the hasher still had a view of it
    for piece in (
        b"two ",
        b"",
        bytearray(),
        memoryview(b"three "),
        memoryview(bytearray(b"four ")),
    ):
        hasher.update(piece)
    hasher.update(memoryview(b"abcdefgh").cast("I"))
    hasher.update(memoryview(bytearray(b"f-i-v-e-"))[::2])
    expected = b"one two three four abcdefghfive"
    assert hasher.length == len(expected)
    assert hasher.digest().hex == hashlib.new(algorithm, expected).hexdigest()


def test_a_state_that_is_not_of_these_bytes_is_not_used() -> None:
    """The library would write wherever a wrong length in it leads."""
    hasher = begin_hash("sha256")
    hasher.update(b"x" * 100)
    saved = saved_hash(hasher)
    assert saved is not None
    assert restore_hash("sha256", saved, 100) is not None
    assert restore_hash("sha256", saved, 101) is None
    assert restore_hash("sha512", saved, 100) is None
    for wrong in (None, b"", saved[:-1], saved + b"\0"):
        assert restore_hash("sha256", wrong, 100) is None
    # Its last 8 bytes: how much of a block there is, how long the digest is to be.
    for place, value in ((104, 37), (104, 64), (107, 255), (108, 255)):
        broken = bytearray(saved)
        broken[place] = value
        assert restore_hash("sha256", bytes(broken), 100) is None


def test_a_hash_goes_on_in_another_process() -> None:
    hasher = begin_hash("sha256")
    hasher.update(b"one process, ")
    program = (
        "import sys; from ullage.registry.push.resumable_hash import restore_hash;"
        "hasher = restore_hash('sha256', bytes.fromhex(sys.argv[1]), 13);"
        "hasher.update(b'and another'); print(hasher.digest().hex)"
    )
    saved = saved_hash(hasher)
    assert saved is not None
    found = subprocess.run(
        [sys.executable, "-c", program, saved.hex()],
        env=command_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == hashlib.sha256(b"one process, and another").hexdigest()


def test_without_the_library_hashlib_serves(without_library: Callable[..., None]) -> None:
    def missing() -> str:
        raise OSError("no libcrypto")

    without_library(_library=missing)
    hasher = begin_hash("sha256")
    assert type(hasher) is Hasher
    assert saved_hash(hasher) is None


def test_a_library_that_hashes_otherwise_is_not_used(
    without_library: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    load = resumable_hash._load

    def wrong() -> dict[str, resumable_hash._Context]:
        contexts = load()
        # As after a change of the structure: each is taken for the other.
        return {"sha256": contexts["sha512"], "sha512": contexts["sha256"]}

    without_library(_load=wrong)
    assert type(begin_hash("sha256")) is Hasher
    assert "libcrypto hashes otherwise" in caplog.text


def test_with_the_library_hashes_are_saved() -> None:
    """Otherwise the tests of the fallback would be all that is tested here."""
    assert isinstance(begin_hash("sha512"), ResumableHasher)


# --- servers --------------------------------------------------------------------------------------

CHUNK, CHUNKS = MIB, 8
# What the last PUT of a process may read besides: its request, and what the database answers.
LITTLE = CHUNK // 2


def _push_in_turn(clients: list[httpx.Client], data: bytes) -> tuple[str, str]:
    """Chunks to the clients in turn; where the session is then, and the digest."""
    location = clients[0].post("/v2/app/blobs/uploads/").headers["location"]
    for n, start in enumerate(range(0, len(data), CHUNK)):
        answer = clients[n % len(clients)].patch(location, content=data[start : start + CHUNK])
        assert answer.status_code == 202, answer.text
    return location, f"sha256:{hashlib.sha256(data).hexdigest()}"


def _finish(server: UllageServer, client: httpx.Client, location: str, digest: str) -> int:
    """The last PUT; how many bytes the server's process has read for it."""
    before = bytes_read(server)
    answer = client.put(urljoin(server.url, location), params={"digest": digest})
    read = bytes_read(server) - before
    assert answer.status_code == 201, answer.text
    return read


def _get(client: httpx.Client, digest: str) -> bytes:
    return client.get(f"/v2/app/blobs/{digest}").content


@pytest.mark.postgresql
@pytest.mark.thorough
def test_a_blob_whose_chunks_went_to_two_processes_is_not_read_again(
    postgres_url: str, tmp_path: Path
) -> None:
    """Nor is a blob whose digest is of other bytes taken: what is saved says what was hashed."""
    shared = ("--database", postgres_url, "--storage", f"file:{tmp_path / 'store'}")
    data = secrets.token_bytes(CHUNK * CHUNKS)
    with (
        UllageServer(tmp_path / "one", *shared) as one,
        UllageServer(tmp_path / "other", *shared) as other,
        httpx.Client(base_url=one.url) as to_one,
        httpx.Client(base_url=other.url) as to_other,
    ):
        location, digest = _push_in_turn([to_one, to_other], data)
        wrong = f"sha256:{'0' * 64}"
        refused = to_one.put(urljoin(one.url, location), params={"digest": wrong})
        assert refused.status_code == 400
        # The last chunk went to the other process.
        assert _finish(one, to_one, location, digest) < LITTLE
        assert _get(to_other, digest) == data


@pytest.mark.thorough
def test_after_a_restart_a_blob_is_not_read_again(tmp_path: Path) -> None:
    data = secrets.token_bytes(CHUNK * CHUNKS)
    with UllageServer(tmp_path / "data") as server:
        with httpx.Client(base_url=server.url) as client:
            location, digest = _push_in_turn([client], data)
        server.restart(kill=True)
        with httpx.Client(base_url=server.url) as client:
            assert _finish(server, client, location, digest) < LITTLE
            assert _get(client, digest) == data
