"""Objects as files below one directory.

    <root>/uploads/<key>     while appendable
    <root>/blobs/ab/<key>    once committed; ab is the first two digits of the key
    <root>/registry-id       the label: which registry these bytes belong to

A commit is: fsync the file, rename it, fsync the directory it is in now. Three things are
deliberate:

- The 256 shard directories are made when the store is opened and stay. So a commit has one
  directory to sync, and no deletion pulls one away from under it.
- `uploads/` is not synced after the rename. A file system journals a rename as one step, so once
  the new name is durable the old one is gone. Should it return all the same, it is a second name of
  the same bytes: listed, and removed along with the object.
- A failed fsync is never tried again on the same file. Linux reports a lost write once and then
  calls the page clean, so a second fsync would succeed and prove nothing. The store remembers
  such a key and refuses to continue it until it is deleted.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from ullage.blobs.files.direct import DirectWriter, DirectWriters, direct_from
from ullage.blobs.files.listing import list_directory
from ullage.blobs.files.paths import (
    FILE_MODE,
    SHARDS,
    close_all,
    directory,
    lock,
    make_directories,
    make_directory,
    open_directory,
    open_regular,
    removed,
    stat_regular,
)
from ullage.blobs.files.reader import FileReader
from ullage.blobs.protocol import (
    Buffer,
    Closing,
    KeyUnknown,
    Leftover,
    NotDeleted,
    StoredObject,
    StoreFull,
    StoreUnusable,
    is_key,
    noted,
    validate_key,
)
from ullage.failpoints import failpoint

# Left alone, the kernel keeps a layer in memory until the commit's fsync, which then waits for all
# of it while this upload's network and hashing stand idle. Measured on ext4 with 256 MiB and sha256
# in between: 640 MiB/s and a final fsync of 130 ms without, 870 MiB/s and 5 ms with.
_WRITE_BACK_EVERY = 8 * 1024 * 1024
LABEL = "registry-id"
_NEW_LABEL = "registry-id.new"
# More than any label has.
_LABEL_BYTES = 4096


class FileBlobStore:
    """A store in the directory `root`, which is made if missing.

    Any number of processes of one host may share it. The root itself may be reached through a
    symbolic link; inside it none is followed. Whatever else lies in the root beside `uploads/`,
    `blobs/` and `registry-id` is not the store's business. Raises StoreUnusable.
    """

    sizes_appends = True

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.realpath(root))
        self._broken: set[str] = set()
        self._direct = DirectWriters()
        self._writing_label = threading.Lock()
        opened: list[int] = []
        self._close = weakref.finalize(self, close_all, opened)
        try:
            make_directories(self._root)
            self._top = open_directory(opened, self._root)
            for name in ("uploads", "blobs"):
                make_directory(name, self._top)
            os.fsync(self._top)
            self._uploads = open_directory(opened, "uploads", self._top)
            self._blobs = open_directory(opened, "blobs", self._top)
            for shard in SHARDS:
                make_directory(shard, self._blobs)
            os.fsync(self._blobs)
        except OSError as error:
            self._close()
            place = error.filename or self._root
            raise StoreUnusable(f"blob store {root}: {place}: {error.strerror}") from error
        try:
            self._refuse_unfit(root)
        except StoreUnusable:
            self._close()
            raise

    def begin(self, key: str) -> FileAppend:
        validate_key(key)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with _full_as_store_full():
            file = FileIO(os.open(key, flags, FILE_MODE, dir_fd=self._uploads), "r+")
        failpoint("blob.create.after_file")
        try:
            lock(file, key)
        except BaseException:
            file.close()
            raise
        return FileAppend(self, key, file, 0)

    def resume(self, key: str, offset: int, state: str) -> FileAppend | CommittedAppend:
        """Only one Append of an object can be open, in any process.

        A worker that was thought dead must not be able to write into bytes that another one has
        hashed since.
        """
        validate_key(key)
        try:
            file = self._take_upload(key)
        except FileNotFoundError:
            status = self._stat_committed(key)
            if status is None or status.st_size != offset:
                raise KeyUnknown(key) from None
            return CommittedAppend(self, key, offset)
        try:
            size = os.fstat(file.fileno()).st_size
            if not 0 <= offset <= size:
                raise OSError(errno.EINVAL, f"the object has no byte {offset}", key)
            if size > offset:
                file.truncate(offset)
            return FileAppend(self, key, file, offset)
        except BaseException:
            file.close()
            raise

    def open(self, key: str, size: int) -> FileReader:
        """Its size is what the file has. It stays readable after the object is deleted."""
        validate_key(key)
        try:
            with directory(key[:2], self._blobs) as shard:
                return FileReader(open_regular(key, shard, "r"))
        except FileNotFoundError:
            raise KeyUnknown(key) from None

    def delete(self, keys: Iterable[str], states: Iterable[str] = ()) -> None:
        doomed = {validate_key(key) for key in keys}
        by_shard: dict[str, list[str]] = {}
        for key in sorted(doomed):
            by_shard.setdefault(key[:2], []).append(key)
        failures: dict[str, OSError] = {}
        for shard, its_keys in by_shard.items():
            with noted(failures, its_keys), directory(shard, self._blobs) as descriptor:
                for key in its_keys:
                    self._unlink(key, descriptor, failures)
        # All unlinks first, then all syncs: a file system that keeps a journal writes it once.
        # Also where nothing was: an earlier delete may have been killed before this.
        for shard, its_keys in by_shard.items():
            with noted(failures, its_keys), directory(shard, self._blobs) as descriptor:
                os.fsync(descriptor)
        os.fsync(self._uploads)
        failpoint("blob.delete.after_dirsync")
        self._broken.difference_update(doomed - failures.keys())
        if failures:
            raise NotDeleted(failures)

    def leftover(self, before: str, now: str | None) -> Leftover | None:
        return None

    def names(self, state: str) -> Collection[str]:
        return ()

    def list(self, shard: int | None = None) -> Iterator[StoredObject]:
        return self._list(None if shard is None else SHARDS[shard])

    def drop(self, found: Iterable[StoredObject]) -> None:
        doomed = {(validate_key(each.key), each.committed) for each in found}
        for key, committed in sorted(doomed):
            with directory(key[:2] if committed else ".", self._place(committed)) as place:
                with suppress(FileNotFoundError):
                    os.unlink(key, dir_fd=place)
                os.fsync(place)

    def link(self, key: str, seconds: int) -> str | None:
        validate_key(key)
        return None

    def _place(self, committed: bool) -> int:
        return self._blobs if committed else self._uploads

    def _list(self, name: str | None) -> Iterator[StoredObject]:
        # Not the caller's user: an operator may check the store as root.
        owner = os.fstat(self._uploads).st_uid
        root = os.fstat(self._top)
        anyone = root.st_mode & stat.S_IWOTH and not root.st_mode & stat.S_ISVTX
        if anyone and name in (None, SHARDS[0]):
            yield StoredObject(".", 0, root.st_mtime, False, "any user can replace the store")
        # Uploads first, so that what is committed meanwhile is seen twice rather than never.
        shards = SHARDS if name is None else (name,)
        places = (("uploads", self._uploads, ()), ("blobs", self._blobs, shards))
        for place, top, below in places:
            # Opened again, because two listings must not share one position.
            with directory(".", top) as descriptor:
                # A removed directory reads as an empty one, and nothing must act on that.
                if removed(descriptor):
                    raise FileNotFoundError(errno.ENOENT, "the store lost a directory", place)
                found = list_directory(place, descriptor, below, owner)
                yield from found if name is None else _of_shard(found, name)

    def size(self, key: str, place: str | None = None) -> int | None:
        validate_key(key)
        if place is not None:
            return None
        # Uploads first: a commit in between moves the file to where this looks second.
        status = stat_regular(key, self._uploads) or self._stat_committed(key)
        return None if status is None else status.st_size

    def free_bytes(self) -> int | None:
        room = os.fstatvfs(self._top)
        # A tmpfs without a limit says it has no blocks at all.
        return room.f_bavail * room.f_frsize if room.f_blocks else None

    def capacity_bytes(self) -> int | None:
        room = os.fstatvfs(self._top)
        return room.f_blocks * room.f_frsize or None

    def probe(self) -> None:
        if removed(self._top):
            raise FileNotFoundError(errno.ENOENT, "the store's folder is gone")
        if not os.access(".", os.R_OK | os.W_OK | os.X_OK, dir_fd=self._top):
            raise PermissionError(errno.EACCES, "the store's folder cannot be written to")

    def read_label(self) -> str | None:
        with suppress(FileNotFoundError), open_regular(LABEL, self._top, "r") as file:
            return file.read(_LABEL_BYTES).decode("utf-8", "replace").strip()
        return None

    def write_label(self, text: str) -> None:
        with _full_as_store_full(), self._writing_label:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            descriptor = os.open(_NEW_LABEL, flags, FILE_MODE, dir_fd=self._top)
            with FileIO(descriptor, "w") as file:
                file.write(f"{text}\n".encode())
                os.fsync(descriptor)
            os.rename(_NEW_LABEL, LABEL, src_dir_fd=self._top, dst_dir_fd=self._top)
            os.fsync(self._top)

    def _refuse_unfit(self, root: Path) -> None:
        """Find out now, rather than at the first push, that nothing can be stored here."""
        for name, top in (("uploads", self._uploads), ("blobs", self._blobs)):
            if not os.access(".", os.R_OK | os.W_OK | os.X_OK, dir_fd=top, effective_ids=True):
                raise StoreUnusable(f"blob store {root}: {name}/ is not writable")
        if os.fstat(self._uploads).st_dev != os.fstat(self._blobs).st_dev:
            raise StoreUnusable(
                f"blob store {root}: uploads/ and blobs/ must lie on one file system"
            )

    def _stat_committed(self, key: str) -> os.stat_result | None:
        with directory(key[:2], self._blobs) as shard:
            return stat_regular(key, shard)

    def _take_upload(self, key: str) -> FileIO:
        """Open an appendable file and take the one lock there is on it, until it is closed.

        The lock belongs to the open file: the kernel lets go of it when the process dies, and not
        while it is merely stopped. Raises FileNotFoundError, OSError(EBUSY).
        """
        self._refuse_broken(key)
        file = open_regular(key, self._uploads, "r+")
        try:
            lock(file, key)
            # It may have been committed between the open and the lock: then this finds nothing.
            os.stat(key, dir_fd=self._uploads, follow_symlinks=False)
        except BaseException:
            file.close()
            raise
        return file

    def _sync(self, key: str, *descriptors: int) -> None:
        """fsync for the sake of one object, which is broken for good when that fails."""
        self._refuse_broken(key)
        try:
            for descriptor in descriptors:
                os.fsync(descriptor)
        except OSError:
            self._broken.add(key)
            raise

    def _refuse_broken(self, key: str) -> None:
        if key in self._broken:
            raise OSError(errno.EIO, "an earlier fsync of this object failed: delete it", key)

    def _commit_open(self, key: str, file: FileIO) -> None:
        """Commit an object whose one lock the caller has."""
        self._sync(key, file.fileno())
        failpoint("blob.commit.after_fsync")
        with directory(key[:2], self._blobs) as shard:
            try:
                os.rename(key, key, src_dir_fd=self._uploads, dst_dir_fd=shard)
            except FileNotFoundError:
                raise KeyUnknown(key) from None
            failpoint("blob.commit.after_rename")
            self._sync(key, shard)
            failpoint("blob.commit.after_dirsync")

    def _commit_again(self, key: str) -> None:
        """The file has been moved already, but perhaps by a process that was killed right then."""
        self._refuse_broken(key)
        with directory(key[:2], self._blobs) as shard:
            if stat_regular(key, shard) is None:
                raise KeyUnknown(key)
            self._sync(key, shard)

    def _unlink(self, key: str, shard: int, failures: dict[str, OSError]) -> None:
        # Uploads first: a commit in between moves the file to where this looks second.
        for place in (self._uploads, shard):
            try:
                os.unlink(key, dir_fd=place)
            except FileNotFoundError:
                pass
            except OSError as error:
                failures[key] = error
        failpoint("blob.delete.after_unlink")


class FileAppend(Closing):
    def __init__(self, store: FileBlobStore, key: str, file: FileIO, offset: int) -> None:
        self._store = store
        self._key = key
        self._file = file
        self._written_back = offset
        self._direct_from = direct_from(offset)
        self._direct: DirectWriter | None = None
        self._committed = False
        self.offset = offset

    def write(self, data: Buffer) -> None:
        with _full_as_store_full(), memoryview(data) as view, view.cast("B") as rest:
            self._write(rest)
        failpoint("blob.append.after_write")

    def _write(self, data: memoryview) -> None:
        if self.offset <= self._direct_from < self.offset + data.nbytes:
            first = self._direct_from - self.offset
            self._write_through_cache(data[:first])
            self._direct = self._store._direct.begin(self._file.fileno(), self.offset)
            data = data[first:]
        if self._direct is None:
            self._write_through_cache(data)
        else:
            self._write_direct(self._direct, data)

    def _write_through_cache(self, data: memoryview) -> None:
        # pwrite takes slices of the caller's memory as they are and lets other threads run.
        sent = 0
        while sent < data.nbytes:
            n = os.pwrite(self._file.fileno(), data[sent:], self.offset)
            sent += n
            self.offset += n
        self._write_back()

    def _write_direct(self, direct: DirectWriter, data: memoryview) -> None:
        try:
            direct.write(data)
            self.offset += data.nbytes
        except OSError:
            self._end_direct(direct)
            raise

    def _flush(self) -> None:
        """Write what still waits in a buffer to the file."""
        if self._direct is None:
            return
        try:
            self._direct.flush()
        finally:
            self._end_direct(self._direct)

    def _end_direct(self, direct: DirectWriter) -> None:
        """Go on through the page cache from where the direct writer came to."""
        self._direct = None
        self._written_back = direct.written
        if self.offset != direct.written:
            self.offset = direct.written
            os.ftruncate(self._file.fileno(), self.offset)

    def _write_back(self) -> None:
        """Let the disk start on what was written last, without waiting for it.

        Linux answers "not needed" by starting to write dirty pages, and drops clean ones only. As
        every span is named once, while it is dirty, it stays in memory for the first pull.
        """
        span = self.offset - self._written_back
        if span >= _WRITE_BACK_EVERY:
            descriptor = self._file.fileno()
            os.posix_fadvise(descriptor, self._written_back, span, os.POSIX_FADV_DONTNEED)
            self._written_back = self.offset

    def sync(self) -> str:
        with _full_as_store_full():
            self._flush()
            self._store._sync(self._key, self._file.fileno(), self._store._uploads)
        failpoint("blob.append.after_fsync")
        return ""

    def before_commit(self) -> str | None:
        return None

    def commit(self) -> None:
        with _full_as_store_full():
            if self._committed:
                self._store._commit_again(self._key)
                return
            self._flush()
            self._store._commit_open(self._key, self._file)
            self._committed = True

    def close(self) -> None:
        try:
            with suppress(OSError):
                self._flush()
        finally:
            self._file.close()


class CommittedAppend(Closing):
    """A file that is committed already, perhaps by a process that was killed right then."""

    def __init__(self, store: FileBlobStore, key: str, offset: int) -> None:
        self._store = store
        self._key = key
        self.offset = offset

    def write(self, data: Buffer) -> None:
        raise KeyUnknown(self._key)

    def sync(self) -> str:
        raise KeyUnknown(self._key)

    def before_commit(self) -> str | None:
        return None

    def commit(self) -> None:
        with _full_as_store_full():
            self._store._commit_again(self._key)

    def close(self) -> None:
        pass


def _of_shard(listed: Iterable[StoredObject], name: str) -> Iterator[StoredObject]:
    return (each for each in listed if _shard_of(each) == name)


def _shard_of(found: StoredObject) -> str:
    """Of what no key reaches, the directory that it is in, or is the name of."""
    if is_key(found.key):
        return found.key[:2]
    below = found.key.split("/")[1:2]
    return below[0] if below and below[0] in SHARDS else SHARDS[0]


@contextmanager
def _full_as_store_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(error.errno, error.strerror, error.filename) from error
        raise
