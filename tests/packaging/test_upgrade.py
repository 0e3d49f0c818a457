"""Processes on PostgreSQL are upgraded one after the other, while clients go on
(docs/guides/upgrading.md)."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.pushing import push_image
from tests.support.packages import ROOT
from tests.support.require import require_command
from tests.support.server import UllageServer, run_ullage
from ullage.database.migrations.upgrade import NEWEST

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

# The newest commit with schema b0007: the oldest version that may run beside today's.
OLD, OLD_SCHEMA = "766b80779bf5d4c25599b4acfb52f1a754e26cf8", "b0007"


@pytest.fixture(scope="module")
def old_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it was then."""
    archive = subprocess.run(
        [require_command("git"), "archive", OLD, "src"], cwd=ROOT, capture_output=True
    )
    if archive.returncode:
        # A shallow clone, or a source archive: nothing that could be installed is missing.
        pytest.skip(f"the history of this checkout does not reach back to {OLD[:7]}")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder / "src"


@contextmanager
def asked(server: UllageServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def work(server: UllageServer, other: UllageServer, name: str) -> None:
    """Push to one, pull from the other, delete there; no trace is left at the first."""
    with asked(server) as client, asked(other) as beside:
        digest = push_image(client, name, "v1", (name.encode() * 1000,))
        manifest = beside.get(f"/v2/{name}/manifests/v1")
        assert manifest.headers["Docker-Content-Digest"] == digest
        for layer in manifest.json()["layers"]:
            assert beside.get(f"/v2/{name}/blobs/{layer['digest']}").is_success
        assert beside.delete(f"/v2/{name}/manifests/{digest}").status_code == 202
        assert client.get(f"/v2/{name}/manifests/v1").status_code == 404


def test_an_old_process_serves_beside_a_new_one(
    old_source: Path, postgres_url: str, tmp_path: Path
) -> None:
    flags = ("--database", postgres_url, "--storage", f"file:{tmp_path}/store")
    then = {"PYTHONPATH": str(old_source)}
    one = UllageServer(tmp_path / "one", *flags, env=then)
    two = UllageServer(tmp_path / "two", *flags, env=then)
    with one, two:
        work(one, two, "app/before")
        with asked(one) as client:
            kept = push_image(client, "app/kept", "v1", (b"kept",))
        assert one.terminate() == 0
        # The first new process brings the database up to date, under the old one's feet.
        one.env.clear()
        one.start()
        assert f"migrated from schema {OLD_SCHEMA} to {NEWEST}" in one.log
        work(one, two, "app/new-and-old")
        work(two, one, "app/old-and-new")
        assert two.terminate() == 0
        two.env.clear()
        two.start()
        work(one, two, "app/after")
        with asked(two) as client:
            assert client.get(f"/v2/app/kept/manifests/{kept}").is_success
        for server in (one, two):
            assert server.terminate() == 0
            server.assert_no_500()
    checked = run_ullage("check", "--deep", "--data", tmp_path / "one", *flags)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_old_process_does_not_start_where_a_new_one_was(
    old_source: Path, postgres_url: str, tmp_path: Path
) -> None:
    """One line that says which version does, and nothing is changed."""
    flags = ("--database", postgres_url, "--storage", f"file:{tmp_path}/store")
    with UllageServer(tmp_path / "one", *flags) as server:
        assert server.terminate() == 0
    place = ("--listen", "127.0.0.1:0", "--data", tmp_path / "two", *flags)
    refused = run_ullage("serve", *place, env={"PYTHONPATH": str(old_source)})
    assert (refused.returncode, refused.stdout) == (1, "")
    last = refused.stderr.splitlines()[-1]
    assert f"it is of a newer version ({NEWEST}), this is {OLD_SCHEMA} - start the version" in last
