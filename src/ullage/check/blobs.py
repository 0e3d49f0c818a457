"""Whether the store has what the rows of blobs say: their sizes, and on request their bytes."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from ullage.blobs.protocol import KeyUnknown
from ullage.check.findings import NAMED_IMAGES, Finding, Issue, Mode, done
from ullage.check.queries import images, repairs, rows
from ullage.check.run import Progress, Run
from ullage.oci.digest import Digest, Hasher, parse_digest
from ullage.oci.errors import DigestInvalid
from ullage.registry.queries import quarantine

# Bytes that are hashed at a time.
_PIECE = 1024 * 1024
_QUARANTINED = "quarantined, the next push of it replaces them"


def blobs(run: Run) -> Iterator[Progress]:
    checking = _BlobCheck(run)
    return run.walk(
        "blobs",
        rows.blobs,
        checking.issues,
        names=lambda row: (row.storage_key, row.damaged),
        look=checking.look_at,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the store showed of a blob: None where there is nothing, or where it was not asked."""

    size: int | None = None
    digest: Digest | None = None
    problem: str | None = None
    # The bytes are lost, as opposed to a permission or a disk that is not there now.
    lost: bool = False


class _BlobCheck:
    """One blob after the other: first a look at its bytes, then whether they and its row agree."""

    def __init__(self, run: Run) -> None:
        self._run = run
        # Of the blob that is being checked; None if only the database counts.
        self._seen: _Seen | None = None

    def look_at(self, blob: rows.BlobFacts) -> Iterator[Progress]:
        """Ask the store for the size, and hash the bytes if that is wanted or they look wrong."""
        if self._run.mode is Mode.FAST:
            return
        try:
            self._seen = yield from self._look(blob)
        except (DigestInvalid, ValueError) as error:
            self._seen = _Seen(problem=f"its row makes no sense: {error}")
        except KeyUnknown:
            self._seen = _Seen()
        except OSError as error:
            problem = f"its bytes cannot be read: {error}"
            self._seen = _Seen(problem=problem, lost=error.errno == errno.EIO)

    def _look(self, blob: rows.BlobFacts) -> Generator[Progress, None, _Seen]:
        algorithm = parse_digest(blob.key).algorithm
        size = self._run.registry.blobs.size(blob.storage_key)
        amiss = blob.damaged or size != blob.size
        if size is None or not (amiss or self._run.mode is Mode.DEEP):
            return _Seen(size)
        digest = yield from self._hash(blob.storage_key, size, algorithm)
        return _Seen(size, digest)

    def _hash(
        self, storage_key: str, size: int, algorithm: str
    ) -> Generator[Progress, None, Digest]:
        hasher = Hasher(algorithm)
        with self._run.registry.blobs.open(storage_key, size) as reader:
            while piece := reader.read_at(hasher.length, _PIECE):
                hasher.update(piece)
                self._run.bytes["hashed"] += len(piece)
                yield self._run.progress("blobs")
        return hasher.digest()

    def issues(self, blob: rows.BlobFacts) -> Iterator[Issue]:
        wrong = [
            f"{name} is {stored}, counted {counted}"
            for name, stored, counted in (
                ("manifest_refs", blob.stored_references, blob.counted_references),
                ("repository_count", blob.stored_links, blob.counted_links),
            )
            if stored != counted
        ]
        if wrong:
            yield Issue(
                Finding("I14", "accounting", blob.key, "; ".join(wrong)),
                done(lambda tx: repairs.recount_references(tx, blob.key)),
                trusts_references=True,
            )
        if not blob.linked:
            yield self._unlinked(blob)
        yield from self._byte_issues(blob)

    def _unlinked(self, blob: rows.BlobFacts) -> Issue:
        now = self._run.registry.now()
        due = self._run.registry.due(now)
        message = f"{blob.size} bytes that no repository links would never be given back"
        return Issue(
            Finding("I9", "leak", blob.key, message),
            lambda tx: repairs.condemn_unlinked(tx, blob.key, now, due),
            trusts_references=True,
        )

    def _byte_issues(self, blob: rows.BlobFacts) -> Iterator[Issue]:
        """I2: the store has what the blob's row says."""
        seen = self._seen
        if seen is None:
            if blob.damaged:
                yield _damaged_blob(blob, f"its bytes were found damaged; {_QUARANTINED}")
        elif seen.problem is not None:
            bad = self._bad_bytes if seen.lost else _damaged_blob
            yield bad(blob, seen.problem)
        elif seen.size is None:
            yield self._bad_bytes(blob, f"its {blob.size} bytes are missing")
        elif seen.digest is not None and seen.digest != blob.key:
            sizes = "" if seen.size == blob.size else f"{seen.size} instead of {blob.size}, "
            yield self._bad_bytes(blob, f"its bytes are others: {sizes}{seen.digest}")
        elif seen.digest is not None:
            yield from self._row_issues(blob, seen.size)

    def _row_issues(self, blob: rows.BlobFacts, size: int) -> Iterator[Issue]:
        """The bytes have the digest, so whatever disagrees with them is wrong."""
        if size != blob.size:
            message = f"recorded with {blob.size} bytes; it has {size}, which are right"
            yield replace(
                _damaged_blob(blob, message),
                mend=lambda tx: repairs.correct_size(tx, blob.key, blob.storage_key, size),
            )
        if blob.damaged:
            yield Issue(
                Finding("I2", "warning", blob.key, "quarantined, but its bytes are right"),
                lambda tx: quarantine.lift_quarantine(tx, blob.key, blob.storage_key),
            )

    def _bad_bytes(self, blob: rows.BlobFacts, message: str) -> Issue:
        if blob.damaged:
            return _damaged_blob(blob, f"{message}; {_QUARANTINED}")
        if self._run.store_is_empty:
            return _damaged_blob(blob, f"{message}; the store is empty: is it the right one?")
        if not self._run.store_is_own:
            return _damaged_blob(blob, f"{message}; the store is not this registry's")
        now = self._run.registry.now()
        return replace(
            _damaged_blob(blob, message),
            mend=lambda tx: quarantine.quarantine(tx, blob.key, blob.storage_key, now),
            aftermath=_QUARANTINED,
            at_once=True,
        )


def _damaged_blob(blob: rows.BlobFacts, message: str) -> Issue:
    # By this key a backup of the store has these bytes.
    return Issue(
        Finding("I2", "corruption", blob.key, f"{message}; storage key {blob.storage_key}"),
        images=lambda tx: images.images_with_blob(tx, blob.key, NAMED_IMAGES),
    )
