"""Making a backup while the registry serves.

    lease      from here on no bytes are erased
    snapshot   one moment of the database, and its storage keys
    bytes      of every key that is not there yet
    lease      still held: everything that the snapshot names was there to be copied
    backup.json, durably: now it is a backup

Nothing that is acknowledged before the snapshot is missing. What is pushed meanwhile is not in it,
what is deleted meanwhile is. docs/design/backup.md.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ullage.backup import layout
from ullage.backup.files import NotThere, bring, digest_on_disk
from ullage.backup.layout import NEW, Backup, BackupFailed, Description, blob_place
from ullage.backup.lease import Lease
from ullage.backup.queries.moment import audit_head, schema_version
from ullage.blobs.protocol import SHARD_COUNT, BlobStore, KeyUnknown
from ullage.database.errors import DatabaseFull
from ullage.database.frozen import SECRETS, Frozen
from ullage.database.migrations.upgrade import NEWEST
from ullage.failpoints import failpoint
from ullage.oci.digest import Hasher
from ullage.registry.queries.quarantine import StoredCopy
from ullage.transfer.copy import PIECE_BYTES, require_source
from ullage.transfer.facts import PAGE, Ask, Facts
from ullage.transfer.queries.copies import sound_blobs

# Blobs that are copied at once: small ones wait for a disk or for a store far away.
AT_ONCE = 4
TICK_SECONDS = 0.2
# Behind every storage key.
_LAST = "g"

Freeze = Callable[[Path, Collection[str]], AbstractContextManager[Frozen]]


class Source(NamedTuple):
    """The registry's store. `files` says where it has bytes as files, if it does."""

    store: BlobStore
    files: Callable[[str], Path] | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a backup is to be like. `storage` is where bytes stay that are not copied, else ""."""

    incremental: bool = False
    verify: bool = False
    link: bool = False
    secrets: bool = True
    storage: str = ""


@dataclass(slots=True)
class Tally:
    """How far the copying of bytes is; sizes in bytes."""

    blobs: int = 0
    bytes: int = 0
    there: int = 0
    there_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    damaged: list[StoredCopy] = field(default_factory=list)


class Made(NamedTuple):
    """A backup that is whole. `removed` are those that were cut off before it."""

    backup: Backup
    tally: Tally
    removed: int


def back_up(
    folder: Path, ask: Ask, freeze: Freeze, source: Source, wishes: Wishes, now: datetime, by: str
) -> Iterator[Tally | Made]:
    """Make a backup in `folder`; says how far it is, then Made. `by` is the version of Ullage.

    Raises BackupFailed, CopyFailed if the source is not the registry's store, what `ask` raises,
    DatabaseUnusable.
    """
    whose = Facts(ask).whose()
    require_source(whose, source.store)
    with _into(folder):
        layout.claim_folder(folder, whose.registry)
        with layout.only_one(folder):
            removed = layout.remove_unfinished(folder)
            path = _new_folder(folder, now)
            try:
                with Lease(ask) as lease:
                    copying = _Copying(folder, ask, source, wishes)
                    said = _snapshot(path, freeze, wishes, copying.tally)
                    failpoint("backup.after_snapshot")
                    if not wishes.storage:
                        yield from copying.run(path)
                    failpoint("backup.before_description")
                    lease.require()
                    description = Description(
                        registry=whose.registry,
                        database="sqlite" if said.file.suffix == ".db" else "postgresql",
                        at=now.isoformat(timespec="seconds"),
                        blobs=copying.tally.blobs,
                        bytes=copying.tally.bytes,
                        schema=said.schema,
                        keys_sha256=said.keys_sha256,
                        db_sha256=layout.sha256_of(said.file),
                        audit_head=said.audit_head,
                        version=by,
                        storage=wishes.storage,
                        secrets=wishes.secrets,
                        damaged=[blob.storage_key for blob in copying.tally.damaged],
                    )
                    layout.write_description(path, description)
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
    yield Made(Backup(path, description), copying.tally, removed)


@contextmanager
def _into(folder: Path) -> Iterator[None]:
    """What goes wrong with the folder, in one line. Raises BackupFailed."""
    full = BackupFailed(
        f"no room in {folder}: the blobs that were copied stay - make room there, and run it again "
        "with --incremental"
    )
    try:
        yield
    except DatabaseFull as error:
        raise full from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full from error
        if error.errno == errno.EXDEV:
            raise BackupFailed(
                f"--link: {folder} is on another file system than the registry's blobs - leave it "
                "out"
            ) from error
        if error.errno is None:
            raise
        raise BackupFailed(f"{error.filename or folder}: {error.strerror}") from error


def _new_folder(folder: Path, now: datetime) -> Path:
    at = now
    while (path := folder / layout.backup_name(at)).exists():
        at += timedelta(seconds=1)
    path.mkdir(mode=0o700)
    return path


class _Snapshot(NamedTuple):
    file: Path
    schema: str
    audit_head: int
    keys_sha256: str


def _snapshot(path: Path, freeze: Freeze, wishes: Wishes, tally: Tally) -> _Snapshot:
    with freeze(path, () if wishes.secrets else SECRETS) as frozen:
        schema = frozen.read(schema_version)
        if schema != NEWEST:
            raise BackupFailed(
                f"the database has schema {schema}, this is {NEWEST} - use the version of Ullage "
                "that the server has"
            )
        keys = _write_keys(frozen, path / layout.KEYS, tally)
        return _Snapshot(frozen.file, schema, frozen.read(audit_head), keys)


def _write_keys(frozen: Frozen, path: Path, tally: Tally) -> str:
    """The keys of all blobs that are not known to be damaged; the digest of the file."""
    hasher, after = hashlib.sha256(), ""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while page := _page(frozen, after):
            after = page[-1].storage_key
            lines = "".join(layout.key_line(blob) for blob in page).encode()
            hasher.update(lines)
            file.write(lines)
            tally.blobs += len(page)
            tally.bytes += sum(blob.size for blob in page)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest()


def _page(frozen: Frozen, after: str) -> list[StoredCopy]:
    return frozen.read(lambda tx: sound_blobs(tx, after, _LAST, PAGE))


class _Copying:
    """The bytes of one backup, into the folder that all share."""

    def __init__(self, folder: Path, ask: Ask, source: Source, wishes: Wishes) -> None:
        self._blobs = folder / layout.BLOBS
        self._facts = Facts(ask)
        self._source = source
        self._wishes = wishes
        self._stop = threading.Event()
        # Of the tally: several threads add to it.
        self._lock = threading.Lock()
        self.tally = Tally()

    def run(self, path: Path) -> Iterator[Tally]:
        """Copy all that is not there, durably; says how far it is. Raises BackupFailed, OSError."""
        self._make_folders()
        with (path / layout.KEYS).open(encoding="ascii") as lines:
            pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ullage-backup")
            try:
                while some := list(islice(lines, PAGE)):
                    blobs = [layout.parse_key_line(line, path) for line in some]
                    yield from self._bring_all(pool, blobs)
            finally:
                # Also where nobody wants to know how it goes on.
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        for folder in self._folders():
            layout.sync_folder(folder)

    def _folders(self) -> list[Path]:
        return [self._blobs / f"{shard:02x}" for shard in range(SHARD_COUNT)]

    def _make_folders(self) -> None:
        self._blobs.mkdir(mode=0o700, exist_ok=True)
        for folder in self._folders():
            folder.mkdir(mode=0o700, exist_ok=True)
        layout.sync_folder(self._blobs)
        layout.sync_folder(self._blobs.parent)

    def _bring_all(self, pool: ThreadPoolExecutor, blobs: list[StoredCopy]) -> Iterator[Tally]:
        waiting: set[Future[None]] = {pool.submit(self._bring, blob) for blob in blobs}
        while waiting:
            done, waiting = wait(waiting, TICK_SECONDS, FIRST_COMPLETED)
            for each in done:
                each.result()
            yield self.tally

    def _bring(self, blob: StoredCopy) -> None:
        target = blob_place(self._blobs, blob.storage_key)
        if self._is_there(blob, target):
            self._count(blob)
            return
        problem = self._copied(blob, target)
        if problem is not None:
            # What looks wrong is read once more: memory errs, too.
            problem = self._copied(blob, target)
        if problem is None:
            self._count(blob, copied=True)
            failpoint("backup.after_blob")
        elif not self._stop.is_set():
            self._facts.damaged(blob, problem)
            with self._lock:
                self.tally.damaged.append(blob)

    def _is_there(self, blob: StoredCopy, target: Path) -> bool:
        """Whether an earlier backup has its bytes: `incremental` believes it, else it is read.

        A copy that was found wrong is removed.
        """
        try:
            if target.stat().st_size == blob.size:
                if self._wishes.incremental:
                    return True
                if digest_on_disk(target, blob.digest.algorithm) == blob.digest:
                    return True
        except FileNotFoundError:
            return False
        target.unlink()
        return False

    def _copied(self, blob: StoredCopy, target: Path) -> str | None:
        """Copy one blob; what is wrong with its bytes, None if it is done."""
        digest = blob.digest if self._wishes.verify else None
        try:
            if self._source.files is None:
                self._download(blob, target)
            else:
                place = self._source.files(blob.storage_key)
                bring(place, target, blob.size, digest, link=self._wishes.link)
        except NotThere as error:
            return str(error)
        return None

    def _download(self, blob: StoredCopy, target: Path) -> None:
        """As `bring`, from a store that is no folder; hashed on its way."""
        new, hasher = target.with_name(target.name + NEW), Hasher(blob.digest.algorithm)
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in self._pieces(blob):
                file.write(piece)
                hasher.update(piece)
            file.flush()
            os.fsync(file.fileno())
        if hasher.length != blob.size or hasher.digest() != blob.digest:
            new.unlink()
            raise NotThere(f"its bytes are others: {hasher.digest()}")
        new.rename(target)

    def _pieces(self, blob: StoredCopy) -> Iterator[bytes]:
        try:
            with self._source.store.open(blob.storage_key, blob.size) as reader:
                offset = 0
                while offset < blob.size and not self._stop.is_set():
                    piece = reader.read_at(offset, min(PIECE_BYTES, blob.size - offset))
                    if not piece:
                        return
                    offset += len(piece)
                    yield piece
        except KeyUnknown:
            raise NotThere("its bytes are missing") from None

    def _count(self, blob: StoredCopy, *, copied: bool = False) -> None:
        with self._lock:
            self.tally.there += 1
            self.tally.there_bytes += blob.size
            if copied:
                self.tally.copied += 1
                self.tally.copied_bytes += blob.size
