"""Copying a registry's blobs into another store, beside pushes and deletions.

A storage key is never used twice, so what is there under a key, complete, is right for ever. Every
blob is hashed while it is read, and committed only if it has its digest. What is removed from the
other store has no row any more; nothing is inferred from a listing.

Source: docs/design/moving.md.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from ullage.blobs.protocol import (
    SHARD_COUNT,
    Append,
    BlobStore,
    KeyUnknown,
    Reader,
    StoredObject,
    StoreFull,
)
from ullage.failpoints import failpoint
from ullage.oci.digest import Digest, Hasher
from ullage.registry.identity import Label, label_of
from ullage.registry.queries.quarantine import StoredCopy
from ullage.transfer.facts import PAGE, Facts, Whose

PIECE_BYTES = 1024 * 1024
# Blobs that are copied at once: small ones wait for a disk or for a store far away.
AT_ONCE = 4
# How often progress is said.
TICK_SECONDS = 0.2
# Another pass follows one that took longer than this, so that little is left to the last one.
SHORT_PASS_SECONDS = 10.0


class CopyFailed(Exception):
    """Why a copy cannot begin or go on, in one line."""


@dataclass(slots=True)
class Tally:
    """What a copy has come to; sizes in bytes."""

    # Of the registry, when it began.
    blobs: int
    bytes: int
    # That are in the other store: some were before.
    there: int = 0
    there_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    # Deleted since they were copied.
    removed: int = 0
    damaged: list[Digest] = field(default_factory=list)


def prepare_target(
    whose: Whose, source: BlobStore, target: BlobStore, fresh: Callable[[], str], written: str
) -> str:
    """Make `target` a copy of the registry's store, if it is none yet; the name that it has.

    Raises CopyFailed if it is another store, or if `source` is not the registry's own.
    """
    require_source(whose, source)
    name = _name_of_copy(whose, target)
    if name is None:
        name = fresh()
        target.write_label(str(Label(whose.registry, whose.line, 0, written, name)))
    return name


def require_target(whose: Whose, source: BlobStore, target: BlobStore) -> None:
    """As `prepare_target`, and change nothing."""
    require_source(whose, source)
    _name_of_copy(whose, target)


def require_source(whose: Whose, source: BlobStore) -> None:
    """Raise CopyFailed unless a store is the one that the registry uses."""
    label = label_of(source)
    if label is None or (label.registry, label.store) != (whose.registry, whose.store):
        raise CopyFailed(
            "the storage that is named is not the one that the registry uses: give the same "
            "--storage as to `ullage serve`"
        )


def _name_of_copy(whose: Whose, target: BlobStore) -> str | None:
    """None for an empty place. Raises CopyFailed."""
    label = label_of(target)
    if label is None:
        if any(found.problem is None for found in target.list()):
            raise CopyFailed("it holds blobs of unknown origin: name an empty place")
        return None
    if label.registry != whose.registry:
        raise CopyFailed(f"it is the storage of registry {label.registry}: name an empty place")
    if label.store == whose.store:
        raise CopyFailed("that is the storage that the registry uses: name another place")
    if label.store in whose.former:
        raise CopyFailed("the registry has moved away from there: name an empty place")
    return label.store


class Copying:
    """One run. `looking`: it says what is to be done, and changes nothing."""

    def __init__(
        self, facts: Facts, source: BlobStore, target: BlobStore, *, looking: bool = False
    ) -> None:
        self._facts = facts
        self._source = source
        self._target = target
        self._looking = looking
        self._stop = threading.Event()
        # Of the tally: several threads add to it.
        self._lock = threading.Lock()
        whose = facts.whose()
        self.tally = Tally(whose.blobs, whose.bytes)

    def passes(self) -> Iterator[Tally]:
        """Pass after pass, until one is short: what remains is little. Says how far it is."""
        while True:
            began, copied = time.monotonic(), self.tally.copied
            yield from self.one_pass()
            short = time.monotonic() - began < SHORT_PASS_SECONDS
            if short or self._looking or self.tally.copied == copied:
                return

    def one_pass(self) -> Iterator[Tally]:
        """Copy all that is not there yet, and remove what is deleted. Raises CopyFailed."""
        self.tally.there = self.tally.there_bytes = 0
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ullage-copy")
        try:
            for shard in range(SHARD_COUNT):
                yield from self._shard(pool, shard)
                yield self.tally
        finally:
            # Also where nobody wants to know how it goes on.
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            self._stop.clear()

    def _shard(self, pool: ThreadPoolExecutor, shard: int) -> Iterator[Tally]:
        there = self._listed(shard)
        after, before = f"{shard:02x}", f"{shard:02x}g"
        while blobs := self._facts.blobs_after(after, before):
            after = blobs[-1].storage_key
            sizes = [there.pop(blob.storage_key, None) for blob in blobs]
            missing = []
            for blob, size in zip(blobs, sizes, strict=True):
                if size == blob.size:
                    self._count(blob)
                else:
                    missing.append(blob)
                    if size is not None and not self._looking:
                        self._forget(blob)
            yield from self._copy_all(pool, missing)
        self._remove_unused(list(there))

    def _listed(self, shard: int) -> dict[str, int]:
        """The sizes of what is complete in the target; what a killed copy had begun goes."""
        with _on_target():
            listed = [found for found in self._target.list(shard) if found.problem is None]
            begun = [found for found in listed if not _is_complete(found)]
            if begun and not self._looking:
                self._target.drop(begun)
        return {found.key: found.size for found in listed if _is_complete(found)}

    def _copy_all(self, pool: ThreadPoolExecutor, blobs: Iterable[StoredCopy]) -> Iterator[Tally]:
        if self._looking:
            for blob in blobs:
                self._count(blob, copied=True)
            return
        waiting: set[Future[None]] = {pool.submit(self._copy, blob) for blob in blobs}
        while waiting:
            done, waiting = wait(waiting, TICK_SECONDS, FIRST_COMPLETED)
            for each in done:
                each.result()
            yield self.tally

    def _copy(self, blob: StoredCopy) -> None:
        problem = self._copy_once(blob)
        if problem is not None:
            # What looks wrong is read once more: memory errs, too.
            problem = self._copy_once(blob)
        if problem is None:
            self._count(blob, copied=True)
        elif not self._stop.is_set() and self._facts.damaged(blob, problem):
            with self._lock:
                self.tally.damaged.append(blob.digest)

    def _copy_once(self, blob: StoredCopy) -> str | None:
        """Copy one blob; what is wrong with its bytes, None if it is done. Raises CopyFailed."""
        try:
            with _on_source(blob), self._source.open(blob.storage_key, blob.size) as reader:
                if reader.size != blob.size:
                    return f"its bytes are others: {reader.size} instead of {blob.size}"
                with _on_target():
                    return self._transfer(blob, reader)
        except _Lost as lost:
            self._forget(blob)
            return f"its bytes {lost}"

    def _transfer(self, blob: StoredCopy, reader: Reader) -> str | None:
        hasher = Hasher(blob.digest.algorithm)
        with self._begun(blob.storage_key) as append:
            while hasher.length < blob.size and not self._stop.is_set():
                with _on_source(blob):
                    piece = reader.read_at(
                        hasher.length, min(PIECE_BYTES, blob.size - hasher.length)
                    )
                if not piece:
                    break
                append.write(piece)
                hasher.update(piece)
                failpoint("copy.after_piece")
            found = hasher.digest()
            if found == blob.digest and hasher.length == blob.size:
                append.commit()
                failpoint("copy.after_commit")
                return None
        self._forget(blob)
        return f"its bytes are others: {found}"

    def _begun(self, key: str) -> Append:
        try:
            return self._target.begin(key)
        except FileExistsError:
            self._target.delete([key])
            return self._target.begin(key)

    def _forget(self, blob: StoredCopy) -> None:
        with _on_target():
            self._target.delete([blob.storage_key])

    def _remove_unused(self, keys: Sequence[str]) -> None:
        """Remove what was deleted since it was copied: after it was listed it had no row."""
        for start in range(0, len(keys), PAGE):
            unused = self._facts.unused(keys[start : start + PAGE])
            if unused and not self._looking:
                with _on_target():
                    self._target.delete(unused)
            self.tally.removed += len(unused)

    def _count(self, blob: StoredCopy, *, copied: bool = False) -> None:
        with self._lock:
            if copied:
                self.tally.copied += 1
                self.tally.copied_bytes += blob.size
            if not (copied and self._looking):
                self.tally.there += 1
                self.tally.there_bytes += blob.size


class _Lost(Exception):
    """Bytes that the source had once and has no more; the text says how."""


def _is_complete(found: StoredObject) -> bool:
    return found.committed and found.place is None


@contextmanager
def _on_source(blob: StoredCopy) -> Iterator[None]:
    try:
        yield
    except KeyUnknown:
        raise _Lost("are missing") from None
    except OSError as error:
        if error.errno == errno.EIO:
            raise _Lost(f"cannot be read: {error}") from error
        raise CopyFailed(f"blob {blob.digest} cannot be read: {error}") from error


@contextmanager
def _on_target() -> Iterator[None]:
    try:
        yield
    except StoreFull as error:
        raise CopyFailed(
            "the new storage is full; what was copied stays: make room there and run this again"
        ) from error
    except (OSError, KeyUnknown) as error:
        raise CopyFailed(f"the new storage failed: {error}") from error
