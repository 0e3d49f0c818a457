"""Killed before and after each request to a container, an upload goes on in another process.

The child plays a server: it prints what it would keep in the upload's row, and dies at a failpoint.
The test plays the next one, which knows what was printed and nothing else
(docs/design/azure-storage.md section 4, O4 and O5).
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
from tests.support.containers import Azurite
from tests.support.server import command_environment
from ullage.blobs.protocol import KeyUnknown
from ullage.failpoints import VARIABLE

pytestmark = pytest.mark.client

BLOCK = 8 * MiB
# Two requests: the first is synced, the second commits.
FIRST, SECOND = b"1" * (BLOCK + 1000), b"2" * BLOCK
CHILD = f"""
import json, sys
from ullage.blobs.azure.store import open_azure
url, key = sys.argv[1:]
store = open_azure(url)
with store.begin(key) as append:
    append.write(b"1" * {len(FIRST)})
    state = append.sync()
    print(json.dumps([append.offset, state]), flush=True)
with store.resume(key, {len(FIRST)}, state) as append:
    append.write(b"2" * {len(SECOND)})
    print(json.dumps([{len(FIRST)}, append.before_commit()]), flush=True)
    append.commit()
print("committed", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azure") / "containers") as server:
        yield server


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
def test_a_kill_at_any_request_loses_nothing_that_was_acknowledged(
    server: Azurite, armed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ullage.blobs.azure.store import open_azure

    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)
    container = server.fresh_container()
    url = server.url(container)
    key = fresh_key()
    name, _, hit = armed.partition("@")
    failpoint = f"{name}=kill@{hit}" if hit else f"{name}=kill"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url, key],
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

    store = open_azure(url)
    whole = FIRST + SECOND
    try:
        with store.resume(key, offset, state) as append:
            append.write(whole[offset:])
            append.commit()
    except KeyUnknown:
        # It was committed: that is found out, and what is there taken for what it is.
        assert armed == "azure.commit.after_request"
        with store.resume(key, len(whole), "") as append:
            append.commit()
    assert store.size(key) == len(whole)
    with store.open(key, len(whole)) as reader:
        assert reader.read_at(0, len(whole)) == whole
    assert [(each.key, each.size, each.committed) for each in store.list()] == [
        (key, len(whole), True)
    ]
    # No block is left beside it.
    assert server.stored_bytes(container) == len(whole)
