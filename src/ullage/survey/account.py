"""Whose every byte of a folder is: one category each, hard links once, as `du` adds up."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum

# How many inodes share one piece of the map of those that were seen.
_PAGE_BITS = 15


class Category(StrEnum):
    """What an entry is there for."""

    # Blobs and manifests that a tag reaches, by indexes and as referrers of what a tag reaches.
    TAGGED = "tagged"
    # What only manifests without a tag need, and these manifests.
    UNTAGGED = "untagged"
    # Blobs that no manifest names.
    UNREFERENCED = "unreferenced"
    # Bytes of unfinished uploads, and the notes about them.
    UPLOADS = "uploads"
    UPLOAD_STATE = "upload_state"
    LINKS = "links"
    DIRECTORIES = "directories"
    # What no registry of this kind has put there.
    OTHER = "other"


@dataclass(slots=True)
class Amount:
    """`bytes` are the sizes of files and folders, `disk_bytes` what the file system spends."""

    files: int = 0
    bytes: int = 0
    disk_bytes: int = 0

    def add(self, size: int, disk_size: int, files: int = 1) -> None:
        self.files += files
        self.bytes += size
        self.disk_bytes += disk_size


class Account:
    """Amounts by category, and how many entries vanished while they were looked at."""

    def __init__(self) -> None:
        self.amounts = {category: Amount() for category in Category}
        self.moved = 0
        self._seen: dict[tuple[int, int], bytearray] = {}

    def add(self, category: Category, status: os.stat_result) -> None:
        """An entry that is no blob; a folder is one of the directories, whatever is in it."""
        if stat.S_ISDIR(status.st_mode):
            category = Category.DIRECTORIES
        elif self.is_counted(status):
            return
        self.amounts[category].add(status.st_size, disk_size(status))

    def is_counted(self, status: os.stat_result) -> bool:
        """Whether another name of this file was met already. Remembers files with several."""
        if status.st_nlink < 2:
            return False
        page = self._seen.setdefault(
            (status.st_dev, status.st_ino >> _PAGE_BITS), bytearray(1 << _PAGE_BITS - 3)
        )
        byte, bit = divmod(status.st_ino & (1 << _PAGE_BITS) - 1, 8)
        counted = bool(page[byte] & 1 << bit)
        page[byte] |= 1 << bit
        return counted


def disk_size(status: os.stat_result) -> int:
    """st_blocks are of 512 bytes, whatever the file system's are (stat(2))."""
    return status.st_blocks * 512
