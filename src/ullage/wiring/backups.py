"""`ullage backup` and `ullage restore-backup`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ullage import __version__
from ullage.blobs.opening import blob_files, lies_within
from ullage.blobs.protocol import BlobStore, StoreUnusable
from ullage.check.store_identity import (
    Places,
)
from ullage.clock import system_time
from ullage.config.settings import Settings
from ullage.control import ask_control
from ullage.database.errors import (
    DatabaseBroken,
    DatabaseBusy,
    DatabaseFull,
    DatabaseUnusable,
)
from ullage.database.migrations.upgrade import Tables
from ullage.database.opening import sqlite_file
from ullage.oci.errors import RegistryError
from ullage.registry.context import Registry

if TYPE_CHECKING:
    from ullage.backup.layout import Backup
    from ullage.backup.make import Made, Wishes
    from ullage.backup.make import Tally as BackupTally
    from ullage.backup.put_back import Restored, RestoreWishes
    from ullage.transfer.facts import Ask

from ullage.wiring.commands import ask_server, without_worker
from ullage.wiring.opening import (
    OPERATOR,
    RESTORING,
    CannotStart,
    control_path,
    fresh_key,
    open_registry,
    open_store,
    require_registry,
)


def back_up(
    settings: Settings, folder: Path, wishes: Wishes, *, with_blobs: bool = False
) -> Iterator[BackupTally | Made]:
    """Run `ullage backup`: says how far it is, then Made. Raises CannotStart.

    `with_blobs`: those of an object store are copied, too.
    """
    from ullage.backup.layout import BackupFailed
    from ullage.transfer.copy import CopyFailed

    require_registry(settings)
    _require_outside(settings, folder)
    files = blob_files(settings.storage_url)
    if wishes.link and files is None:
        raise CannotStart("backup: --link: the registry's blobs are in no folder of this machine")
    if files is None and not with_blobs:
        wishes = replace(wishes, storage=settings.storage_url)
    os.umask(0o077)
    try:
        with closing(_back_up(settings, folder, wishes)) as running:
            yield from running
    except (BackupFailed, CopyFailed, DatabaseUnusable, OSError) as error:
        raise CannotStart(f"backup: {error}") from error
    except RegistryError as error:
        raise CannotStart(f"backup: {error.message}") from error


def _require_outside(settings: Settings, folder: Path) -> None:
    for inside in (f"file:{settings.data}", settings.storage_url):
        if lies_within(f"file:{folder}", inside):
            raise CannotStart(
                f"backup: {folder} is inside the registry's own folder - name one on another disk"
            )


def _back_up(settings: Settings, folder: Path, wishes: Wishes) -> Generator[BackupTally | Made]:
    from ullage.backup.lease import answer
    from ullage.backup.make import Source, back_up
    from ullage.database.frozen import freeze

    def made(ask: Ask, store: BlobStore) -> Iterator[BackupTally | Made]:
        source = Source(store, blob_files(settings.storage_url))
        frozen = partial(freeze, settings.database_url)
        yield from back_up(folder, ask, frozen, source, wishes, system_time(), __version__)

    # Where one process owns the database, it is asked for what it alone may write.
    if sqlite_file(settings.database_url) is not None:
        answers = ask_control(control_path(settings), {"do": "backup", "ask": "whose"})
        if answers is not None:
            # Also told so by a server of an older version, which has no answer.
            list(answers)
            yield from made(partial(ask_server, settings, "backup"), open_store(settings))
            return
    with (
        open_registry(settings, tables_may=Tables.LEAVE) as (opened, _),
        without_worker(opened) as registry,
    ):
        yield from made(partial(answer, registry), opened.blobs)


def restore_backup(
    settings: Settings, backup: Backup, wishes: RestoreWishes
) -> Iterator[BackupTally | Restored]:
    """Run `ullage restore-backup`: says how far it is, then Restored. Raises CannotStart."""
    from ullage.backup.layout import BackupFailed
    from ullage.backup.put_back import put_back

    os.umask(0o077)
    place = settings.data / RESTORING
    in_files = sqlite_file(settings.database_url) is not None
    database = f"sqlite:///{place / 'ullage.db'}" if in_files else settings.database_url

    @contextmanager
    def opened() -> Iterator[Registry]:
        restored = replace(settings, database=database, ballast=0)
        with (
            open_registry(restored, tables_may=Tables.LEAVE) as (registry, _),
            without_worker(registry) as quiet,
        ):
            yield quiet

    try:
        yield from put_back(
            backup,
            wishes,
            Places(database, settings.storage_url),
            place,
            opened,
            OPERATOR,
            system_time(),
            fresh_key,
        )
    except (BackupFailed, StoreUnusable, DatabaseUnusable, OSError) as error:
        raise CannotStart(f"restore-backup: {error}") from error
    except (DatabaseFull, DatabaseBusy, DatabaseBroken) as error:
        raise CannotStart(f"restore-backup: the database cannot be written: {error}") from error
    except RegistryError as error:
        raise CannotStart(f"restore-backup: {error.message}") from error
