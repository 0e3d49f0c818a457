"""A full disk refuses uploads, still serves and deletes, and needs no restart (F15-F17).

The disk is a small tmpfs, filled by uploads or from outside to its last byte.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash.harness import (
    SHORT_LEASE,
    Answer,
    CrashServer,
    ForkServer,
    Image,
    Refused,
    User,
    assert_accounted,
    assert_no_leak,
    let_pass,
    make_image,
    nudge,
    session_bytes,
    some_bytes,
    stored_files,
    wait_until,
)
from tests.crash.mounts import fill, tmpfs
from tests.support.server import run_ullage

MIB = 1024 * 1024
DISK = 48 * MIB
LAYER = 3 * MIB
# The defaults of the settings.
MIN_FREE = 8 * MIB
BALLAST = 4 * MIB
REPOSITORY = "full/app"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", f"size={DISK}") as folder:
        yield folder


@pytest.fixture
def server(forkserver: ForkServer, disk: Path, tmp_path: Path) -> Iterator[CrashServer]:
    """On the small disk, with erasing at once; any 500 fails the test."""
    arguments, log = ("--read-grace", "0s"), tmp_path / "server.log"
    with CrashServer(forkserver, disk / "data", *arguments, log=log) as server:
        server.start()
        yield server
        server.assert_no_500()


@pytest.fixture
def user(server: CrashServer) -> Iterator[User]:
    with User(server.host) as user:
        yield user


def push_until_refused(user: User, size: int) -> tuple[list[Image], Answer]:
    """Push images of one layer of this size; those that went through, and the refusal."""
    images: list[Image] = []
    while True:
        image = make_image(some_bytes(f"layer {len(images)}", size), config=b"{}")
        try:
            user.push(REPOSITORY, image, f"v{len(images)}", "put")
        except Refused as refused:
            return images, refused.answer
        images.append(image)


def assert_storage_full(answer: Answer) -> None:
    """The answer that says so, in the protocol's words (distribution-spec, "Error Codes")."""
    assert (answer.status, answer.error_code) == (507, "STORAGE_FULL"), answer
    # Nobody knows when there is room again.
    assert "retry-after" not in answer.headers


def free_bytes(disk: Path) -> int:
    room = os.statvfs(disk)
    return room.f_bavail * room.f_frsize


def assert_no_leak_after_a_restart(server: CrashServer, user: User) -> None:
    """In the end, when every promise has run out, the sums are right."""
    assert server.terminate() == 0
    let_pass(server.database, hours=25)
    server.arguments = (*SHORT_LEASE, "--min-free", "0B")
    server.start()
    user.connect(server.host)
    user.verify()
    assert_no_leak(server)
    server.check("--deep")


def test_uploads_are_refused_while_pulls_and_deletes_go_on_and_make_room_for_uploads(
    disk: Path, server: CrashServer, user: User
) -> None:
    images, refusal = push_until_refused(user, LAYER)
    assert_storage_full(refusal)
    # Refused while there is still room for what is not a blob, and not long before.
    assert MIN_FREE - LAYER < free_bytes(disk) < MIN_FREE + LAYER
    user.verify()
    before = free_bytes(disk)
    for image in images[:2]:
        user.delete_image(REPOSITORY, image.digest)
    wait_until(lambda: free_bytes(disk) > before + 2 * LAYER - MIB, lambda: server.log)
    user.push(REPOSITORY, make_image(some_bytes("later", LAYER)), "later", "chunks")
    user.verify()
    assert_no_leak_after_a_restart(server, user)


def test_deletes_get_through_when_not_a_byte_is_left_for_the_database(
    disk: Path, server: CrashServer, user: User
) -> None:
    """F16: the ballast is given up for them, and put back when there is room again."""
    for n in range(3):
        image = make_image(some_bytes(n, LAYER), config=b"{}")
        user.push(REPOSITORY, image, f"v{n}")
    first, second, third = (digest for _, digest in user.journal.live())
    filler = fill(disk)
    _assert_only_reading_works(server, user, third)
    for digest in (first, second):
        user.delete_image(REPOSITORY, digest)
    user.delete_tag(REPOSITORY, "v2")
    wait_until(lambda: free_bytes(disk) > 2 * LAYER - MIB, lambda: server.log)
    user.verify()
    filler.unlink()
    user.push(REPOSITORY, make_image(some_bytes("later", LAYER)), "later")
    nudge(user)
    wait_until(lambda: _ballast(disk) == BALLAST, lambda: f"ballast: {_ballast(disk)}")
    user.verify()
    assert_no_leak_after_a_restart(server, user)


def test_a_disk_that_is_full_beyond_the_ballast_is_said_so_and_recovers(
    disk: Path, server: CrashServer, user: User
) -> None:
    """Another program has taken even that room: nothing can be written, nothing breaks."""
    images = [make_image(some_bytes(n, LAYER), config=b"{}") for n in range(2)]
    for image in images:
        user.push(REPOSITORY, image)
    (disk / "data" / "ballast").unlink()
    filler = fill(disk)
    _assert_only_reading_works(server, user, images[0].digest)
    for tag in ("v1", "v2"):
        with pytest.raises(Refused) as refused:
            user.put(REPOSITORY, images[0], tag)
        assert_storage_full(refused.value.answer)
    with pytest.raises(Refused) as refused:
        user.delete_image(REPOSITORY, images[0].digest)
    assert_storage_full(refused.value.answer)
    user.verify()
    filler.unlink()
    user.delete_image(REPOSITORY, images[0].digest)
    user.push(REPOSITORY, make_image(some_bytes("later", LAYER)), "later")
    user.verify()
    assert_no_leak_after_a_restart(server, user)


def test_a_full_disk_can_be_started_on_and_deleted_from_after_a_crash(
    disk: Path, server: CrashServer, user: User
) -> None:
    """damage.md section 5: the ballast is given up before the database is opened."""
    images = [make_image(some_bytes(n, LAYER), config=b"{}") for n in range(3)]
    for n, image in enumerate(images):
        user.push(REPOSITORY, image, f"v{n}")
    server.kill9()
    filler = fill(disk)
    # What it promised before the crash it has forgotten: otherwise the bytes stay for an hour.
    server.arguments = (*server.arguments, *SHORT_LEASE)
    server.start()
    user.connect(server.host)
    user.verify()
    before = free_bytes(disk)
    for image in images[:2]:
        user.delete_image(REPOSITORY, image.digest)
    wait_until(lambda: free_bytes(disk) > before + 2 * LAYER - MIB, lambda: server.log)
    user.verify()
    filler.unlink()
    user.push(REPOSITORY, make_image(some_bytes("later", LAYER)), "later")
    user.verify()
    assert_no_leak_after_a_restart(server, user)


def test_a_disk_that_is_full_beyond_the_ballast_is_said_so_in_one_line(
    disk: Path, server: CrashServer, user: User
) -> None:
    user.push(REPOSITORY, make_image(some_bytes("one", LAYER), config=b"{}"))
    server.kill9()
    (disk / "data" / "ballast").unlink()
    filler = fill(disk)
    done = run_ullage("serve", "--data", server.data, "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ERROR: the disk with {server.data / 'ullage.db'} is full")
    assert "free a few MiB on it and start again" in line
    filler.unlink()
    server.start()
    user.connect(server.host)
    user.verify()


def _assert_only_reading_works(server: CrashServer, user: User, digest: str) -> None:
    with pytest.raises(Refused) as refused:
        user.upload(REPOSITORY, b"more", "put")
    assert_storage_full(refused.value.answer)
    user.pull(REPOSITORY, digest)
    user.client.expect(200, "GET", f"/v2/{REPOSITORY}/manifests/{digest}")
    user.client.expect(200, "GET", "/v2/_catalog")


def _ballast(disk: Path) -> int:
    path = disk / "data" / "ballast"
    return path.stat().st_size if path.exists() else 0


def test_a_disk_without_free_inodes_is_a_full_disk(forkserver: ForkServer, tmp_path: Path) -> None:
    """F17: every blob takes a file; the store itself some 260 directories."""
    arguments, log = ("--read-grace", "0s"), tmp_path / "server.log"
    with (
        tmpfs(tmp_path / "disk", "size=64m,nr_inodes=316") as disk,
        CrashServer(forkserver, disk / "data", *arguments, log=log) as server,
    ):
        server.start()
        with User(server.host) as user:
            images, refusal = push_until_refused(user, 1_000)
            assert_storage_full(refusal)
            assert len(images) > 5
            user.verify()
            for image in images[:3]:
                user.delete_image(REPOSITORY, image.digest)
            assert_accounted(server)
            user.push(REPOSITORY, make_image(some_bytes("later", 1_000)), "later")
            user.verify()
            assert_no_leak_after_a_restart(server, user)
        server.assert_no_500()


def test_uploads_that_race_into_a_full_disk_end_cleanly_and_leave_their_room(
    forkserver: ForkServer, disk: Path, tmp_path: Path
) -> None:
    """F15, with nothing kept free: some fit, the others are refused in the middle of a body."""
    arguments = ("--read-grace", "0s", "--min-free", "0B")
    log = tmp_path / "server.log"
    with CrashServer(forkserver, disk / "data", *arguments, log=log) as server:
        server.start()
        users = [User(server.host) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(_upload_12_mib, range(8), users))
        assert 1 <= answers.count(None) <= 3
        for number, (user, answer) in enumerate(zip(users, answers, strict=True)):
            if answer is None:
                user.delete_blob(f"race/{number}", some_bytes(number, 12 * MIB))
            else:
                assert_storage_full(answer)
            _give_up_sessions(user)
            user.client.close()
        assert_accounted(server)
        assert stored_files(server.store) == {}
        with User(server.host) as user:
            user.push(REPOSITORY, make_image(some_bytes("later", LAYER)), "later", "chunks")
            assert_no_leak_after_a_restart(server, user)
        server.assert_no_500()


def _upload_12_mib(number: int, user: User) -> Answer | None:
    """None if it fitted, else the refusal."""
    how = ("single", "put", "chunks")[number % 3]
    try:
        user.upload(f"race/{number}", some_bytes(number, 12 * MIB), how)
    except Refused as refused:
        return refused.answer
    return None


def _give_up_sessions(user: User) -> None:
    """A session that survived says what it has, and can be cancelled."""
    for location, session in list(user.journal.sessions.items()):
        answer = user.client.expect(204, "GET", location)
        assert session_bytes(answer) == session.sent
        user.cancel(location)
