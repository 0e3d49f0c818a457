"""Copying one file of bytes: as a link, by sharing its blocks, or as a copy that the kernel makes.

What is there under its name is complete and durable, but for the name itself: the folder is synced
by the caller, once for many.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from ullage.backup.layout import NEW
from ullage.oci.digest import Digest, Hasher

PIECE_BYTES = 1024 * 1024
# ioctl(2), linux/fs.h: let one file share another's blocks until one of the two changes.
_FICLONE = 0x40049409
# What a file system says that cannot do what is asked, or not between these two files.
_CANNOT = frozenset(
    {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
)
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotThere(Exception):
    """The source has not the bytes that it should; the text says how."""


def bring(
    source: Path, target: Path, size: int, digest: Digest | None = None, *, link: bool = False
) -> None:
    """Make `target` a file with the `size` bytes of `source`; with `digest`, read them back first.

    What is at `target` is replaced by nothing else. Raises NotThere, OSError.
    """
    new = target.with_name(target.name + NEW)
    new.unlink(missing_ok=True)
    descriptor = _open_source(source, size)
    try:
        if link:
            os.link(source, new, follow_symlinks=False)
        else:
            _copy(descriptor, new, size)
    finally:
        os.close(descriptor)
    if digest is not None and (found := digest_on_disk(new, digest.algorithm)) != digest:
        new.unlink()
        raise NotThere(f"its bytes are others: {found}")
    new.rename(target)


def _open_source(source: Path, size: int) -> int:
    try:
        descriptor = os.open(source, _SOURCE)
    except FileNotFoundError:
        raise NotThere("its bytes are missing") from None
    except OSError as error:
        if error.errno in (errno.EIO, errno.ELOOP):
            raise NotThere(f"its bytes cannot be read: {error.strerror}") from error
        raise
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size == size:
        return descriptor
    os.close(descriptor)
    raise NotThere(f"its bytes are others: {status.st_size} instead of {size}")


def _copy(source: int, new: Path, size: int) -> None:
    target = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if not _share_blocks(source, target):
            _copy_bytes(source, target, size)
        os.fsync(target)
    finally:
        os.close(target)


def _share_blocks(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _copy_bytes(source: int, target: int, size: int) -> None:
    done = 0
    while done < size:
        try:
            copied = os.copy_file_range(source, target, size - done)
        except OSError as error:
            if error.errno == errno.EIO:
                raise NotThere(f"its bytes cannot be read: {error.strerror}") from error
            if error.errno not in _CANNOT:
                raise
            copied = os.write(target, os.read(source, PIECE_BYTES))
        if not copied:
            raise NotThere(f"its bytes are others: {done} instead of {size}")
        done += copied


def digest_on_disk(path: Path, algorithm: str) -> Digest:
    """What the disk has under a name: read from there, not from memory. Raises OSError."""
    hasher = Hasher(algorithm)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := file.read(PIECE_BYTES):
            hasher.update(piece)
    return hasher.digest()
