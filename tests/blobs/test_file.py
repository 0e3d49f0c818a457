from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.blobs.contract import (
    OPERATIONS,
    LocalStoreContract,
    commit,
    content,
    create,
    fresh_key,
    in_threads,
    listed,
    opened,
    put,
    resume,
    upload,
)
from tests.support.disks import small_disk
from ullage.blobs.files import store as driver
from ullage.blobs.files.store import FileBlobStore
from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import (
    SHARD_COUNT,
    BlobStore,
    KeyUnknown,
    NotDeleted,
    StoreFull,
    StoreUnusable,
)

COMMITTING = {**OPERATIONS, "commit": commit}

KEY = "abcd" + "0" * 28
SIBLING = "abcd" + "1" * 28
COUSIN = "abef" + "0" * 28


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> BlobStore:
    return open_blob_store(f"file:{root}")


class TestFileBlobStore(LocalStoreContract):
    @pytest.fixture
    def small_store(self, tmp_path: Path) -> Iterator[BlobStore]:
        with small_disk(tmp_path, "size=3m"):
            yield FileBlobStore(tmp_path / "store")


SHARDS = {f"blobs/{n:02x}" for n in range(256)}


def tree(root: Path) -> set[str]:
    """Everything below `root` but the shard directories, which are always there."""
    return {str(path.relative_to(root)) for path in root.rglob("*")} - SHARDS


def name_of(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- layout and modes ---


def test_objects_lie_where_the_documentation_says(store: BlobStore, root: Path) -> None:
    upload(store, b"bytes", KEY)
    assert tree(root) == {"uploads", "blobs", f"uploads/{KEY}"}
    commit(store, KEY)
    assert tree(root) == {"uploads", "blobs", f"blobs/ab/{KEY}"}
    assert {f"blobs/{path.name}" for path in (root / "blobs").iterdir()} == SHARDS


def test_no_other_user_may_read_whatever_the_umask_says(tmp_path: Path) -> None:
    """reliability.md S59, I30."""
    before = os.umask(0)
    try:
        store = FileBlobStore(tmp_path / "new" / "store")
        put(store)
        upload(store)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600}
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()}
    assert modes == {0o700}
    assert [each.problem for each in store.list()] == [None, None]


def test_a_reopened_store_has_everything(store: BlobStore, root: Path) -> None:
    committed, appendable = put(store), upload(store)
    reopened = FileBlobStore(root)
    assert content(reopened, committed) == b"bytes"
    with resume(reopened, appendable, 5) as append:
        append.write(b" and more")
    assert commit(reopened, appendable) == 14


def test_deleting_leaves_nothing_behind(store: BlobStore, root: Path) -> None:
    """reliability.md I15: what `du` says returns to where it was."""
    for key in (KEY, SIBLING, COUSIN):
        put(store, b"bytes", key)
    store.delete([KEY])
    assert tree(root) == {"uploads", "blobs", f"blobs/ab/{SIBLING}", f"blobs/ab/{COUSIN}"}
    store.delete([SIBLING, COUSIN])
    assert tree(root) == {"uploads", "blobs"}


def test_an_object_with_two_names_is_removed_whole(store: BlobStore, root: Path) -> None:
    """A file system that forgets half of a rename brings the name in uploads/ back."""
    put(store, b"bytes", KEY)
    (root / "uploads" / KEY).hardlink_to(root / "blobs" / "ab" / KEY)
    store.delete([KEY])
    assert tree(root) == {"uploads", "blobs"}


# --- opening ---


def refused(root: Path) -> str:
    before = open_descriptors()
    with pytest.raises(StoreUnusable) as unusable:
        FileBlobStore(root)
    assert open_descriptors() == before
    return str(unusable.value)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(tmp_path / "file")
    assert "Not a directory" in refused(tmp_path / "file" / "below")


@pytest.mark.parametrize("name", ["uploads", "blobs"])
def test_a_store_whose_directories_are_links_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "store"
    root.mkdir()
    (root / name).symlink_to(tmp_path / "elsewhere")
    assert name in refused(root)
    assert tree(tmp_path / "elsewhere") == set()


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large disk")
    key = put(FileBlobStore(tmp_path / "link"))
    assert (tmp_path / "large disk" / "blobs" / key[:2] / key).is_file()


def test_what_was_just_written_is_read_without_waiting(store: BlobStore) -> None:
    """It is in the page cache; what was thrown out of it comes from the disk, by a thread."""
    data = os.urandom(3 * 4096 + 17)
    with opened(store, put(store, data)) as reader:
        assert reader.read_now(1, 99_999) == data[1:]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", [".", "uploads", "blobs"])
def test_a_store_without_write_permission_is_refused(root: Path, name: str) -> None:
    FileBlobStore(root)
    if name == ".":
        (root / "uploads").rmdir()
    (root / name).chmod(0o500)
    try:
        assert "writable" in refused(root) or "Permission denied" in refused(root)
    finally:
        (root / name).chmod(0o700)


def test_a_read_only_file_system_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=1m"):
        put(FileBlobStore(tmp_path))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        assert "uploads/ is not writable" in refused(tmp_path)
        assert "Read-only file system" in refused(tmp_path / "new")


def test_a_store_across_two_file_systems_is_refused(root: Path) -> None:
    FileBlobStore(root)
    with small_disk(root / "blobs", "size=1m"):
        assert "must lie on one file system" in refused(root)


def test_a_full_disk_does_not_keep_a_store_from_opening(tmp_path: Path) -> None:
    """reliability.md F16: a full disk can still delete, also after a restart."""
    with small_disk(tmp_path, "size=1m"):
        store = FileBlobStore(tmp_path)
        key = upload(store, b"")
        with resume(store, key, 0) as append, pytest.raises(StoreFull):
            append.write(bytes(2**21))
        reopened = FileBlobStore(tmp_path)
        assert reopened.free_bytes() == 0
        reopened.delete([key])
        assert reopened.free_bytes() == 2**20


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = open_descriptors()
    store = FileBlobStore(tmp_path)
    keys = [put(store), upload(store)]
    for operation in OPERATIONS.values():
        for key in (*keys, fresh_key()):
            try:
                result = operation(store, key)
            except (OSError, KeyUnknown):
                continue
            if hasattr(result, "close"):
                result.close()
    put(store)
    listing = store.list()
    next(listing)
    del listing, store
    assert open_descriptors() == before


# --- symbolic links and other planted things ---


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "secret").write_bytes(b"secret")
    return victim


def untouched(victim: Path) -> bool:
    return tree(victim) == {"secret"} and (victim / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("place", ["uploads/{}", "blobs/ab/{}"])
@pytest.mark.parametrize("operation", ["resume", "commit", "open", "size"])
def test_a_link_in_the_place_of_an_object_is_not_followed(
    store: BlobStore, root: Path, victim: Path, operation: str, place: str
) -> None:
    """reliability.md S64."""
    link = root / place.format(KEY)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim / "secret")
    with pytest.raises((OSError, KeyUnknown)):
        COMMITTING[operation](store, KEY)
    assert link.is_symlink()
    assert untouched(victim)


@pytest.mark.parametrize("place", ["uploads/{}", "blobs/ab/{}"])
def test_deleting_a_link_removes_the_link(
    store: BlobStore, root: Path, victim: Path, place: str
) -> None:
    link = root / place.format(KEY)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(victim / "secret")
    store.delete([KEY])
    assert tree(root) == {"uploads", "blobs"}
    assert untouched(victim)


@pytest.mark.parametrize("place", ["blobs/ab"])
@pytest.mark.parametrize("operation", sorted(COMMITTING.keys() - {"begin", "link"}))
def test_a_link_in_the_place_of_a_shard_is_not_followed(
    store: BlobStore, root: Path, victim: Path, operation: str, place: str
) -> None:
    (victim / KEY).write_bytes(b"not ours")
    (root / place).rmdir()
    (root / place).symlink_to(victim)
    if operation == "commit":
        upload(FileBlobStore(root.parent / "other"), b"bytes", KEY)
        (root.parent / "other" / "uploads" / KEY).rename(root / "uploads" / KEY)
    with pytest.raises((NotADirectoryError, NotDeleted, KeyUnknown)):
        COMMITTING[operation](store, KEY)
    assert (victim / KEY).read_bytes() == b"not ours"
    assert (root / place).is_symlink()
    if operation == "commit":
        assert (root / "uploads" / KEY).exists()


@pytest.mark.parametrize(
    ("operation", "place"),
    [("resume", "uploads"), ("commit", "uploads"), ("size", "uploads"), ("open", "blobs/ab")],
)
def test_a_fifo_in_the_place_of_an_object_does_not_hang(
    store: BlobStore, root: Path, operation: str, place: str
) -> None:
    os.mkfifo(root / place / KEY)
    with pytest.raises(OSError, match="not a regular file") as error:
        COMMITTING[operation](store, KEY)
    assert error.value.errno == errno.EIO


# --- listing oddities ---


def foreign_file(root: Path) -> str:
    (root / "uploads" / "notes.txt").write_text("mine")
    return "uploads/notes.txt"


def foreign_file_among_shards(root: Path) -> str:
    (root / "blobs" / ".DS_Store").touch()
    return "blobs/.DS_Store"


def foreign_directory(root: Path) -> str:
    (root / "blobs" / "XY" / "deep").mkdir(parents=True)
    return "blobs/XY"


def directory_in_place_of_an_object(root: Path) -> str:
    (root / "uploads" / KEY).mkdir()
    return KEY


def object_above_its_shard(root: Path) -> str:
    (root / "blobs" / KEY).touch(0o600)
    return f"blobs/{KEY}"


def object_in_another_shard(root: Path) -> str:
    (root / "blobs" / "ac" / KEY).touch(0o600)
    return f"blobs/ac/{KEY}"


def name_that_is_no_text(root: Path) -> str:
    os.close(os.open(os.fsencode(root / "uploads") + b"/caf\xe9", os.O_CREAT, 0o600))
    return "uploads/caf\\xe9"


def link_to_an_object(root: Path) -> str:
    (root / "uploads" / KEY).symlink_to(root / "blobs" / "ab" / COUSIN)
    return KEY


def dangling_link(root: Path) -> str:
    (root / "uploads" / KEY).symlink_to("nowhere")
    return KEY


def link_to_a_shard(root: Path) -> str:
    (root / "blobs" / "cc").rmdir()
    (root / "blobs" / "cc").symlink_to(root / "blobs" / "ab")
    return "blobs/cc"


def world_writable_object(root: Path) -> str:
    (root / "blobs" / "ab" / COUSIN).chmod(0o666)
    return COUSIN


def readable_object(root: Path) -> str:
    (root / "blobs" / "ab" / COUSIN).chmod(0o644)
    return COUSIN


def world_writable_shard(root: Path) -> str:
    (root / "blobs" / "ab").chmod(0o777)
    return "blobs/ab"


def world_writable_uploads(root: Path) -> str:
    (root / "uploads").chmod(0o777)
    return "uploads"


def world_writable_root(root: Path) -> str:
    root.chmod(0o777)
    return "."


def socket_in_place_of_an_object(root: Path) -> str:
    os.mknod(root / "uploads" / KEY, stat.S_IFSOCK | 0o600)
    return KEY


def object_of_another_user(root: Path) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(root / "blobs" / "ab" / COUSIN, 12345, -1)
    return COUSIN


ODDITIES: list[tuple[Callable[[Path], str], str]] = [
    (foreign_file, "not a storage key; mode 0644, expected 0600"),
    (foreign_file_among_shards, "not a shard directory; mode 0644, expected 0600"),
    (foreign_directory, "not a shard directory; not a regular file"),
    (directory_in_place_of_an_object, "not a regular file"),
    (object_above_its_shard, "not a shard directory"),
    (object_in_another_shard, "in the wrong shard"),
    (name_that_is_no_text, "not a storage key"),
    (link_to_an_object, "symbolic link"),
    (dangling_link, "symbolic link"),
    (link_to_a_shard, "not a shard directory; symbolic link"),
    (world_writable_object, "mode 0666, expected 0600"),
    (readable_object, "mode 0644, expected 0600"),
    (world_writable_shard, "mode 0777, expected 0700"),
    (world_writable_uploads, "mode 0777, expected 0700"),
    (world_writable_root, "any user can replace the store"),
    (socket_in_place_of_an_object, "not a regular file"),
    (object_of_another_user, "owned by user 12345, expected {uid}"),
]


@pytest.mark.parametrize(("plant", "problem"), ODDITIES, ids=lambda p: getattr(p, "__name__", ""))
def test_a_listing_reports_what_does_not_belong(
    store: BlobStore, root: Path, plant: Callable[[Path], str], problem: str
) -> None:
    """reliability.md I30; a listing reports and goes on, whatever it meets."""
    put(store, b"bytes", COUSIN)
    before = os.umask(0o022)
    try:
        key = plant(root)
    finally:
        os.umask(before)
    found = listed(store)
    assert {each.key: each.problem for each in found.values() if each.problem} == {
        key: problem.format(uid=os.geteuid())
    }
    assert found[COUSIN].size == 5
    in_shards = [each for shard in range(SHARD_COUNT) for each in store.list(shard)]
    assert sorted(in_shards, key=str) == sorted(found.values(), key=str)


def test_what_lies_beside_the_store_is_not_listed(store: BlobStore, root: Path) -> None:
    (root / "lost+found").mkdir()
    (root / "ballast").touch()
    assert listed(store) == {}


@pytest.mark.parametrize("name", ["uploads", "blobs"])
def test_a_store_that_lost_a_directory_is_not_taken_for_an_empty_one(
    store: BlobStore, root: Path, name: str
) -> None:
    """deletion.md section 3.4: fail closed."""
    shutil.rmtree(root / name)
    with pytest.raises(FileNotFoundError):
        list(store.list())
    with pytest.raises(FileNotFoundError):
        list(store.list(7))


def test_a_shard_of_a_listing_reads_its_own_directory_only(store: BlobStore, root: Path) -> None:
    put(store, b"bytes", COUSIN)
    for name in range(SHARD_COUNT):
        if f"{name:02x}" != COUSIN[:2]:
            (root / "blobs" / f"{name:02x}").chmod(0o777)
    assert [each.key for each in store.list(int(COUSIN[:2], 16))] == [COUSIN]


@pytest.mark.parametrize("make", [upload, put])
def test_a_listing_passes_over_what_vanishes_under_it(
    store: BlobStore, make: Callable[[BlobStore], str]
) -> None:
    """The names were read from the directory before; files and whole shards are gone since."""
    keys = {make(store) for _ in range(20)}
    listing = store.list()
    store.delete(keys - {next(listing).key})
    assert list(listing) == []


def test_a_listing_reads_as_it_goes(
    store: BlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(16):
        put(store, key=f"{first:02x}" + secrets.token_hex(15))
    opened: list[object] = []
    real = os.scandir

    def scandir(place: int) -> os._ScandirIterator[str]:
        opened.append(place)
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = store.list()
    next(listing)
    assert len(opened) < 2 + 256
    assert len(list(listing)) == 15
    assert len(opened) == 2 + 256


# --- durability: what is done, in which order ---


@pytest.fixture
def steps(root: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the driver asks of the disk from here on, failpoints included, in order."""
    steps: list[str] = []

    def place(descriptor: int) -> str:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(f"{root}/")

    real_fsync, real_rename, real_unlink, real_rmdir = os.fsync, os.rename, os.unlink, os.rmdir

    def fsync(descriptor: int) -> None:
        steps.append(f"fsync {place(descriptor)}")
        real_fsync(descriptor)

    def rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        real_rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        steps.append(f"rename {place(src_dir_fd)} -> {place(dst_dir_fd)}")

    def unlink(name: str, *, dir_fd: int) -> None:
        real_unlink(name, dir_fd=dir_fd)
        steps.append(f"unlink {place(dir_fd)}/{name}")

    def rmdir(name: str, *, dir_fd: int) -> None:
        real_rmdir(name, dir_fd=dir_fd)
        steps.append(f"rmdir {place(dir_fd)}/{name}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "rmdir", rmdir)
    monkeypatch.setattr(driver, "failpoint", lambda name: steps.append(f"({name})"))
    return steps


def test_syncing_an_append_makes_bytes_and_name_durable(store: BlobStore, steps: list[str]) -> None:
    upload(store, b"bytes", KEY)
    assert steps == [
        "(blob.create.after_file)",
        "(blob.append.after_write)",
        f"fsync uploads/{KEY}",
        "fsync uploads",
        "(blob.append.after_fsync)",
    ]


def test_a_commit_syncs_bytes_before_the_name_and_then_the_name(
    store: BlobStore, steps: list[str]
) -> None:
    """deletion.md section 3, UPLOAD; reliability.md F7."""
    upload(store, b"bytes", KEY)
    steps.clear()
    commit(store, KEY)
    assert steps == [
        f"fsync uploads/{KEY}",
        "(blob.commit.after_fsync)",
        "rename uploads -> blobs/ab",
        "(blob.commit.after_rename)",
        "fsync blobs/ab",
        "(blob.commit.after_dirsync)",
    ]


def test_a_repeated_commit_syncs_what_a_killed_one_may_not_have(
    store: BlobStore, steps: list[str]
) -> None:
    put(store, b"bytes", KEY)
    steps.clear()
    assert commit(store, KEY) == 5
    assert steps == ["fsync blobs/ab"]


def test_a_delete_syncs_each_directory_once(store: BlobStore, steps: list[str]) -> None:
    """deletion.md R7: an object must not return after its tombstone is dropped."""
    keys = ["abcd" + secrets.token_hex(14) for _ in range(4)]
    for key in keys:
        put(store, b"bytes", key)
    upload(store, b"bytes", COUSIN)
    steps.clear()
    store.delete([*keys[:3], COUSIN])
    removed = {f"unlink blobs/ab/{key}" for key in keys[:3]} | {f"unlink uploads/{COUSIN}"}
    assert {step for step in steps if step.startswith("unlink")} == removed
    assert steps.count("(blob.delete.after_unlink)") == 4
    assert sorted(steps[8:]) == [
        "(blob.delete.after_dirsync)",
        "fsync blobs/ab",
        "fsync uploads",
    ]
    assert steps[-1] == "(blob.delete.after_dirsync)"


def test_a_repeated_delete_syncs_what_a_killed_one_may_not_have(
    store: BlobStore, steps: list[str]
) -> None:
    put(store, b"bytes", SIBLING)
    steps.clear()
    store.delete([KEY])
    assert [step for step in steps if step.startswith("fsync")] == [
        "fsync blobs/ab",
        "fsync uploads",
    ]


# --- faults ---


class FailingFsync:
    """os.fsync that fails for files whose path contains `part`, `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, part: str, error: int, times: int) -> None:
        self.part, self.error, self.left, self.calls = part, error, times, 0
        self.real = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor: int) -> None:
        if self.part in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            self.calls += 1
            if self.left:
                self.left -= 1
                raise OSError(self.error, os.strerror(self.error))
        self.real(descriptor)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failed_fsync_is_never_tried_again(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """reliability.md F18: once, then fine; the second success would be a lie."""
    key = upload(store)
    append = resume(store, key, 5)
    append.write(b" that may be lost")
    fsync = FailingFsync(monkeypatch, key, number, times=1)
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        append.sync()
    assert isinstance(error.value, StoreFull) is (number != errno.EIO)
    for again in (append.sync, lambda: resume(store, key, 5), lambda: commit(store, key)):
        with pytest.raises(OSError, match="an earlier fsync of this object failed"):
            again()
    append.close()
    with pytest.raises(OSError, match="an earlier fsync of this object failed"):
        commit(store, key)
    assert fsync.calls == 1
    store.delete([key])
    assert store.size(key) is None
    with pytest.raises(KeyUnknown):
        commit(store, key)


@pytest.mark.parametrize("part", ["uploads/", "blobs/ab"])
def test_a_commit_that_cannot_be_made_durable_stays_failed(
    store: BlobStore, root: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    upload(store, b"bytes", KEY)
    with monkeypatch.context() as fault:
        FailingFsync(fault, part, errno.EIO, times=1)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            commit(store, KEY)
        with pytest.raises(OSError, match="an earlier fsync of this object failed"):
            commit(store, KEY)
    store.delete([KEY])
    assert tree(root) == {"uploads", "blobs"}
    assert content(store, put(store, b"others go on")) == b"others go on"


@pytest.mark.parametrize("part", ["uploads", "blobs"])
def test_a_delete_that_is_not_durable_says_so(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    key = put(store)
    with monkeypatch.context() as fault:
        FailingFsync(fault, part, errno.EIO, times=1)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            store.delete([key])
    store.delete([key])


def test_a_shard_that_cannot_be_synced_fails_its_keys_alone(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """deletion.md section 3: a key counts as erased once that is durable."""
    key, other = put(store), put(store)
    with monkeypatch.context() as fault:
        FailingFsync(fault, "blobs", errno.EIO, times=1)
        with pytest.raises(NotDeleted) as caught:
            store.delete([key, other])
    assert caught.value.failures.keys() == {min(key, other)}


def test_one_stubborn_key_does_not_keep_the_others(store: BlobStore, root: Path) -> None:
    """reliability.md F28: the tombstone of one key is retried, the others are done."""
    others = [put(store) for _ in range(5)] + [upload(store) for _ in range(5)]
    (root / "uploads" / KEY).mkdir()
    with pytest.raises(NotDeleted) as caught:
        store.delete([*others[:5], KEY, *others[5:]])
    assert {key: type(error) for key, error in caught.value.failures.items()} == {
        KEY: IsADirectoryError
    }
    assert [each.key for each in store.list()] == [KEY]


def test_a_planted_shard_link_does_not_keep_the_others(
    store: BlobStore, root: Path, victim: Path
) -> None:
    others = [f"{first:02x}" + secrets.token_hex(15) for first in range(16)]
    for key in others:
        put(store, b"bytes", key)
    (root / "blobs" / "ab").rmdir()
    (root / "blobs" / "ab").symlink_to(victim)
    with pytest.raises(NotDeleted) as caught:
        store.delete([KEY, *others])
    assert caught.value.failures.keys() == {KEY}
    assert tree(root) == {"uploads", "blobs"}
    assert untouched(victim)


def test_a_short_write_is_continued(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = secrets.token_bytes(10_000)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: real(fd, view[:999], offset))
    assert content(store, put(store, data)) == data


def test_a_short_read_is_continued(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = secrets.token_bytes(10_000)
    key = put(store, data)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, offset: real(fd, min(n, 999), offset))
    assert content(store, key) == data
    with opened(store, key) as reader:
        assert reader.read_at(9_500, 5_000) == data[9_500:]


def test_the_callers_bytes_are_written_from_where_they_are(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = secrets.token_bytes(10_000)
    real = os.pwrite
    owners: list[object] = []

    def pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        owners.append(view.obj)
        return real(descriptor, view, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    put(store, data)
    assert len(owners) == 1
    assert owners[0] is data


def test_a_long_upload_goes_to_the_disk_as_it_arrives(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each span once, and while it is new: naming it again would drop it from memory."""
    advised: list[tuple[str, int, int, int]] = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        advised.append((name_of(descriptor), offset, length, advice))

    monkeypatch.setattr(driver, "_WRITE_BACK_EVERY", 1_000)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    key = upload(store, bytes(500))
    with resume(store, key, 500) as append:
        for _ in range(7):
            append.write(bytes(400))
    assert advised == [
        (key, 500, 1_200, os.POSIX_FADV_DONTNEED),
        (key, 1_700, 1_200, os.POSIX_FADV_DONTNEED),
    ]


def test_a_write_that_fails_half_way_tells_how_far_it_came(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        if offset >= 2_000:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(descriptor, view[:1_000], offset)

    key = upload(store, b"")
    data = bytearray(secrets.token_bytes(5_000))
    monkeypatch.setattr(os, "pwrite", pwrite)
    with resume(store, key, 0) as append:
        with pytest.raises(StoreFull):
            append.write(data)
        assert append.offset == 2_000
        append.sync()
    assert commit(store, key) == 2_000
    assert content(store, key) == data[:2_000]


def test_running_out_of_inodes_is_a_full_store(tmp_path: Path) -> None:
    """reliability.md F17; the root, two directories of the store and its shards take 259."""
    with small_disk(tmp_path, "size=1m,nr_inodes=261"):
        store = FileBlobStore(tmp_path)
        key = upload(store)
        other = upload(store)
        with pytest.raises(StoreFull):
            create(store, fresh_key())
        store.delete([other])
        create(store, fresh_key())
        assert commit(store, key) == 5
        assert content(store, key) == b"bytes"


# --- races ---


def test_a_lost_shard_is_an_error_and_no_absent_object(store: BlobStore, root: Path) -> None:
    """deletion.md section 3.4: what cannot be looked at is not known to be missing."""
    upload(store, b"bytes", KEY)
    (root / "blobs" / "ab").rmdir()
    with pytest.raises(FileNotFoundError):
        commit(store, KEY)
    with pytest.raises(FileNotFoundError):
        store.size(SIBLING)
    FileBlobStore(root)
    assert commit(store, KEY) == 5


def test_an_upload_deleted_during_its_commit_is_unknown(
    store: BlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(store, b"bytes", KEY)
    other = FileBlobStore(root)
    real = os.rename

    def rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        other.delete([KEY])
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyUnknown):
        commit(store, KEY)
    assert tree(root) == {"uploads", "blobs"}


def test_commits_and_deletes_in_one_shard_never_lose_an_object(
    store: BlobStore, root: Path
) -> None:
    """Two stores on one directory stand for two processes."""
    stores = [store, FileBlobStore(root)]

    def live(thread: int) -> None:
        mine = stores[thread % 2]
        for _ in range(60):
            key = put(mine, b"bytes", "abcd" + secrets.token_hex(14))
            assert content(mine, key) == b"bytes"
            mine.delete([key])

    in_threads(*[partial(live, thread) for thread in range(8)])
    assert tree(root) == {"uploads", "blobs"}


def test_an_append_taken_after_the_file_was_committed_is_refused(
    store: BlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the open and the lock of a slow worker, another one finishes the upload."""
    upload(store, b"bytes", KEY)
    other = FileBlobStore(root)
    real = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        monkeypatch.undo()
        commit(other, KEY)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(KeyUnknown):
        resume(store, KEY, 0)
    assert content(store, KEY) == b"bytes"


HOLD = """
import sys
from pathlib import Path
from ullage.blobs.files.store import FileBlobStore
append = FileBlobStore(Path(sys.argv[1])).resume(sys.argv[2], 5, "")
append.write(b", and a tail")
print("appending", flush=True)
sys.stdin.read()
"""


def test_an_append_of_another_process_counts_until_that_process_is_dead(
    store: BlobStore, root: Path
) -> None:
    """reliability.md F44: a worker that is stopped for a while must not come back writing."""
    key = upload(store)
    command = [sys.executable, "-c", HOLD, str(root), key]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "appending\n"
        for operation in (lambda: resume(store, key, 5), lambda: commit(store, key)):
            with pytest.raises(OSError, match="still open"):
                operation()
        other.kill()
        other.wait()
    with resume(store, key, 5) as append:
        append.write(b"!")
    assert commit(store, key) == 6
    assert content(store, key) == b"bytes!"


def test_a_stopped_worker_does_not_keep_an_upload_from_being_deleted(
    store: BlobStore, root: Path
) -> None:
    key = upload(store)
    with resume(FileBlobStore(root), key, 5):
        store.delete([key])
        assert tree(root) == {"uploads", "blobs"}


def test_an_open_reader_survives_the_deletion(store: BlobStore) -> None:
    """deletion.md R20: a pull in progress ends well."""
    key = put(store, b"0123456789")
    with opened(store, key) as reader:
        assert reader.read_at(0, 3) == b"012"
        store.delete([key])
        assert reader.read_at(3, 7) == b"3456789"
    with pytest.raises(KeyUnknown):
        store.open(key, 10)
