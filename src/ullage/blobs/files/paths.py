"""Files and directories of a store, reached safely.

Every path is walked from an open directory with O_NOFOLLOW at each step, so that a planted symbolic
link can make an operation fail but can never redirect it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from ullage.blobs.protocol import SHARD_COUNT

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
# The directories below blobs/.
SHARDS = tuple(f"{n:02x}" for n in range(SHARD_COUNT))

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# O_NONBLOCK means nothing to a regular file; without it, opening a planted FIFO would hang.
_EXISTING = os.O_NOFOLLOW | os.O_NONBLOCK


def blob_path(key: str) -> str:
    """Where the bytes of a blob lie below the store's root."""
    return f"blobs/{key[:2]}/{key}"


@contextmanager
def directory(name: str, parent: int) -> Iterator[int]:
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_directory(opened: list[int], place: str | Path, parent: int | None = None) -> int:
    """Open a directory to be kept open: its descriptor, which joins `opened`."""
    descriptor = os.open(place, _DIRECTORY, dir_fd=parent)
    opened.append(descriptor)
    return descriptor


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def make_directory(name: str, parent: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)


def make_directories(path: Path) -> None:
    """Like `mkdir -p -m 700`, with durable names."""
    if path.exists():
        return
    make_directories(path.parent)
    with suppress(FileExistsError):
        path.mkdir(DIRECTORY_MODE)
    parent = os.open(path.parent, _DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def removed(directory: int) -> bool:
    """Whether an open directory has no name any more."""
    return os.fstat(directory).st_nlink == 0


def open_regular(key: str, parent: int, mode: str) -> FileIO:
    flags = _EXISTING | (os.O_RDONLY if mode == "r" else os.O_RDWR)
    descriptor = os.open(key, flags, dir_fd=parent)
    try:
        _refuse_irregular(os.fstat(descriptor), key)
        return FileIO(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def lock(file: FileIO, key: str) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "an append to this object is still open", key) from None


def stat_regular(key: str, parent: int) -> os.stat_result | None:
    try:
        status = os.stat(key, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    _refuse_irregular(status, key)
    return status


def _refuse_irregular(status: os.stat_result, key: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EIO, "not a regular file", key)
