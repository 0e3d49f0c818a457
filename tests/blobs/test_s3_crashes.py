"""Killed before and after each request to a bucket, an upload goes on in another process.

The child plays a server: it prints what it would keep in the upload's row, and dies at a failpoint.
The test plays the next one, which knows what was printed and nothing else (docs/design/buckets.md
section 4).
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
from tests.support.buckets import CREDENTIALS, S3Server
from tests.support.server import command_environment
from ullage.blobs.opening import open_blob_store
from ullage.failpoints import VARIABLE

pytestmark = pytest.mark.client

PART = 5 * MiB
# Two requests: the first is synced, the second commits. The second part is in the second one.
FIRST, SECOND = b"1" * (PART + 1000), b"2" * PART
CHILD = f"""
import json, sys
from ullage.blobs.opening import open_blob_store
url, key = sys.argv[1:]
store = open_blob_store(url)
with store.begin(key) as append:
    append.write(b"1" * {len(FIRST)})
    state = append.sync()
    print(json.dumps([append.offset, state]), flush=True)
with store.resume(key, {len(FIRST)}, state) as append:
    append.write(b"2" * {len(SECOND)})
    append.commit()
print("committed", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "buckets") as server:
        yield server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


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
def test_a_kill_at_any_request_loses_nothing_that_was_acknowledged(
    server: S3Server, armed: str
) -> None:
    url = server.url(server.fresh_bucket(), part="5MiB")
    key = fresh_key()
    name, _, hit = armed.partition("@")
    failpoint = f"{name}=kill@{hit}" if hit else f"{name}=kill"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url, key],
        env=command_environment(CREDENTIALS | {VARIABLE: failpoint}),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(os.sep),
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert "committed" not in child.stdout
    kept = child.stdout.splitlines()
    offset, state = json.loads(kept[0]) if kept else (0, "")

    store = open_blob_store(url)
    with store.resume(key, offset, state) as append:
        append.write((FIRST + SECOND)[offset:])
        append.commit()
    leftover = store.leftover(state, None)
    store.delete([], [leftover.state] if leftover else [])
    size = len(FIRST) + len(SECOND)
    assert store.size(key) == size
    with store.open(key, size) as reader:
        assert reader.read_at(0, size) == FIRST + SECOND

    # What no row named is in the listing, and goes without touching the object.
    strays = [each for each in store.list() if not each.committed]
    assert all(each.key == key and each.place for each in strays)
    store.drop(strays)
    assert [(each.key, each.size, each.committed) for each in store.list()] == [(key, size, True)]
