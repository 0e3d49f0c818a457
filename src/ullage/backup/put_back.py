"""`ullage restore-backup` as a whole: what is looked at before, what is made, in which order.

All is made in the new data folder, the database in a folder of its own below it. While that is
there no server starts; it goes when everything is in its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ullage.backup import layout
from ullage.backup.layout import Backup, BackupFailed
from ullage.backup.make import Tally
from ullage.backup.replay import Entry, Replayed, deletions_since, replay
from ullage.backup.restore import Putting, Settled, Target, into, require_usable, settle_down
from ullage.blobs.opening import blob_files, lasting, open_blob_store
from ullage.blobs.protocol import BlobStore
from ullage.check.check import run_check
from ullage.check.store_identity import Places
from ullage.database.frozen import require_free, thaw
from ullage.database.opening import open_database
from ullage.failpoints import failpoint
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.identity import label_of
from ullage.registry.queries.quarantine import StoredCopy


@dataclass(frozen=True, slots=True)
class RestoreWishes:
    """What a restore is to be like."""

    verify: bool = False
    deep: bool = False
    link: bool = False
    keep_going: bool = False
    as_copy: bool = False
    # Of the registry that was lost: its deletions are carried out again.
    replayed: list[Entry] | None = None


class Restored(NamedTuple):
    """A registry that can be started. `report` is what `ullage check --deep` said, if asked for."""

    backup: Backup
    tally: Tally
    missing: list[StoredCopy]
    settled: Settled
    replayed: Replayed | None
    report: dict[str, Any] | None


def put_back(
    backup: Backup,
    wishes: RestoreWishes,
    places: Places,
    restoring: Path,
    opened: Callable[[], AbstractContextManager[Registry]],
    caller: Caller,
    now: datetime,
    fresh: Callable[[], str],
) -> Iterator[Tally | Restored]:
    """Restore a backup; says how far it is, then Restored. What fails leaves nothing behind.

    `restoring` is to be made in the new data folder, `places.database` is in it or on a server;
    `opened` opens what was restored. Raises BackupFailed, OSError, RegistryError, DatabaseUnusable.
    """
    data = restoring.parent
    _require_sense(backup, wishes, places)
    require_usable(backup, places.database)
    _require_empty(data)
    require_free(places.database)
    with into(str(data)):
        try:
            restoring.mkdir(mode=0o700, parents=True)
            restored = yield from _made(
                backup, wishes, places, restoring, opened, caller, now, fresh
            )
        except BaseException:
            _empty(data)
            raise
    # From here on it stays, whatever becomes of the caller.
    yield restored


def _require_sense(backup: Backup, wishes: RestoreWishes, places: Places) -> None:
    stayed = backup.description.storage
    if not stayed:
        return
    if places.storage.startswith("file:"):
        raise BackupFailed(
            f"the blobs of backup {backup.path.name} were not copied, they stayed in {stayed} - "
            f"add --storage '{stayed}'"
        )
    if wishes.as_copy:
        raise BackupFailed(
            "--as-copy: the blobs are in the storage of the registry itself, and two registries "
            "in one storage would erase each other's"
        )


def _require_empty(data: Path) -> None:
    try:
        names = sorted(path.name for path in data.iterdir()) if data.exists() else []
    except NotADirectoryError:
        raise BackupFailed(f"{data} is a file - name a new folder with --data") from None
    if names:
        raise BackupFailed(
            f"{data} is not empty ({', '.join(names[:3])}) - name a new folder with --data"
        )


def _empty(data: Path) -> None:
    """It was empty before: all that is in it was made here."""
    for path in data.iterdir() if data.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _made(
    backup: Backup,
    wishes: RestoreWishes,
    places: Places,
    restoring: Path,
    opened: Callable[[], AbstractContextManager[Registry]],
    caller: Caller,
    now: datetime,
    fresh: Callable[[], str],
) -> Generator[Tally, None, Restored]:
    store = open_blob_store(places.storage)
    if backup.description.storage:
        _require_own(store, places.storage, backup)
    else:
        _require_no_objects(store, places.storage)
    putting = Putting(
        backup,
        Target(store, blob_files(places.storage)),
        verify=wishes.verify or wishes.deep,
        link=wishes.link,
        keep_going=wishes.keep_going,
    )
    putting.require_bytes()
    yield from putting.run()
    thaw(next(backup.path.glob("ullage.*")), places.database)
    failpoint("backup.restore.before_settling")
    with closing(open_database(places.database)) as db:
        settled = settle_down(
            db,
            store,
            lasting(places.storage),
            backup,
            putting.missing,
            caller,
            now,
            fresh,
            as_copy=wishes.as_copy,
        )
    replayed = report = None
    if wishes.replayed is not None or wishes.deep:
        with opened() as registry:
            if wishes.replayed is not None:
                deletions = deletions_since(backup.description, wishes.replayed)
                replayed = replay(registry, deletions, caller)
            if wishes.deep:
                *_, report = run_check(registry, {"mode": "deep"}, caller)
    for path in restoring.iterdir():
        path.rename(restoring.parent / path.name)
    restoring.rmdir()
    layout.sync_folder(restoring.parent)
    return Restored(backup, putting.tally, putting.missing, settled, replayed, report)


def _require_own(store: BlobStore, storage: str, backup: Backup) -> None:
    label = label_of(store)
    if label is None or label.registry != backup.description.registry:
        owner = f"of registry {label.registry}" if label else "of no registry"
        raise BackupFailed(
            f"{storage} is the storage {owner}, the backup is of registry "
            f"{backup.description.registry} - name the storage that it was made of"
        )


def _require_no_objects(store: BlobStore, storage: str) -> None:
    if next(iter(store.list()), None) is not None:
        raise BackupFailed(f"{storage} holds blobs already - name an empty place with --storage")
