"""Making a registry of a backup: its bytes into a store, its database into a free place.

Bytes come first, so that no database ever names what is not there; then what ran at that moment is
ended, for nothing of it runs now. docs/design/backup.md section 4.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ullage.backup import layout
from ullage.backup.files import NotThere, bring
from ullage.backup.layout import Backup, BackupFailed, blob_place
from ullage.backup.make import AT_ONCE, Tally
from ullage.backup.queries import settle
from ullage.blobs.protocol import SHARD_COUNT, BlobStore, StoreFull
from ullage.check.queries import adoption
from ullage.database.frozen import FILES, dialect_of, is_known
from ullage.database.migrations.upgrade import NEWEST
from ullage.database.transaction import Database, Transaction
from ullage.oci.digest import Digest, Hasher
from ullage.registry.clients import Caller
from ullage.registry.identity import ADOPTION_GRACE, Label, label_of
from ullage.registry.queries import identity
from ullage.registry.queries.audit import Entry, record
from ullage.registry.queries.facts import set_fact
from ullage.registry.queries.identity import OwnStore
from ullage.registry.queries.quarantine import StoredCopy, quarantine
from ullage.transfer.copy import PIECE_BYTES
from ullage.transfer.facts import PAGE
from ullage.transfer.queries import switch


def choose(folder: Path) -> Backup:
    """The backup in that folder, or the newest whole one below it. Raises BackupFailed."""
    if not folder.is_dir():
        raise BackupFailed(f"there is no folder {folder}")
    found = layout.find_backup(folder)
    if found is not None:
        return found
    if (folder.parent / layout.MARK).exists() and not (folder / layout.MARK).exists():
        raise BackupFailed(
            f"backup {folder.name} is not finished: it has no {layout.DESCRIPTION} - take another"
        )
    whole = [each for each in layout.backups_in(folder) if isinstance(each, Backup)]
    if not whole:
        raise BackupFailed(f"{folder} has no finished backup")
    return whole[-1]


def require_usable(backup: Backup, database_url: str) -> None:
    """Raise BackupFailed unless this program can restore it into such a database."""
    said, name = backup.description, backup.path.name
    if not is_known(said.schema):
        raise BackupFailed(
            f"backup {name} is of a newer version (schema {said.schema}, this is {NEWEST}) - use "
            f"Ullage {said.version}, or a later one"
        )
    dialect = dialect_of(database_url)
    if said.database != dialect:
        way = (
            "name an empty database with --database postgresql://…"
            if dialect == "sqlite"
            else "leave --database out"
        )
        raise BackupFailed(f"backup {name} is of a {said.database} database - {way}")
    for file, expected in (
        (layout.KEYS, said.keys_sha256),
        (FILES[dialect], said.db_sha256),
    ):
        try:
            found = layout.sha256_of(backup.path / file)
        except OSError as error:
            raise BackupFailed(
                f"backup {name} is damaged: {file}: {error.strerror} - take another"
            ) from error
        if found != expected:
            raise BackupFailed(f"backup {name} is damaged: {file} is another file - take another")


class Target(NamedTuple):
    """Where the bytes go. `files` says where the store has them as files, if it does."""

    store: BlobStore
    files: Callable[[str], Path] | None


@dataclass(slots=True)
class _Missing:
    """Blobs whose bytes cannot be put back."""

    known: frozenset[str]
    keeps_going: bool
    blobs: list[StoredCopy] = field(default_factory=list)

    def add(self, blob: StoredCopy, why: str) -> None:
        """Raises BackupFailed unless it was known, or does not matter."""
        if not self.keeps_going and blob.storage_key not in self.known:
            raise BackupFailed(
                f"blob {blob.digest}: {why} (storage key {blob.storage_key}) - take another "
                "backup, or go on with --keep-going, which restores all other blobs"
            )
        self.blobs.append(blob)


class Putting:
    """The bytes of a backup into a store. `missing` are the blobs that stay without."""

    def __init__(
        self,
        backup: Backup,
        target: Target,
        *,
        verify: bool = False,
        link: bool = False,
        keep_going: bool = False,
    ) -> None:
        self._backup = backup
        self._target = target
        self._verify = verify
        self._link = link
        self._missing = _Missing(frozenset(backup.description.damaged), keep_going)
        self.tally = Tally(backup.description.blobs, backup.description.bytes)

    @property
    def missing(self) -> list[StoredCopy]:
        return self._missing.blobs

    def require_bytes(self) -> None:
        """Before anything is made: all bytes are there, by their sizes. Raises BackupFailed."""
        if self._backup.description.storage:
            self._require_in_store()
            return
        wrong = [blob for blob in self._backup.each_blob() if not self._has_size(blob)]
        self._judge(wrong, str(self._backup.blobs))

    def _has_size(self, blob: StoredCopy) -> bool:
        try:
            return self._place(blob).stat().st_size == blob.size
        except FileNotFoundError:
            return False

    def _place(self, blob: StoredCopy) -> Path:
        return blob_place(self._backup.blobs, blob.storage_key)

    def _require_in_store(self) -> None:
        """The bytes were not copied: they have to be where the registry had them."""
        wrong: list[StoredCopy] = []
        shard, there = "", dict[str, int]()
        for blob in self._backup.each_blob():
            if blob.storage_key[:2] != shard:
                shard = blob.storage_key[:2]
                there = self._listed(int(shard, 16))
            if there.get(blob.storage_key) != blob.size:
                wrong.append(blob)
        self._judge(wrong, self._backup.description.storage)
        self._missing.blobs = wrong

    def _listed(self, shard: int) -> dict[str, int]:
        listed = self._target.store.list(shard)
        return {found.key: found.size for found in listed if found.committed and not found.problem}

    def _judge(self, wrong: list[StoredCopy], where: str) -> None:
        unknown = [blob for blob in wrong if blob.storage_key not in self._missing.known]
        if unknown and not self._missing.keeps_going:
            raise BackupFailed(
                f"backup {self._backup.path.name} is damaged: {len(unknown)} of "
                f"{self._backup.description.blobs} blobs are missing in {where}, or cut short (the "
                f"first is {unknown[0].storage_key}) - take another backup, or go on with "
                "--keep-going, which restores all other blobs"
            )

    def run(self) -> Iterator[Tally]:
        """Put all of them there, durably; says how far it is. Raises BackupFailed, OSError."""
        if self._backup.description.storage:
            return
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ullage-restore") as pool:
            keys = self._backup.each_blob()
            while some := list(islice(keys, PAGE)):
                for blob, problem in zip(some, pool.map(self._put, some), strict=True):
                    if problem is not None:
                        self._missing.add(blob, problem)
                    else:
                        self.tally.copied += 1
                        self.tally.copied_bytes += blob.size
                        self.tally.there += 1
                        self.tally.there_bytes += blob.size
                yield self.tally
        if self._target.files is not None:
            for shard in range(SHARD_COUNT):
                layout.sync_folder(self._target.files(f"{shard:02x}".ljust(32, "0")).parent)

    def _put(self, blob: StoredCopy) -> str | None:
        """What is wrong with its bytes; None if they are there."""
        source = self._place(blob)
        try:
            if self._target.files is None:
                self._upload(blob, source)
            else:
                place, digest = self._target.files(blob.storage_key), self._digest(blob)
                bring(source, place, blob.size, digest, link=self._link)
        except NotThere as error:
            return str(error)
        return None

    def _digest(self, blob: StoredCopy) -> Digest | None:
        return blob.digest if self._verify else None

    def _upload(self, blob: StoredCopy, source: Path) -> None:
        """As `bring`, into a store that is no folder; hashed on its way."""
        hasher = Hasher(blob.digest.algorithm)
        try:
            with source.open("rb") as file, self._target.store.begin(blob.storage_key) as append:
                while piece := file.read(PIECE_BYTES):
                    append.write(piece)
                    hasher.update(piece)
                if hasher.digest() == blob.digest:
                    append.commit()
                    return
        except FileNotFoundError:
            raise NotThere("its bytes are missing") from None
        self._target.store.delete([blob.storage_key])
        raise NotThere(f"its bytes are others: {hasher.digest()}")


@contextmanager
def into(place: str) -> Iterator[None]:
    """What goes wrong with what is made at a place, in one line. Raises BackupFailed."""
    try:
        yield
    except StoreFull as error:
        raise BackupFailed(f"no room in {place}: make room there, and run it again") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupFailed(f"no room in {place}: make room there, and run it again") from error
        if error.errno is None:
            raise
        raise BackupFailed(f"{error.filename or place}: {error.strerror}") from error


class Settled(NamedTuple):
    """What was ended because it does not run any more."""

    registry: str
    jobs: int


def settle_down(
    db: Database,
    store: BlobStore,
    url: str,
    backup: Backup,
    missing: list[StoredCopy],
    caller: Caller,
    now: datetime,
    fresh: Callable[[], str],
    *,
    as_copy: bool = False,
) -> Settled:
    """Make the database that of a registry at `url` that goes on from the backup's moment.

    Where the bytes stayed in the store that the registry had, nothing is erased there for a day but
    what is deleted from now on.
    """
    stays = bool(backup.description.storage)
    before = label_of(store) if stays else None
    name = fresh() if before is None else before.store

    def change(tx: Transaction) -> Settled:
        settle.forget_what_ran(tx)
        jobs = settle.cancel_jobs(tx, now)
        if stays:
            # What was given out since, the lost state knows of, and this one does not.
            adoption.disown_key_lines(tx)
            adoption.note_adoption(tx, now, now + ADOPTION_GRACE)
        else:
            switch.end_uploads(tx)
            settle.drop_tombstones(tx)
        _quarantine(tx, missing, now)
        if as_copy:
            set_fact(tx, "id", fresh())
        identity.open_key_line(tx, fresh(), fresh())
        own = identity.own_store(tx)
        former = () if as_copy or name == own.name else (*own.former, own.name)
        identity.set_own_store(tx, OwnStore(name, url, former))
        _audit(tx, backup, caller, now)
        return Settled(str(identity.find_registry_id(tx)), jobs)

    settled = db.write(change)
    line = db.read(identity.key_lines)[-1]
    written = now.isoformat(timespec="seconds")
    store.write_label(str(Label(settled.registry, line.name, line.last, written, name)))
    return settled


def _quarantine(tx: Transaction, missing: list[StoredCopy], now: datetime) -> None:
    for blob in missing:
        quarantine(tx, blob.digest, blob.storage_key, now)


def _audit(tx: Transaction, backup: Backup, caller: Caller, now: datetime) -> None:
    said = backup.description
    entry = Entry(
        now,
        caller.subject,
        caller.address,
        caller.request_id,
        "backup.restore",
        target=backup.path.name,
        detail={"at": said.at, "audit_head": said.audit_head, "registry": said.registry},
    )
    record(tx, [entry])
