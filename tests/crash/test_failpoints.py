"""Killed at every named place of the protocol, the registry keeps its promises (faults F1-F5).

Each case: a server is armed with one failpoint, a client walks into it, the process dies by SIGKILL
there; a server started on what is left must show the state before or after the cut-off operation,
finish or give back everything, satisfy `ullage check`, and let the client do it all again.
"""

import ast
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import ullage
from tests.crash import stock as contents
from tests.crash.conftest import Stock
from tests.crash.harness import (
    SHORT_LEASE,
    CrashServer,
    ForkServer,
    Lost,
    Refused,
    User,
    assert_accounted,
    assert_committed,
    assert_no_leak,
    digest_of,
    let_pass,
    make_image,
    make_index,
    nudge,
    some_bytes,
    stored_files,
    wait_until,
)
from tests.crash.mounts import fill, tmpfs
from tests.support.postgres import PostgresServer
from ullage.failpoints import NAMES

SOURCE = Path(ullage.__file__).parent
# In the order in which they are uploaded: the first in one request, the second in two, the third
# in chunks. So the third pass of most failpoints is in the third way to upload.
PARTS = tuple(some_bytes(f"part {n}", 40_000 + n) for n in range(3))
NEW = make_image(*PARTS[1:], config=PARTS[0])
FAMILY = tuple(make_image(some_bytes(f"family {n}", 3_000)) for n in range(2))
INDEX = make_index(*FAMILY)
UNUSED = some_bytes("unused", 7_000)
BALLAST = 4 * 1024 * 1024  # The default.


# --- what clients do ------------------------------------------------------------------------------


def push_in_three_ways(user: User) -> None:
    user.upload("new/app", PARTS[0], "single")
    user.upload("new/app", PARTS[1], "put")
    user.upload("new/app", PARTS[2], "chunks")
    user.put("new/app", NEW, "v1")


def push_what_is_there(user: User) -> None:
    """Upload a blob that another repository has: one of the two copies has to go."""
    image = make_image(contents.SHARED, config=b"{}")
    user.upload("new/app", contents.SHARED, "put")
    user.upload("new/app", b"{}")
    user.put("new/app", image, "again")


def push_index(user: User) -> None:
    for image in FAMILY:
        user.push("new/index", image)
    user.put("new/index", INDEX, "all")


def push_signature(user: User) -> None:
    user.push("base/app", make_image(b"signature of one", subject=contents.ONE))


def retag(user: User) -> None:
    user.put("base/app", contents.TWO, "v1")


def mount(user: User) -> None:
    user.mount("new/mounted", "base/alone", contents.SHARED)
    user.mount("new/mounted", "base/alone", contents.LARGE)
    user.push("new/mounted", contents.ALONE, "copy")


def delete_image(user: User) -> None:
    user.delete_image("base/app", contents.TWO.digest)


def delete_last_image(user: User) -> None:
    user.delete_image("base/alone", contents.ALONE.digest)


def delete_index(user: User) -> None:
    along = [image.digest for image in (*contents.PLATFORMS, contents.SIGNATURE)]
    user.delete_image("base/multi", contents.MULTI.digest, *along)


def delete_tag(user: User) -> None:
    user.delete_tag("base/app", "latest")


def delete_blob(user: User) -> None:
    user.upload("base/app", UNUSED)
    user.delete_blob("base/app", UNUSED)


def cancel(user: User) -> None:
    location = user.open_session("new/app", UNUSED)
    user.append(location, UNUSED[:5_000])
    user.cancel(location)


def upload_for_nothing(user: User) -> None:
    """No manifest follows: the lease ends, and the worker has to notice."""
    user.upload("base/app", UNUSED)


def erase_repository(user: User) -> None:
    """The deletion was marked before: see `_delete_repository`."""


# --- where they are cut off -----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """The failpoint, the pass that kills, and what runs into it."""

    name: str
    hit: int
    scenario: Callable[[User], None]

    def __str__(self) -> str:
        return f"{self.name}@{self.hit}-{self.scenario.__name__}"

    @property
    def armed(self) -> str:
        return f"{self.name}=kill@{self.hit}"


SINGLE, PUT, CHUNKS = 1, 2, 3

CASES = [
    Case("upload.reserve.after_row", 1, push_in_three_ways),
    *(Case("blob.create.after_file", way, push_in_three_ways) for way in (SINGLE, CHUNKS)),
    *(Case("blob.append.after_write", way, push_in_three_ways) for way in (SINGLE, PUT, CHUNKS, 4)),
    *(Case("blob.append.after_fsync", chunk, push_in_three_ways) for chunk in (1, 2)),
    *(Case("upload.append.before_offset_row", chunk, push_in_three_ways) for chunk in (1, 2)),
    *(Case("upload.append.after_offset_row", chunk, push_in_three_ways) for chunk in (1, 2)),
    *(Case("upload.finish.before_commit", way, push_in_three_ways) for way in (SINGLE, CHUNKS)),
    *(Case("blob.commit.after_fsync", way, push_in_three_ways) for way in (SINGLE, CHUNKS)),
    *(Case("blob.commit.after_rename", way, push_in_three_ways) for way in (SINGLE, CHUNKS)),
    *(Case("blob.commit.after_dirsync", way, push_in_three_ways) for way in (SINGLE, PUT)),
    *(Case("upload.finish.before_row", way, push_in_three_ways) for way in (SINGLE, PUT, CHUNKS)),
    *(Case("upload.finish.in_transaction", way, push_in_three_ways) for way in (SINGLE, CHUNKS)),
    *(Case("upload.finish.after_row", way, push_in_three_ways) for way in (SINGLE, PUT, CHUNKS)),
    Case("upload.finish.in_transaction", 1, push_what_is_there),
    Case("upload.finish.after_row", 1, push_what_is_there),
    Case("manifest.put.before_row", 1, push_in_three_ways),
    Case("manifest.put.in_transaction", 1, push_in_three_ways),
    Case("manifest.put.in_transaction", 1, retag),
    Case("manifest.put.in_transaction", 3, push_index),
    Case("manifest.put.in_transaction", 1, push_signature),
    Case("manifest.put.after_row", 1, push_in_three_ways),
    Case("manifest.put.after_row", 3, push_index),
    Case("mount.in_transaction", 1, mount),
    Case("mount.after_row", 2, mount),
    Case("delete.in_transaction", 1, delete_image),
    Case("delete.in_transaction", 1, delete_last_image),
    Case("delete.in_transaction", 1, delete_index),
    Case("delete.in_transaction", 1, delete_tag),
    Case("delete.in_transaction", 1, delete_blob),
    Case("delete.after_row", 1, delete_index),
    Case("delete.after_row", 1, delete_tag),
    Case("delete.after_row", 1, delete_blob),
    Case("cancel.after_row", 1, cancel),
    Case("review.in_transaction", 1, upload_for_nothing),
    Case("review.after_row", 1, upload_for_nothing),
    Case("reclaim.after_claim", 1, delete_image),
    Case("blob.delete.after_unlink", 1, delete_index),
    Case("blob.delete.after_unlink", 4, delete_index),
    Case("blob.delete.after_dirsync", 1, delete_index),
    Case("reclaim.before_drop", 1, delete_last_image),
    Case("reclaim.after_drop", 1, delete_image),
]
# Those that take more than a request to reach have tests of their own, below; those of a bucket
# and of a container in tests/blobs/test_cloud_crashes.py, and those of a copy of the storage, which
# another process makes, in tests/transfer.
ELSEWHERE = {
    "azure.block.after_request",
    "azure.block.before_request",
    "azure.commit.after_request",
    "azure.commit.before_request",
    "ballast.after_release",
    "backup.after_blob",
    "backup.after_snapshot",
    "backup.before_description",
    "backup.prune.before_blobs",
    "backup.restore.before_settling",
    "copy.after_commit",
    "copy.after_move",
    "copy.after_piece",
    "copy.before_move",
    "deleted.after_row",
    "job.after_batch",
    "job.in_transaction",
    "reconcile.before_tombstone",
    "recover.after_claim",
    "recover.after_row",
    "repository.delete.after_mark",
    "repository.erase.after_batch",
    "restore.after_batch",
    "restore.in_transaction",
    "s3.commit.after_request",
    "s3.commit.before_request",
    "s3.multipart.after_request",
    "s3.part.after_request",
    "s3.part.before_request",
    "s3.tail.after_request",
    "s3.tail.before_request",
}
# Where rows in another process's keeping outlive ours: locks, claims, leases, half a transaction.
ON_POSTGRESQL = [
    # What comes whole has no row; the second is of what nudges the worker.
    *(Case("upload.start.after_row", row, push_in_three_ways) for row in (1, 2)),
    Case("upload.append.before_offset_row", 2, push_in_three_ways),
    Case("upload.finish.before_row", CHUNKS, push_in_three_ways),
    Case("upload.finish.in_transaction", PUT, push_in_three_ways),
    Case("upload.finish.after_row", CHUNKS, push_in_three_ways),
    Case("manifest.put.in_transaction", 3, push_index),
    Case("mount.in_transaction", 1, mount),
    Case("delete.in_transaction", 1, delete_index),
    Case("review.in_transaction", 1, upload_for_nothing),
    Case("blob.delete.after_unlink", 4, delete_index),
    Case("reclaim.before_drop", 1, delete_last_image),
]


def test_every_failpoint_is_called_and_every_call_is_known() -> None:
    called = {
        name.value if isinstance(name, ast.Constant) else ast.unparse(name)
        for path in SOURCE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("failpoint")
        for name in call.args
    }
    assert called == NAMES


def test_every_failpoint_is_killed_at() -> None:
    assert {case.name for case in (*CASES, *ON_POSTGRESQL)} | ELSEWHERE == NAMES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kill_leaves_what_was_acknowledged_and_nothing_else(
    forkserver: ForkServer, stock: Stock, tmp_path: Path, case: Case
) -> None:
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        _crash(server, user, case)


@pytest.mark.postgresql
@pytest.mark.parametrize("case", ON_POSTGRESQL, ids=str)
def test_the_same_when_postgresql_lives_on(
    forkserver: ForkServer,
    stock_pg: Stock,
    postgres_server: PostgresServer,
    tmp_path: Path,
    case: Case,
) -> None:
    assert stock_pg.database is not None
    journal = stock_pg.copy(tmp_path / "data")
    with (
        postgres_server.fresh_database(stock_pg.database.rpartition("/")[2]) as url,
        CrashServer(forkserver, tmp_path / "data", database=url) as server,
        User("", journal) as user,
    ):
        _crash(server, user, case)


def _crash(server: CrashServer, user: User, case: Case) -> None:
    server.armed = case.armed
    server.arguments = SHORT_LEASE if case.name.startswith("review.") else ("--read-grace", "0s")
    server.start()
    user.connect(server.host)
    with suppress(Lost):
        case.scenario(user)
        # The worker looks around when something is given back.
        nudge(user)
    server.expect_kill()
    _assert_recovered(server, user)
    _assert_all_can_be_done_again(server, user, case.scenario)
    server.assert_no_500()


def _assert_recovered(server: CrashServer, user: User) -> None:
    """A server started on what is left shows what it must, and gives everything else back."""
    if server.running:
        server.kill9()
    let_pass(server.database, hours=1, known_sessions=user.journal.sessions)
    server.arguments = SHORT_LEASE
    server.start()
    user.connect(server.host)
    user.resume_sessions()
    user.verify()
    user.verify_listings()
    assert_committed(server)
    assert_no_leak(server)
    server.check()
    server.check("--deep")


def _assert_all_can_be_done_again(
    server: CrashServer, user: User, scenario: Callable[[User], None]
) -> None:
    """The client tries again; what it wanted to delete may be gone already."""
    server.kill9()
    server.arguments = ("--read-grace", "0s")
    server.start()
    user.connect(server.host)
    try:
        scenario(user)
    except Refused as refused:
        if refused.answer.status != 404 or not str(refused).startswith("DELETE"):
            raise
    user.verify()
    assert_accounted(server)


# --- where no single request leads ----------------------------------------------------------------


def test_a_start_that_is_killed_over_and_over_recovers_in_the_end(
    forkserver: ForkServer, stock: Stock, tmp_path: Path
) -> None:
    """Fault F5: recovery is idempotent, and a crash loop makes nothing grow."""
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        # Two requests at once: the first to come there waits for the second, which dies.
        server.armed = "upload.finish.before_row=kill@2,upload.finish.before_row=sleep:20000@1"
        server.start()
        with ThreadPoolExecutor(2) as pool:
            for lost in [pool.submit(_upload_in_vain, server.host, n) for n in range(2)]:
                lost.result()
        server.expect_kill()
        cut_off = stored_files(server.store)
        for step in ("after_claim", "after_claim", "after_row"):
            server.armed = f"recover.{step}=kill"
            server.start_and_die()
            assert stored_files(server.store) == cut_off
        _assert_recovered(server, user)


def _upload_in_vain(host: str, seed: int) -> None:
    with User(host) as user, pytest.raises(Lost):
        user.upload("base/app", some_bytes(seed, 9_000))


def test_a_repository_whose_deletion_was_cut_off_is_gone_and_gives_everything_back(
    forkserver: ForkServer, stock: Stock, tmp_path: Path
) -> None:
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        armed = "repository.delete.after_mark=kill"
        assert server.drive("delete-repository", "base/app", armed=armed) == -signal.SIGKILL
        user.forget_repository("base/app")
        _assert_recovered(server, user)


def test_a_repository_deletion_that_was_not_committed_did_not_happen(
    forkserver: ForkServer, stock: Stock, tmp_path: Path
) -> None:
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        armed = "delete.in_transaction=kill"
        assert server.drive("delete-repository", "base/app", armed=armed) == -signal.SIGKILL
        _assert_recovered(server, user)


def test_a_repository_that_is_erased_in_pieces_survives_a_kill_between_them(
    forkserver: ForkServer, stock: Stock, tmp_path: Path
) -> None:
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        server.arguments = ("--read-grace", "0s")
        assert server.drive("delete-repository", "base/app") == 0
        user.forget_repository("base/app")
        server.armed = "repository.erase.after_batch=kill"
        server.start()
        with suppress(Lost):
            user.connect(server.host)
            nudge(user)
        server.expect_kill()
        _assert_recovered(server, user)


# A purge of one repository is planned, drops tags, drops manifests.
@pytest.mark.parametrize(
    "armed",
    [
        *(f"job.in_transaction=kill@{hit}" for hit in (1, 2)),
        *(f"job.after_batch=kill@{hit}" for hit in (1, 2, 3)),
    ],
)
def test_a_purge_that_is_killed_goes_on_after_the_next_start(
    forkserver: ForkServer, stock: Stock, tmp_path: Path, armed: str
) -> None:
    """acr-cli#457: six hours of work and nothing to show for it. A job forgets nothing."""
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        server.arguments, server.armed = ("--read-grace", "0s"), armed
        server.start()
        user.connect(server.host)
        with suppress(Lost):
            user.purge("base/app")
        server.expect_kill()
        server.start()
        user.connect(server.host)
        wait_until(lambda: user.jobs() == ["done"], lambda: f"{user.jobs()}\n{server.log}")
        user.forget_repository("base/app")
        _assert_recovered(server, user)


@pytest.mark.parametrize(
    "armed",
    ["delete.in_transaction", "delete.after_row", "restore.in_transaction", "restore.after_batch"],
)
def test_an_undo_that_is_killed_is_done_again(
    forkserver: ForkServer, stock: Stock, tmp_path: Path, armed: str
) -> None:
    """A deletion is all kept or did not happen; what a restore has not brought back still waits."""
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        server.arguments, server.armed = ("--read-grace", "0s"), f"{armed}=kill"
        server.start()
        user.connect(server.host)
        user.keep_what_is_deleted()
        index = f"/v2/base/multi/manifests/{contents.MULTI.digest}"
        with suppress(Lost):
            # The journal does not know of it, so everything has to be there in the end.
            user.client.expect(202, "DELETE", index)
            user.restore_everything()
        server.expect_kill()
        server.start()
        user.connect(server.host)
        user.restore_everything()
        _assert_recovered(server, user)


def test_freeing_what_was_deleted_goes_on_after_a_kill(
    forkserver: ForkServer, stock: Stock, tmp_path: Path
) -> None:
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        server.arguments = ("--read-grace", "0s")
        server.armed = "deleted.after_row=kill"
        server.start()
        user.connect(server.host)
        user.keep_what_is_deleted()
        delete_index(user)
        with suppress(Lost):
            user.client.expect(202, "DELETE", "/api/v1/deleted")
        server.expect_kill()
        _assert_recovered(server, user)


def test_unknown_bytes_survive_a_kill_before_they_are_buried_and_go_the_next_time(
    forkserver: ForkServer, stock: Stock, tmp_path: Path
) -> None:
    """damage.md section 2: nothing of ours leaves any, but for a defect."""
    journal = stock.copy(tmp_path / "data")
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        uploads = tmp_path / "data" / "uploads"
        before = set(uploads.iterdir())
        assert server.drive("leave-unknown") == 0
        (unknown,) = set(uploads.iterdir()) - before
        two_days_ago = time.time() - 2 * 86400
        os.utime(unknown, (two_days_ago, two_days_ago))
        armed = "reconcile.before_tombstone=kill"
        assert server.drive("reconcile", armed=armed) == -signal.SIGKILL
        assert unknown.exists()
        assert server.drive("reconcile") == 0
        _assert_recovered(server, user)
        assert not unknown.exists()


def ask_for(user: User, data: bytes) -> None:
    """HEAD: answered 200, the client need not upload it."""
    user.client.expect(200, "HEAD", f"/v2/base/app/blobs/{digest_of(data)}")


def upload_again(user: User, data: bytes) -> None:
    user.upload("base/app", data)


def mount_again(user: User, data: bytes) -> None:
    user.mount("base/app", "base/app", data)


@pytest.mark.parametrize("promise", [ask_for, upload_again, mount_again])
def test_a_promise_to_a_pusher_outlives_a_kill(
    forkserver: ForkServer,
    stock: Stock,
    tmp_path: Path,
    promise: Callable[[User, bytes], None],
) -> None:
    """I25: leases are forgotten in a crash, so that everything counts as leased for a while."""
    journal, data = stock.copy(tmp_path / "data"), contents.TWO.blobs[-1]
    with CrashServer(forkserver, tmp_path / "data") as server, User("", journal) as user:
        server.arguments = ("--read-grace", "0s")
        server.start()
        user.connect(server.host)
        promise(user, data)
        server.kill9()
        server.start()
        user.connect(server.host)
        # The last image that needs the blob goes, and the worker has every chance to erase it.
        user.delete_image("base/app", contents.TWO.digest)
        nudge(user)
        assert_accounted(server)
        user.upload("base/app", b"{}")
        user.put("base/app", make_image(data, config=b"{}"))
        user.verify()
        _assert_recovered(server, user)


def test_a_kill_after_giving_up_the_ballast_costs_nothing_but_the_ballast(
    forkserver: ForkServer, stock: Stock, tmp_path: Path
) -> None:
    """It is given up where a deletion finds the disk full; the next start puts it back."""
    with tmpfs(tmp_path / "disk", "size=16m") as disk:
        journal, log = stock.copy(disk / "data"), tmp_path / "server.log"
        with CrashServer(forkserver, disk / "data", log=log) as server, User("", journal) as user:
            server.armed = "ballast.after_release=kill"
            server.start()
            user.connect(server.host)
            filler = fill(disk)
            with pytest.raises(Lost):
                user.delete_tag("base/app", "latest")
            server.expect_kill()
            assert not (disk / "data" / "ballast").exists()
            filler.unlink()
            _assert_recovered(server, user)
            assert (disk / "data" / "ballast").stat().st_size == BALLAST
