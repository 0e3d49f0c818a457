"""What lies in a store's directories, and what is wrong with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress

from ullage.blobs.files.paths import DIRECTORY_MODE, FILE_MODE, SHARDS, directory
from ullage.blobs.protocol import StoredObject, is_key


def list_directory(
    place: str, descriptor: int, shards: Collection[str], owner: int
) -> Iterator[StoredObject]:
    """List one directory of the store: its objects, or those of these `shards` below it."""
    problem = _directory_problem(os.fstat(descriptor), owner)
    if problem is not None:
        yield StoredObject(
            place, 0, os.fstat(descriptor).st_mtime, _is_of_committed(place), problem
        )
    with os.scandir(descriptor) as entries:
        for entry in entries:
            if shards and entry.name in SHARDS and entry.is_dir(follow_symlinks=False):
                if entry.name in shards:
                    with directory(entry.name, descriptor) as shard:
                        yield from list_directory(f"{place}/{entry.name}", shard, (), owner)
            else:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield _describe(place, entry.name, status, owner, of_shards=bool(shards))


def _describe(
    place: str, name: str, status: os.stat_result, owner: int, *, of_shards: bool
) -> StoredObject:
    misplaced = _place_problem(place, name, of_shards=of_shards)
    problem = "; ".join(filter(None, (misplaced, _file_problem(status, owner)))) or None
    return StoredObject(
        key=name if misplaced is None else f"{place}/{_printable(name)}",
        size=status.st_size if stat.S_ISREG(status.st_mode) else 0,
        modified=status.st_mtime,
        committed=_is_of_committed(place),
        problem=problem,
    )


def _is_of_committed(place: str) -> bool:
    return place.startswith("blobs")


def _place_problem(place: str, name: str, *, of_shards: bool) -> str | None:
    if of_shards:
        return "not a shard directory"
    if not is_key(name):
        return "not a storage key"
    if _is_of_committed(place) and place != f"blobs/{name[:2]}":
        return "in the wrong shard"
    return None


def _file_problem(status: os.stat_result, owner: int) -> str | None:
    if stat.S_ISLNK(status.st_mode):
        return "symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return _access_problem(status, FILE_MODE, owner)


def _directory_problem(status: os.stat_result, owner: int) -> str | None:
    return _access_problem(status, DIRECTORY_MODE, owner)


def _access_problem(status: os.stat_result, expected: int, owner: int) -> str | None:
    mode = stat.S_IMODE(status.st_mode)
    if mode != expected:
        return f"mode {mode:04o}, expected {expected:04o}"
    if status.st_uid != owner:
        return f"owned by user {status.st_uid}, expected {owner}"
    return None


def _printable(name: str) -> str:
    """File names are bytes, and one that the store did not make need not be UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
