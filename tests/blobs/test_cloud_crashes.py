"""Killed before and after each request to a service, an upload goes on in another process.

The child plays a server: it prints what it would keep in the upload's row, and dies at a failpoint.
The test plays the next one, which knows what was printed and nothing else (O4 and O5 of
docs/design/buckets.md and docs/design/azure-storage.md, section 4).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blobs.contract import MiB, fresh_key
from tests.support.buckets import S3Server
from tests.support.containers import Azurite
from tests.support.google_storage import GoogleStorage
from tests.support.object_servers import ObjectServer
from tests.support.server import command_environment
from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import KeyUnknown
from ullage.failpoints import VARIABLE

pytestmark = pytest.mark.client

# Bytes of a piece: of a bucket's part by its URL, and of a container's block.
PART, BLOCK = 5 * MiB, 8 * MiB
# Two requests: the first is synced, the second commits. What it sends fills another piece.
CHILD = """
import json, sys
from ullage.blobs.opening import open_blob_store
url, key, first, second = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = open_blob_store(url)
with store.begin(key) as append:
    append.write(b"1" * first)
    state = append.sync()
    print(json.dumps([first, state]), flush=True)
with store.resume(key, first, state) as append:
    append.write(b"2" * second)
    print(json.dumps([first, append.before_commit()]), flush=True)
    append.commit()
print("committed", flush=True)
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "buckets") as server:
        yield server


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azure") / "containers") as server:
        yield server


@pytest.mark.parametrize(
    "armed",
    [
        "s3.multipart.after_request",
        "s3.part.before_request",
        "s3.part.after_request",
        "s3.part.before_request@2",
        "s3.part.after_request@2",
        "s3.tail.before_request",
        "s3.tail.after_request",
        "s3.commit.before_request",
        "s3.commit.after_request",
    ],
)
@pytest.mark.thorough
def test_a_kill_at_any_request_to_a_bucket_loses_nothing_that_was_acknowledged(
    s3: S3Server, armed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _goes_on_after_a_kill(s3, armed, PART, monkeypatch, part="5MiB")


@pytest.mark.parametrize("armed", ["s3.commit.before_request", "s3.commit.after_request"])
@pytest.mark.thorough
def test_a_kill_at_a_commit_to_google_loses_nothing_that_was_acknowledged(
    s3: S3Server, armed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GoogleStorage(s3) as google:
        _goes_on_after_a_kill(google, armed, PART, monkeypatch, part="5MiB")


@pytest.mark.parametrize(
    "armed",
    [
        "azure.block.before_request",
        "azure.block.after_request",
        "azure.block.before_request@2",
        "azure.block.after_request@2",
        "azure.block.before_request@3",
        "azure.block.after_request@3",
        "azure.commit.before_request",
        "azure.commit.after_request",
    ],
)
@pytest.mark.thorough
def test_a_kill_at_any_request_to_a_container_loses_nothing_that_was_acknowledged(
    azurite: Azurite, armed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _goes_on_after_a_kill(azurite, armed, BLOCK, monkeypatch)


def _goes_on_after_a_kill(
    server: ObjectServer, armed: str, piece: int, monkeypatch: pytest.MonkeyPatch, **options: str
) -> None:
    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)
    bucket, key = server.fresh_bucket(), fresh_key()
    url = server.url(bucket, **options)
    first, second = piece + 1000, piece
    offset, state = _killed(server, armed, url, key, first, second)

    store = open_blob_store(url)
    whole = b"1" * first + b"2" * second
    try:
        with store.resume(key, offset, state) as append:
            append.write(whole[offset:])
            append.commit()
    except KeyUnknown:
        # It was committed: that is found out, and what is there taken for what it is.
        assert armed.endswith("commit.after_request")
        with store.resume(key, len(whole), "") as append:
            append.commit()
    leftover = store.leftover(state, None)
    store.delete([], [leftover.state] if leftover else [])
    assert store.size(key) == len(whole)
    with store.open(key, len(whole)) as reader:
        assert reader.read_at(0, len(whole)) == whole

    # What no row named is in the listing, and goes without touching the object.
    strays = [each for each in store.list() if not each.committed]
    assert all(each.key == key and each.place for each in strays)
    store.drop(strays)
    assert [(each.key, each.size, each.committed) for each in store.list()] == [
        (key, len(whole), True)
    ]
    assert server.stored_bytes(bucket) == len(whole)


def _killed(
    server: ObjectServer, armed: str, url: str, key: str, first: int, second: int
) -> tuple[int, str]:
    """What a row knows after a process was killed at a failpoint: offset and state."""
    name, _, hit = armed.partition("@")
    failpoint = f"{name}=kill@{hit}" if hit else f"{name}=kill"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url, key, str(first), str(second)],
        env=command_environment(server.environment | {VARIABLE: failpoint}),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(os.sep),
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert "committed\n" not in child.stdout
    kept = child.stdout.splitlines()
    offset, state = json.loads(kept[-1]) if kept else (0, "")
    return offset, state
