"""Folders of others, read without a trace: nothing is written, and no time of access is set."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ullage.survey.account import Account, Category

_PIECE = 1024 * 1024
# No link is followed, and no pipe waited for.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unreadable(Exception):
    """The place cannot be surveyed: the message says why."""


class Folder:
    """An open folder. What vanishes while it is looked at is counted as moved."""

    def __init__(self, descriptor: int, path: str, account: Account) -> None:
        self._descriptor = descriptor
        self.path = path
        self.account = account

    def entries(self) -> Iterator[tuple[str, os.stat_result]]:
        """Names in the order of their bytes, each with its status."""
        with _reasons(self.path):
            names = [entry.name for entry in os.scandir(self._descriptor)]
        names.sort(key=os.fsencode)
        for name in names:
            try:
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            except FileNotFoundError:
                self.account.moved += 1
            except OSError as error:
                raise _unreadable(f"{self.path}/{name}", error) from None
            else:
                yield name, status

    @contextmanager
    def below(self, name: str) -> Iterator[Folder | None]:
        """A folder in this one; None if it is gone."""
        descriptor = self._open(name, os.O_DIRECTORY)
        if descriptor is None:
            yield None
            return
        try:
            yield Folder(descriptor, f"{self.path}/{name}", self.account)
        finally:
            os.close(descriptor)

    def read(self, name: str, at_most: int) -> bytes | None:
        """The first bytes of a file; None if it is gone."""
        descriptor = self._open(name, 0)
        if descriptor is None:
            return None
        with _reasons(f"{self.path}/{name}"), os.fdopen(descriptor, "rb") as file:
            return file.read(at_most)

    def hashed(self, name: str, algorithm: str) -> str | None:
        """The hash of a file's bytes in hexadecimal; None if it is gone."""
        descriptor = self._open(name, 0)
        if descriptor is None:
            return None
        sought = hashlib.new(algorithm)
        with _reasons(f"{self.path}/{name}"), os.fdopen(descriptor, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                sought.update(piece)
        return sought.hexdigest()

    def _open(self, name: str, more: int) -> int | None:
        try:
            return _quietly_opened(name, _READ | more, self._descriptor)
        except FileNotFoundError:
            self.account.moved += 1
            return None
        except OSError as error:
            raise _unreadable(f"{self.path}/{name}", error) from None


@contextmanager
def opened(path: str, account: Account) -> Iterator[Folder]:
    """The folder to begin with. Raises Unreadable."""
    try:
        with _reasons(path):
            # The place itself may be named by a symbolic link.
            descriptor = _quietly_opened(os.path.realpath(path), _READ | os.O_DIRECTORY, None)
    except FileNotFoundError:
        raise Unreadable(f"{path}: No such file or directory") from None
    try:
        account.add(Category.DIRECTORIES, os.fstat(descriptor))
        yield Folder(descriptor, path.rstrip("/"), account)
    finally:
        os.close(descriptor)


def add_all(folder: Folder, name: str, status: os.stat_result, category: Category) -> None:
    """An entry and all below it, in one category."""
    folder.account.add(category, status)
    if stat.S_ISDIR(status.st_mode):
        with folder.below(name) as below:
            if below is not None:
                for inner, inner_status in below.entries():
                    add_all(below, inner, inner_status, category)


def read_file(path: str, at_most: int) -> bytes | None:
    """The first bytes of a file that was met before; None if it is gone or cannot be read."""
    try:
        with os.fdopen(_quietly_opened(path, _READ, None), "rb") as file:
            return file.read(at_most)
    except OSError:
        return None


def _quietly_opened(name: str, flags: int, folder: int | None) -> int:
    # Only an owner may leave the time of access as it is (open(2), O_NOATIME).
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError:
        return os.open(name, flags, dir_fd=folder)


@contextmanager
def _reasons(path: str) -> Iterator[None]:
    """What cannot be read ends the survey: a sum without it would be a lie."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> Unreadable:
    return Unreadable(f"{path}: {error.strerror}")
