"""A registry of its settings: database, store and what goes wrong with either."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ullage.blobs.opening import open_blob_store
from ullage.blobs.protocol import BlobStore, StoreUnusable
from ullage.check.store_identity import (
    Places,
    StoreForeign,
    adopt_store,
    require_no_loss,
    require_same,
)
from ullage.clock import SteadyClock, system_time
from ullage.config.settings import Settings
from ullage.database.errors import (
    DatabaseBroken,
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseFull,
    DatabaseUnusable,
)
from ullage.database.migrations.upgrade import Tables
from ullage.database.opening import migrate as migrate_database
from ullage.database.opening import name_for_people, open_database, sqlite_file
from ullage.database.transaction import Database, database_time
from ullage.oci.errors import RegistryError, StorageFull, Unavailable
from ullage.registry.clients import Caller
from ullage.registry.context import Limits, Registry
from ullage.registry.identity import complete_without_blob
from ullage.registry.leases.opening import open_leases
from ullage.registry.push.left_sessions import keep_memory_sessions
from ullage.registry.push.sessions_in_memory import MemorySessions, open_memory_sessions
from ullage.registry.push.tickets import open_tickets
from ullage.registry.queries.identity import own_store
from ullage.registry.queries.upload_claims import open_claims
from ullage.worker import Worker

if TYPE_CHECKING:
    pass


log = logging.getLogger(__name__)


class CannotStart(Exception):
    """Why the registry cannot start, in one line, and what to change."""


def limits_of(settings: Settings) -> Limits:
    return Limits(
        max_manifest_bytes=settings.max_manifest,
        max_manifest_descriptors=settings.max_descriptors,
        max_page_size=settings.max_page,
        max_name_length=settings.max_name,
        max_uploads=settings.max_uploads,
        max_account_uploads=settings.max_account_uploads,
        max_repository_uploads=settings.max_repository_uploads,
        min_free_bytes=settings.min_free,
        upload_idle=settings.upload_idle,
        empty_upload_idle=min(settings.upload_idle, Limits.empty_upload_idle),
        lease=settings.lease,
        read_grace=settings.read_grace,
        signed_read=settings.signed_read,
        protect_referrers=settings.protect_referrers,
        sparse_indexes=settings.sparse_indexes,
        max_unknown_percent=settings.unknown_share,
    )


@contextmanager
def open_registry(
    settings: Settings,
    *,
    adopt: bool = False,
    looking: bool = False,
    tables_may: Tables = Tables.UPDATE,
) -> Iterator[tuple[Registry, Worker]]:
    """A registry with its worker, not started. Raises CannotStart.

    `adopt`: the database may take over a store that another one, or another state of it, wrote to.
    `looking`: a damaged database is read as far as it goes.
    """
    os.umask(0o077)
    if tables_may is Tables.LEAVE:
        _require_there(settings)
    else:
        require_own_folder(settings)
    with as_cannot_start(settings):
        blobs = open_store(settings)
        if not adopt:
            _require_database(settings, blobs)
        db = open_database(
            settings.database_url,
            ballast_bytes=settings.ballast,
            read_only_on_damage=settings.read_only_on_damage or looking,
            tables_may=tables_may,
        )
    try:
        with as_cannot_start(settings):
            registry, worker = _assemble(settings, db, blobs, adopt=adopt)
        try:
            yield registry, worker
        finally:
            _keep_promises(registry)
    finally:
        db.close()


@contextmanager
def as_cannot_start(settings: Settings) -> Iterator[None]:
    """What goes wrong while a registry starts, in one line. Raises CannotStart."""
    place = name_for_people(settings.database_url)
    try:
        yield
    except (DatabaseUnusable, StoreForeign) as error:
        raise CannotStart(str(error)) from error
    except (DatabaseFull, StorageFull) as error:
        raise CannotStart(
            f"the disk with {place} is full, and the room set aside for that is used up - free a "
            "few MiB on it and start again; then delete images to get more"
        ) from error
    except (DatabaseBusy, DatabaseBroken) as error:
        raise CannotStart(f"the database {place} cannot be used: {error}") from error
    except Unavailable as error:
        why = error.__cause__ or error.message
        raise CannotStart(f"the database {place} cannot be used: {why}") from error


OTHER_FOLDER = "name another folder with --data, or mend its permissions"


# What a registry has in its data folder: one of these, and it is one of ours.
_OUR_FILES = frozenset(
    {"ullage.db", "blobs", "uploads", "registry-id", "owner.lock", "ballast", "control.sock", "tls"}
)


# What operators put beside it: settings, certificates, accounts; and a disk's own.
_BESIDE = re.compile(r"\..*|lost\+found|.*\.(?:toml|pem|crt|key)|.*htpasswd.*|ballast.*")


# In the data folder while it is made of a backup.
RESTORING = "restoring"


def _require_there(settings: Settings) -> None:
    """A command that only looks makes no folder."""
    if not settings.storage and not settings.data.is_dir():
        raise CannotStart(f"there is no registry in {settings.data}; name its folder with --data")


def require_own_folder(settings: Settings) -> None:
    """Before anything is made: the data folder is ours, or free, and can be written."""
    data = settings.data
    try:
        names = {path.name for path in data.iterdir()} if data.exists() else set()
    except NotADirectoryError as error:
        raise CannotStart(f"data: {data} is a file - name a folder with --data") from error
    except OSError as error:
        raise CannotStart(f"data: {data}: {error.strerror} - {OTHER_FOLDER}") from error
    there = next(path for path in (data, *data.parents) if path.exists())
    if not there.is_dir():
        raise CannotStart(f"data: {there} is a file - name a folder with --data")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CannotStart(f"data: {there} cannot be written - {OTHER_FOLDER}")
    if RESTORING in names:
        raise CannotStart(
            f"data: a restore into {data} was cut off - empty that folder, and run `ullage "
            "restore-backup` again"
        )
    others = sorted(name for name in names if not _BESIDE.fullmatch(name))
    if others and not names & _OUR_FILES:
        raise CannotStart(
            f"data: {data} holds files of another program ({', '.join(others[:3])}) - name a new "
            "or an empty folder with --data"
        )


def open_store(settings: Settings) -> BlobStore:
    try:
        return open_blob_store(settings.storage_url)
    except (StoreUnusable, ValueError) as error:
        if settings.storage:
            hint = "" if " - " in str(error) else " - name another place with --storage"
            raise CannotStart(f"storage: {error}{hint}") from error
        raise CannotStart(f"data: {error} - {OTHER_FOLDER}") from error


def _keep_promises(registry: Registry) -> None:
    """An orderly end, also of a start that failed: no session and no promise is forgotten."""
    if registry.unready is not None:
        return
    try:
        keep_memory_sessions(registry)
        registry.leases.close(registry.db, registry.now())
    except (DatabaseFull, DatabaseBusy, DatabaseBroken, DatabaseUnusable, RegistryError) as error:
        # As after a crash: what was promised stays for an hour.
        log.warning("promises to pushers could not be saved: %s", error)


def _places(settings: Settings) -> Places:
    storage = settings.storage or str(settings.data)
    return Places(name_for_people(settings.database_url), storage)


def _require_database(settings: Settings, blobs: BlobStore) -> None:
    """Make no new database for a store that is full: the right one may only be somewhere else."""
    file = sqlite_file(settings.database_url)
    if file is not None and not (file.exists() and file.stat().st_size):
        require_no_loss(blobs, _places(settings), missing=not file.exists())


def _assemble(
    settings: Settings, db: Database, blobs: BlobStore, *, adopt: bool
) -> tuple[Registry, Worker]:
    # Several processes agree about time by asking the one database they share.
    clock = SteadyClock(system_time if db.dialect == "sqlite" else lambda: database_time(db))
    try:
        require_same(db, blobs, _places(settings))
        taking_over = adopt and db.log_missing
    except StoreForeign:
        if not adopt:
            raise
        taking_over = True
    except DatabaseDamaged as error:
        # It is only read, so nothing can be erased.
        log.error("whose storage it is cannot be told: %s", error)
        taking_over = False
    if taking_over:
        adopt_store(db, blobs, clock(), fresh_key)
    if db.log_missing and db.damage is None:
        _do_without_log(settings, db, blobs)
    process = secrets.token_hex(8) if db.dialect == "postgresql" else None
    worker: Worker
    registry = Registry(
        db=db,
        blobs=blobs,
        leases=open_leases(db, settings.lease, clock()),
        claims=open_claims(db, process),
        memory_sessions=open_memory_sessions(db) or MemorySessions(),
        tickets=open_tickets(db, fresh_key()),
        now=clock,
        fresh_key=fresh_key,
        limits=limits_of(settings),
        wake=lambda: worker.wake(),
        process=process,
    )
    registry.store_mark.store = _own_store(db)
    worker = Worker(registry, clock, scrub_period=settings.scrub)
    return registry, worker


def _own_store(db: Database) -> str:
    try:
        return db.read(own_store).name
    except DatabaseDamaged:
        # It is only read, so no label is written.
        return ""


def _do_without_log(settings: Settings, db: Database, blobs: BlobStore) -> None:
    """Go on although the database was not closed and has no log. Raises CannotStart if it is lost.

    Whatever opens a SQLite file takes its log in. But uploads that have all their bytes and no blob
    say that what was committed last is not in the file. Nothing is written before that is known.
    """
    place = name_for_people(settings.database_url)
    uploads = complete_without_blob(db, blobs)
    if uploads:
        raise CannotStart(
            f"the database {place} was not closed, its log {Path(place).name}-wal is missing, and "
            f"{uploads} uploads that were complete are not in it: what was pushed last is lost "
            "with the log - put that file back, or a backup of the database in its place, or "
            "start once with --adopt-store, which goes on without it and erases nothing"
        )
    log.warning("%s was not closed and has no log: the last changes may be missing", place)
    db.go_on()


def fresh_key() -> str:
    return secrets.token_hex(16)


# The person at this machine: the user that may use the data folder.
OPERATOR = Caller(subject="operator", address="local", agent="ullage")


def migrate(settings: Settings) -> tuple[str, str]:
    """Bring the database up to date: the schema that it had, and the one it has."""
    require_registry(settings)
    os.umask(0o077)
    with as_cannot_start(settings):
        return migrate_database(settings.database_url)


def require_registry(settings: Settings) -> None:
    """Raise CannotStart where no registry was ever made."""
    if not settings.has_registry:
        raise CannotStart(
            settings.unreadable
            or f"there is no registry in {settings.data}; name its folder with --data"
        )


def control_path(settings: Settings) -> Path:
    return settings.data / "control.sock"
