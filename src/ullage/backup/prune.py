"""Removing old backups, and bytes that none of the others names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ullage.backup import layout
from ullage.backup.layout import Backup, BackupFailed
from ullage.failpoints import failpoint


class Pruned(NamedTuple):
    """What went; sizes in bytes."""

    backups: list[str]
    blobs: int
    bytes: int


def prune(folder: Path, keep: int) -> Pruned:
    """Keep the newest `keep` backups, and what they need. Raises BackupFailed, OSError."""
    layout.registry_of(folder)
    with layout.only_one(folder):
        whole = [each for each in layout.backups_in(folder) if isinstance(each, Backup)]
        kept = whole[-keep:]
        for backup in kept:
            # Bytes are removed by what these say.
            if layout.sha256_of(backup.path / layout.KEYS) != backup.description.keys_sha256:
                raise BackupFailed(
                    f"backup {backup.path.name} is damaged: {layout.KEYS} is another file - remove "
                    "that backup's folder, or put the file back; nothing was removed"
                )
        layout.remove_unfinished(folder)
        gone = [backup for backup in whole if backup not in kept]
        for backup in gone:
            # First it is no backup any more, then it goes.
            (backup.path / layout.DESCRIPTION).unlink()
            layout.sync_folder(backup.path)
            shutil.rmtree(backup.path)
        failpoint("backup.prune.before_blobs")
        blobs, size = _remove_unused(folder / layout.BLOBS, kept)
    return Pruned([backup.path.name for backup in gone], blobs, size)


def _remove_unused(blobs: Path, kept: Sequence[Backup]) -> tuple[int, int]:
    """Shard by shard, as the keys come in their order. How many, and their bytes."""
    keys = [_Keys(backup) for backup in kept]
    count = size = 0
    for shard in sorted(path for path in blobs.glob("??") if path.is_dir()):
        needed = {key for each in keys for key in each.of(shard.name)}
        for path in shard.iterdir():
            if path.name not in needed:
                count, size = count + 1, size + path.stat().st_size
                path.unlink()
    return count, size


class _Keys:
    """The keys of one backup, shard by shard in order."""

    def __init__(self, backup: Backup) -> None:
        self._lines = (blob.storage_key for blob in backup.each_blob())
        self._next = next(self._lines, None)

    def of(self, shard: str) -> Iterator[str]:
        while self._next is not None and self._next[:2] <= shard:
            yield self._next
            self._next = next(self._lines, None)
