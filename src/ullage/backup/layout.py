"""A folder with backups: where what is in it, and what makes a backup whole.

    <folder>/ullage-backups.json    whose backups these are
    <folder>/blobs/ab/<key>         bytes, shared by all of them: what is under a key never changes
    <folder>/<time>Z/               one backup: the database, `keys`, and `backup.json`

`backup.json` is written last. A folder of a backup without it is none, whatever else it has.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from ullage.blobs.protocol import is_key
from ullage.oci.digest import parse_digest
from ullage.oci.errors import DigestInvalid
from ullage.registry.queries.quarantine import StoredCopy

FORMAT = 1
MARK = "ullage-backups.json"
DESCRIPTION = "backup.json"
KEYS = "keys"
BLOBS = "blobs"
_LOCK = ".lock"
# What a copy has that is not finished.
NEW = ".new"
_NAME = re.compile(r"\d{8}T\d{6}Z")
_PIECE_BYTES = 1024 * 1024


class BackupFailed(Exception):
    """Why a backup cannot be made, used or restored, in one line."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a backup says of itself; sizes in bytes. `damaged` are keys whose bytes it lacks."""

    registry: str
    # Of the database, and which engine it is of.
    schema: str
    database: str
    at: str
    blobs: int
    bytes: int
    keys_sha256: str
    db_sha256: str
    # The last entry of the audit log.
    audit_head: int
    # The version of Ullage that made it.
    version: str
    # Where the bytes are that were not copied; "" if they were.
    storage: str = ""
    secrets: bool = True
    damaged: list[str] = field(default_factory=list)
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is whole, as far as its description says."""

    path: Path
    description: Description

    @property
    def blobs(self) -> Path:
        """Where its bytes are, with those of the others."""
        return self.path.parent / BLOBS

    def each_blob(self) -> Iterator[StoredCopy]:
        """The blobs, in the order of their storage keys. Raises BackupFailed."""
        with (self.path / KEYS).open(encoding="ascii") as lines:
            for line in lines:
                yield parse_key_line(line, self.path)


# --- the folder -----------------------------------------------------------------------------------


def blob_place(blobs: Path, key: str) -> Path:
    return blobs / key[:2] / key


def backup_name(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def names_in(folder: Path) -> list[str]:
    """Of all backups there, whole or not, from the oldest to the newest."""
    return sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))


def registry_of(folder: Path) -> str:
    """Whose backups are in a folder. Raises BackupFailed if it is no folder of backups."""
    try:
        mark = json.loads((folder / MARK).read_text("utf-8"))
        return str(mark["registry"])
    except (FileNotFoundError, NotADirectoryError):
        raise BackupFailed(
            f"{folder} is no folder of backups: it has no {MARK} - name the folder that `ullage "
            "backup` was given"
        ) from None
    except OSError as error:
        raise BackupFailed(f"{folder} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BackupFailed(f"{folder / MARK} is damaged: {error}") from error


def backups_in(folder: Path) -> Iterator[Backup | str]:
    """From the oldest to the newest; of one that is not finished, its name alone.

    Raises BackupFailed, also if a description is damaged or of another version.
    """
    registry_of(folder)
    for name in names_in(folder):
        yield find_backup(folder / name) or name


def find_backup(path: Path) -> Backup | None:
    """The backup in that folder; None if it is not finished. Raises BackupFailed."""
    place = path / DESCRIPTION
    try:
        text = place.read_text("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupFailed(f"{place} cannot be read: {error.strerror}") from error
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise BackupFailed(
                f"backup {path.name} has format {found['format']}, this is {FORMAT} - use the "
                "version of Ullage that made it, or a later one"
            )
        return Backup(
            path, Description(**{each.name: found[each.name] for each in fields(Description)})
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BackupFailed(
            f"backup {path.name} is damaged: {DESCRIPTION} makes no sense ({error!r}) - take "
            "another"
        ) from error


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let no other backup or pruning work in the folder meanwhile. Raises BackupFailed."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BackupFailed(f"another backup or pruning is at work in {folder}") from None
    finally:
        os.close(descriptor)


def claim_folder(folder: Path, registry: str) -> None:
    """Make the folder one of this registry's backups, if it is empty. Raises BackupFailed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except (FileExistsError, NotADirectoryError):
        raise BackupFailed(f"{folder} is a file - name a folder") from None
    if MARK in names:
        owner = registry_of(folder)
        if owner != registry:
            raise BackupFailed(
                f"{folder} has backups of registry {owner}, this is registry {registry} - name "
                "another folder"
            )
        return
    others = sorted(name for name in names if name != "lost+found" and not name.startswith("."))
    if others:
        raise BackupFailed(
            f"{folder} holds files of another program ({', '.join(others[:3])}) - name an empty "
            "folder, or one with backups of this registry"
        )
    write_durably(folder / MARK, json.dumps({"format": FORMAT, "registry": registry}))


def remove_unfinished(folder: Path) -> int:
    """Remove backups that were cut off, and files that were; how many backups.

    Only under `only_one`: then none of them is being made.
    """
    unfinished = [name for name in names_in(folder) if not (folder / name / DESCRIPTION).exists()]
    for name in unfinished:
        shutil.rmtree(folder / name)
    for path in (folder / BLOBS).glob(f"*/*{NEW}"):
        path.unlink()
    return len(unfinished)


def write_description(path: Path, description: Description) -> None:
    """Make it a backup: from here on it is one, also after a power cut."""
    write_durably(path / DESCRIPTION, json.dumps(asdict(description), indent=2) + "\n")
    sync_folder(path.parent)


# --- the keys -------------------------------------------------------------------------------------


def key_line(blob: StoredCopy) -> str:
    return f"{blob.storage_key} {blob.size} {blob.digest}\n"


def parse_key_line(line: str, path: Path) -> StoredCopy:
    try:
        key, size, digest = line.split()
        if not is_key(key):
            raise ValueError(key)
        return StoredCopy(parse_digest(digest), key, int(size))
    except (ValueError, DigestInvalid):
        raise BackupFailed(
            f"backup {path.name} is damaged: {KEYS} has a line that makes no sense - take another"
        ) from None


# --- files ----------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, text: str) -> None:
    """All of it is there, or nothing."""
    new = path.with_name(path.name + NEW)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
