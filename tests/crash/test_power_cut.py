"""The power fails right after an answer, or in the middle of the protocol (faults F7, F8).

Two loop-mounted ext4 file systems lose everything that was not durable, as in a power cut. The
server is stopped first, so that no answer races with the cut. With the database on a disk of its
own, no commit of it can make a forgotten directory fsync of the blob store durable by accident.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash import stock as contents
from tests.crash.conftest import Stock
from tests.crash.harness import (
    SHORT_LEASE,
    CrashServer,
    ForkServer,
    Lost,
    User,
    assert_committed,
    assert_no_leak,
    digest_of,
    let_pass,
    make_image,
    read_ledger,
    some_bytes,
    wait_for_state,
    wait_until,
)
from tests.crash.mounts import Disk, ext4
from ullage.blobs.files.direct import AFTER_BYTES, BUFFER_BYTES

DATA = some_bytes("power", 50_000)
# The middle of it goes to the disk past the page cache.
LARGE = some_bytes("direct", AFTER_BYTES + 2 * BUFFER_BYTES + 777)
IMAGE = make_image(DATA, config=b"{}")
Blobs = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Disk, Disk]]:
    """One for the blobs, one for the database."""
    folder = tmp_path_factory.mktemp("disks")
    with ext4(folder / "blobs") as blobs, ext4(folder / "database") as database:
        yield blobs, database


@pytest.fixture
def plugged(
    request: pytest.FixtureRequest,
    disks: tuple[Disk, Disk],
    forkserver: ForkServer,
    stock: Stock,
    tmp_path: Path,
) -> Iterator["Plugged"]:
    """A filled registry: "apart", with its blobs on a disk of their own, or "together" on one."""
    for disk in disks:
        disk.clear()
    storage = disks[0].folder if request.param == "apart" else None
    data = disks[1].folder / "data"
    journal = stock.copy(data, storage)
    for disk in disks:
        disk.sync()
    arguments, log = ("--read-grace", "0s"), tmp_path / "server.log"
    with (
        CrashServer(forkserver, data, *arguments, storage=storage, log=log) as server,
        User("", journal) as user,
    ):
        yield Plugged(server, user, disks)
        server.assert_no_500()


class Plugged:
    """A server and its client, on disks with a plug to pull."""

    def __init__(self, server: CrashServer, user: User, disks: tuple[Disk, Disk]) -> None:
        self.server = server
        self.user = user
        self._disks = disks

    def start(self, armed: str = "") -> None:
        self.server.armed = armed
        self.server.start()
        self.user.connect(self.server.host)

    def cut_power(self) -> None:
        """Stop the server, cut the power, and let the disks come back with what was durable."""
        os.kill(self.server.pid, signal.SIGSTOP)
        wait_for_state(self.server.pid, "T")
        for disk in self._disks:
            disk.cut_power()
        self.server.kill9()
        for disk in self._disks:
            disk.power_up()

    def assert_recovered(self, blobs: Blobs) -> None:
        """What was acknowledged is there, byte for byte; in the end nothing else is."""
        user, server = self.user, self.server
        for repository, data in blobs:
            path = f"/v2/{repository}/blobs/{digest_of(data)}"
            assert user.client.expect(200, "GET", path).body == data
        user.resume_sessions()
        user.verify()
        user.verify_listings()
        assert_committed(server)
        server.check("--deep")
        server.kill9()
        let_pass(server.database, hours=1, known_sessions=user.journal.sessions)
        server.arguments = SHORT_LEASE
        server.start()
        user.connect(server.host)
        user.verify()
        assert_no_leak(server)
        server.check("--deep")


# --- right after an answer ------------------------------------------------------------------------


def upload_single(plugged: Plugged) -> Blobs:
    plugged.user.upload("new/app", DATA, "single")
    return [("new/app", DATA)]


def upload_put(plugged: Plugged) -> Blobs:
    plugged.user.upload("new/app", DATA, "put")
    return [("new/app", DATA)]


def upload_chunks(plugged: Plugged) -> Blobs:
    plugged.user.upload("new/app", DATA, "chunks")
    return [("new/app", DATA)]


def patch(plugged: Plugged) -> Blobs:
    location = plugged.user.open_session("new/app", DATA)
    plugged.user.append(location, DATA[:30_000])
    return []


def upload_large(plugged: Plugged) -> Blobs:
    plugged.user.upload("new/app", LARGE, "put")
    return [("new/app", LARGE)]


def patch_large(plugged: Plugged) -> Blobs:
    location = plugged.user.open_session("new/app", LARGE)
    plugged.user.append(location, LARGE[:-777])
    return []


def put_manifest(plugged: Plugged) -> Blobs:
    plugged.user.push("new/app", IMAGE, "v1")
    return []


def mount(plugged: Plugged) -> Blobs:
    plugged.user.mount("new/app", "base/alone", contents.LARGE)
    return [("new/app", contents.LARGE)]


def delete_tag(plugged: Plugged) -> Blobs:
    plugged.user.delete_tag("base/app", "latest")
    return []


def delete_and_reclaim(plugged: Plugged) -> Blobs:
    """The rows of the erased bytes are gone, so the bytes must not come back."""
    plugged.user.delete_image("base/alone", contents.ALONE.digest)
    database = plugged.server.database
    wait_until(lambda: not read_ledger(database).tombstones, lambda: plugged.server.log)
    return []


ACTS = [
    upload_single,
    upload_put,
    upload_chunks,
    patch,
    upload_large,
    patch_large,
    put_manifest,
    mount,
    delete_tag,
    delete_and_reclaim,
]
CUTS = [
    *(("apart", act) for act in ACTS),
    *(("together", act) for act in (upload_single, patch, put_manifest, delete_and_reclaim)),
]


@pytest.mark.parametrize(("plugged", "act"), CUTS, indirect=["plugged"])
def test_what_was_answered_survives_a_power_cut(
    plugged: Plugged, act: Callable[[Plugged], Blobs]
) -> None:
    plugged.start()
    blobs = act(plugged)
    plugged.cut_power()
    plugged.start()
    plugged.assert_recovered(blobs)


# --- in the middle --------------------------------------------------------------------------------


@pytest.mark.parametrize("plugged", ["apart"], indirect=True)
@pytest.mark.parametrize(
    "name", ["blob.commit.after_fsync", "blob.commit.after_rename", "upload.finish.before_row"]
)
def test_an_upload_that_a_power_cut_ends_is_absent_or_complete(plugged: Plugged, name: str) -> None:
    plugged.start(f"{name}=stop")
    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(plugged.user.upload, "new/app", DATA, "put")
        wait_for_state(plugged.server.pid, "T")
        plugged.cut_power()
        assert isinstance(uploading.exception(), Lost)
    plugged.start()
    plugged.assert_recovered([])


@pytest.mark.parametrize("plugged", ["apart"], indirect=True)
@pytest.mark.parametrize(
    "name", ["blob.delete.after_unlink", "reclaim.before_drop", "reclaim.after_drop"]
)
def test_bytes_whose_erasing_a_power_cut_ends_are_erased_later(plugged: Plugged, name: str) -> None:
    plugged.start(f"{name}=stop")
    # On a busy machine the worker is there, and everything stopped, before the answer is sent.
    with suppress(Lost):
        plugged.user.delete_image("base/app", contents.TWO.digest)
    wait_for_state(plugged.server.pid, "T")
    plugged.cut_power()
    plugged.start()
    plugged.assert_recovered([])
