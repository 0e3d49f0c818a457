"""Small file systems that a test may fill or cut the power of; without root, it is skipped."""

import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.require import require_command

# linux/fs.h: _IOR('X', 125, __u32). The flag drops all that is not durable, as a power cut does.
_FS_IOC_SHUTDOWN = 0x8004587D
_WITHOUT_FLUSHING_THE_LOG = 2
_PAGE = 4096


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, with limits such as "size=16m,nr_inodes=100"."""
    folder.mkdir()
    _run_or_skip("mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))


def fill(folder: Path) -> Path:
    """Fill the file system to its last byte with one file, for the caller to remove."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for piece in (bytes(256 * _PAGE), bytes(_PAGE)):
            try:
                while file.write(piece):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return filler


class Disk:
    """ext4 in a file, mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lives = 0
        self._image = folder.with_suffix(".img")

    def attach(self) -> None:
        """Mount it, or skip the test where this machine may not."""
        self._device = _run_or_skip("losetup", "--find", "--show", str(self._image)).strip()
        try:
            _run_or_skip("mount", self._device, str(self.folder))
        except BaseException:
            self._detach()
            raise

    def release(self) -> None:
        """Unmount it for good."""
        _run("umount", "--lazy", str(self.folder))
        self._detach()

    def _detach(self) -> None:
        _run("losetup", "--detach", self._device)
        self._image.unlink()

    def cut_power(self) -> None:
        """From now on nothing reaches the disk any more; what was not durable is lost."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(descriptor)

    def power_up(self) -> None:
        """Mount what was on it, once all its files are closed; the kernel replays its journal.

        From a copy: a container that was started meanwhile has a mount of the dead disk in its
        namespace, and the kernel would mount that one again.
        """
        self._lives += 1
        copy = self.folder.with_suffix(f".{self._lives}.img")
        _run("cp", "--sparse=always", str(self._image), str(copy))
        self.release()
        self._image = copy
        self.attach()

    def sync(self) -> None:
        """Make all that is on it durable."""
        _run("sync", "--file-system", str(self.folder))

    def clear(self) -> None:
        """Remove all that is on it."""
        for path in self.folder.iterdir():
            if path.name != "lost+found":
                _run("rm", "-r", str(path))


@contextmanager
def ext4(folder: Path, mebibytes: int = 64) -> Iterator[Disk]:
    """A disk whose power can be cut."""
    make = require_command("mkfs.ext4")
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(mebibytes * 1024 * 1024)
    _run(make, "-q", "-F", str(image))
    folder.mkdir()
    disk = Disk(folder)
    disk.attach()
    try:
        yield disk
    finally:
        disk.release()


def _run_or_skip(*command: str) -> str:
    """Run what a machine may not let us do."""
    if os.geteuid() != 0:
        pytest.skip(f"{command[0]} needs root")
    try:
        return _run(*command)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{' '.join(command)}: {error.stderr.strip()}")


def _run(*command: str) -> str:
    found = require_command(command[0])
    return subprocess.run([found, *command[1:]], check=True, capture_output=True, text=True).stdout
