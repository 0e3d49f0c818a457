"""Is everything as it should be? The invariants of docs/reference/check.md, verified and mended.

The check runs beside pushes and deletions and never stops them. It looks at rows page by page, each
page in one snapshot, and asks the store about their bytes outside of any transaction. So what it
sees may be outdated when it judges it; therefore every suspect is looked at again before it counts:

- A fact of the database alone is judged again in a later snapshot.
- Bytes that are missing or wrong count if the row that names them is still there *afterwards*: rows
  are written after their bytes and removed before them, and no storage key is used twice.
- Bytes that nobody knows count if no row names them *after* they were seen to be there.

Mending is limited to steps that cannot lose anything, each in a transaction that looks once more.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Protocol, TypeVar

from ullage.blobs import KeyUnknown, StoredObject, is_key
from ullage.metadata import inspect, reclaim, uploads
from ullage.metadata.database import Transaction, chunks
from ullage.metadata.errors import DatabaseBroken, DatabaseBusy, DatabaseUnusable
from ullage.metadata.inspect import After, Only, Which
from ullage.metadata.moments import moment
from ullage.oci.digest import Digest, Hasher, parse_digest
from ullage.oci.errors import DigestInvalid, StorageFull, Unavailable
from ullage.services import Registry, softdelete
from ullage.services.findings import (
    DAMAGE,
    KEPT_FINDINGS,
    KINDS,
    NAMED_IMAGES,
    REFERENCES,
    WORKER,
    Finding,
    Issue,
    Mode,
    Report,
    Severity,
    done,
    issue_of,
    render,
)
from ullage.services.judging import (
    judge_empty,
    judge_jobless,
    judge_kept,
    judge_late_operation,
    judge_link,
    judge_manifest,
    judge_overdue,
    judge_ownerless,
    judge_repository,
    judge_stalled,
    judge_tag,
)
from ullage.services.reclaim import UNKNOWN_KEY_GRACE

__all__ = [
    "CheckImpossible",
    "Finding",
    "Mode",
    "Progress",
    "Report",
    "Severity",
    "check",
    "render",
    "run_check",
]

# Rows, and entries of the store's listing, that are looked at together.
BATCH = 1000
# Bytes that are hashed at a time.
_PIECE = 1024 * 1024
# What is mended in one transaction; pushes on SQLite wait for it.
_MENDED_TOGETHER = 100
# The worker is late when something has been due for this long.
OVERDUE = timedelta(hours=1)


class CheckImpossible(Exception):
    """The database or the store did not answer, so there is no telling. The text says which."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check has come: `done` of about `total` things of this kind; None if not known."""

    stage: str
    done: int
    total: int | None
    hashed_bytes: int


def check(
    registry: Registry,
    mode: Mode,
    *,
    repair: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Verify the registry while it works, and mend what can be mended safely if `repair`.

    Exit codes: 0 nothing found; 1 something that does no harm, or that was mended; 2 damage.
    Raises CheckImpossible.
    """
    running = _Check(registry, mode, repair)
    for step in running.steps():
        if progress is not None:
            progress(step)
    return running.report()


def run_check(registry: Registry, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The check as an answer to `{"mode": "fast" | "default" | "deep", "repair": bool}`.

    Yields {"progress": …} now and then, and at the end the report, or {"error": text} if the check
    is impossible. Raises ValueError for another request.
    """
    mode, repair = Mode(request.get("mode", "default")), request.get("repair", False)
    if not isinstance(repair, bool):
        raise ValueError(f"repair: {repair!r} - expected true or false")
    running = _Check(registry, mode, repair)
    said = time.monotonic()
    try:
        for step in running.steps():
            if time.monotonic() - said >= 0.2:
                said = time.monotonic()
                yield {"progress": asdict(step)}
    except CheckImpossible as error:
        yield {"error": str(error)}
    else:
        yield running.report().to_json()


# --- the check ------------------------------------------------------------------------------------


class _Row(Protocol):
    @property
    def key(self) -> Any: ...


R = TypeVar("R", bound=_Row)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the store showed of a blob: None where there is nothing, or where nobody looked."""

    size: int | None = None
    digest: Digest | None = None
    problem: str | None = None
    # There is no getting at the bytes, as opposed to a permission or a disk that is not there now.
    lost: bool = False


def _ready(row: object) -> Iterator[Progress]:
    """Nothing to look at before this row is judged."""
    return iter(())


class _Check:
    """One run. `steps` does the work."""

    def __init__(self, registry: Registry, mode: Mode, repair: bool) -> None:
        self._registry = registry
        self._mode = mode
        self._repair = repair
        self._findings: list[Finding] = []
        self._kept: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._repaired = 0
        self._mendable = 0
        self._damaged = False
        self._references_damaged = False
        self._checked: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._expected: dict[str, int] = {}
        self._store_is_empty = False
        # Of the blob that is being judged; None if only the database counts.
        self._seen: _Seen | None = None
        self._started = time.monotonic()

    def report(self) -> Report:
        harmless = 1 if self._counts else 0
        return Report(
            mode=self._mode,
            repair=self._repair,
            findings=tuple(self._findings),
            omitted=self._counts.total() - len(self._findings),
            counts=dict(self._counts),
            repaired=self._repaired,
            mendable=self._mendable,
            checked={kind: self._checked[kind] for kind in KINDS},
            bytes=dict(self._bytes),
            seconds=round(time.monotonic() - self._started, 3),
            exit_code=2 if self._damaged else harmless,
        )

    def steps(self) -> Iterator[Progress]:
        """Do all of it, telling now and then how far it is. Raises CheckImpossible."""
        # What references say comes first, because it decides what may be mended later; counters
        # come last, because mending changes what they count.
        stages = [
            self._integrity,
            self._survey,
            self._manifests,
            self._tags,
            self._links,
            self._blobs,
            self._uploads,
            self._tombstones,
            self._forgotten,
            self._jobs,
            self._operations,
            self._objects,
            self._counters,
        ]
        if self._mode is Mode.FAST:
            stages.remove(self._objects)
        with _check_errors():
            for stage in stages:
                try:
                    yield from stage()
                except DatabaseUnusable as error:
                    self._found("I29", "corruption", "the database", str(error))
        if self._repaired:
            self._registry.wake()

    # --- walking ---

    def _walk(
        self,
        kind: str,
        fetch: Callable[[Transaction, Which[Any]], Sequence[R]],
        judge: Callable[[R], Iterator[Issue]],
        names: Callable[[R], object] = lambda row: None,
        look: Callable[[R], Iterator[Progress]] = _ready,
    ) -> Iterator[Progress]:
        """Judge every row, having had a `look` at its bytes.

        `names` is what must still be the same afterwards for the judgement to stand.
        """
        after = None
        while rows := self._fetch(fetch, After(after, BATCH)):
            after = rows[-1].key
            suspects = []
            for row in rows:
                yield from look(row)
                if any(True for _ in judge(row)):
                    suspects.append(row.key)
                self._checked[kind] += 1
            if suspects:
                yield from self._confirm(suspects, fetch, judge, names, look)
            yield self._progress(kind)

    def _confirm(
        self,
        keys: Sequence[Any],
        fetch: Callable[[Transaction, Which[Any]], Sequence[R]],
        judge: Callable[[R], Iterator[Issue]],
        names: Callable[[R], object],
        look: Callable[[R], Iterator[Progress]],
    ) -> Iterator[Progress]:
        judged = []
        for row in self._fetch(fetch, Only(keys)):
            yield from look(row)
            judged.append((row, list(judge(row))))
        there = {row.key: names(row) for row in self._fetch(fetch, Only(keys))}
        self._record(
            [
                issue
                for row, issues in judged
                if row.key in there and there[row.key] == names(row)
                for issue in issues
            ]
        )

    def _fetch(
        self, fetch: Callable[[Transaction, Which[Any]], Sequence[R]], which: Which[Any]
    ) -> Sequence[R]:
        return self._registry.snapshot(lambda tx: fetch(tx, which))

    def _progress(self, stage: str) -> Progress:
        return Progress(
            stage, self._checked[stage], self._expected.get(stage), self._bytes["hashed"]
        )

    # --- recording and mending ---

    def _found(self, invariant: str, severity: Severity, subject: str, message: str) -> None:
        self._record([issue_of(invariant, severity, subject, message)])

    def _record(self, issues: Sequence[Issue]) -> None:
        for issue in issues:
            if issue.finding.severity in DAMAGE and issue.finding.invariant in REFERENCES:
                self._references_damaged = True
        for some in chunks(issues, _MENDED_TOGETHER):
            outcome = self._mend(some) if self._repair else [False] * len(some)
            for issue, mended in zip(some, outcome, strict=True):
                self._keep(issue, mended)

    def _mend(self, issues: Sequence[Issue]) -> list[bool]:
        """Mend what can be, in one transaction; what was mended."""
        wanted = [None if self._is_withheld(issue) else issue.mend for issue in issues]
        if not any(wanted):
            return [False] * len(wanted)
        return self._registry.write(
            lambda tx: [mend is not None and mend(tx) for mend in wanted], freeing=True
        )

    def _is_withheld(self, issue: Issue) -> bool:
        return issue.trusts_references and self._references_damaged

    def _keep(self, issue: Issue, mended: bool) -> None:
        finding = issue.finding
        if mended and issue.aftermath is not None:
            finding = replace(finding, message=f"{finding.message}; {issue.aftermath}")
        elif mended:
            finding = replace(finding, repaired=True)
        elif self._repair and self._is_withheld(issue):
            finding = replace(finding, message=f"{finding.message}{_NOT_WHILE_DAMAGED}")
        self._counts[finding.severity] += 1
        self._repaired += finding.repaired
        self._mendable += issue.mend is not None and not mended and not self._is_withheld(issue)
        self._damaged |= finding.severity in DAMAGE and not finding.repaired
        self._kept[finding.invariant] += 1
        if self._kept[finding.invariant] <= KEPT_FINDINGS:
            if issue.images is not None:
                named, count = self._registry.read(issue.images)
                finding = replace(finding, affected=tuple(named), affected_count=count)
            self._findings.append(finding)

    # --- the database ---

    def _integrity(self) -> Iterator[Progress]:
        problems = self._registry.db.integrity_problems()
        if problems:
            # Like everything else, only what is found twice.
            again = set(self._registry.db.integrity_problems())
            for problem, times in Counter(problems).items():
                if problem in again:
                    message = problem if times == 1 else f"{problem} ({times} times)"
                    self._found("I29", "corruption", "the database", message)
        yield Progress("integrity", 1, 1, 0)

    def _survey(self) -> Iterator[Progress]:
        totals = self._registry.read(inspect.stored_totals)
        self._expected = {"manifests": totals["manifest_count"], "blobs": totals["blob_count"]}
        if self._mode is not Mode.FAST:
            objects = self._registry.blobs.list()
            self._store_is_empty = all(found.problem is not None for found in objects)
        yield Progress("survey", 1, 1, 0)

    def _manifests(self) -> Iterator[Progress]:
        return self._walk("manifests", inspect.manifests, judge_manifest)

    def _tags(self) -> Iterator[Progress]:
        return self._walk("tags", inspect.tags, judge_tag)

    def _links(self) -> Iterator[Progress]:
        """Rows that refer to rows that are not there. The database's foreign keys forbid them."""
        yield from self._walk("broken links", inspect.broken_links, judge_link)
        for fetch in (inspect.ownerless_references, inspect.ownerless_children):
            yield from self._walk("broken links", fetch, judge_ownerless)
        self._checked["links"] = self._registry.read(inspect.count_links)

    def _forgotten(self) -> Iterator[Progress]:
        """Links that nobody needs are reviewed when their lease ends, and the worker is in time."""

        def overdue(tx: Transaction, which: Which[Any]) -> Sequence[inspect.LinkFacts]:
            return inspect.overdue_reviews(tx, which, self._registry.now() - OVERDUE)

        yield from self._walk("forgotten links", inspect.forgotten_links, self._judge_forgotten)
        yield from self._walk("overdue reviews", overdue, judge_overdue)

    def _jobs(self) -> Iterator[Progress]:
        def stalled(tx: Transaction, which: Which[Any]) -> Sequence[inspect.JobFacts]:
            return inspect.stalled_jobs(tx, which, self._registry.now() - OVERDUE)

        yield from self._walk("jobs", inspect.jobless_items, judge_jobless)
        yield from self._walk("jobs", stalled, judge_stalled)

    def _operations(self) -> Iterator[Progress]:
        """What was deleted softly is hidden, belongs to an operation, and is freed in time."""
        policy = self._registry.read(softdelete.find_policy)

        def overdue(tx: Transaction, which: Which[Any]) -> Sequence[inspect.OperationFacts]:
            days = timedelta(days=policy.days)
            return inspect.overdue_operations(tx, which, self._registry.now() - days - OVERDUE)

        yield from self._walk("operations", inspect.odd_kept, judge_kept)
        yield from self._walk("operations", inspect.empty_operations, judge_empty)
        yield from self._walk("operations", overdue, judge_late_operation)

    def _judge_forgotten(self, link: inspect.LinkFacts) -> Iterator[Issue]:
        if link.repository is None or link.size is None:
            return
        repository_id, digest = link.key
        now = self._registry.now()

        def requeue(tx: Transaction) -> bool:
            if not inspect.forgotten_links(tx, Only([link.key])):
                return False
            reclaim.schedule_review(tx, repository_id, Digest(digest), now)
            return True

        message = f"{link.size} bytes that no manifest needs would never be given back"
        finding = Finding("I9", "leak", f"{link.repository} blob {digest}", message)
        yield Issue(finding, requeue, trusts_references=True)

    def _counters(self) -> Iterator[Progress]:
        yield from self._walk("repositories", inspect.repositories, judge_repository)
        # Twice, like everything else. While others push, only the difference stays the same.
        first = self._drift()
        drift = self._drift() if any(first.values()) else {}
        for name, difference in drift.items():
            if difference and first[name] == difference:
                message = f"is {abs(difference)} too {'high' if difference > 0 else 'low'}"
                finding = Finding("I14", "accounting", f"counter {name}", message)
                self._record([Issue(finding, _recount_totals)])
        yield Progress("counters", 1, 1, self._bytes["hashed"])

    def _drift(self) -> dict[str, int]:
        """By how much each registry-wide counter is wrong."""

        def compare(tx: Transaction) -> dict[str, int]:
            stored, counted = inspect.stored_totals(tx), inspect.counted_totals(tx)
            self._bytes["blobs"] = counted["blob_bytes"]
            self._bytes["uploads"] = uploads.uploading_bytes(tx)
            self._bytes["pending"] = counted["pending_bytes"]
            return {name: stored[name] - counted[name] for name in stored}

        return self._registry.snapshot(compare)

    # --- the store ---

    def _blobs(self) -> Iterator[Progress]:
        return self._walk(
            "blobs",
            inspect.blobs,
            self._judge_blob,
            names=lambda row: (row.storage_key, row.damaged),
            look=self._look_at_blob,
        )

    def _look_at_blob(self, blob: inspect.BlobFacts) -> Iterator[Progress]:
        """Ask the store for the size, and hash the bytes if that is wanted or they look wrong."""
        if self._mode is Mode.FAST:
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

    def _look(self, blob: inspect.BlobFacts) -> Generator[Progress, None, _Seen]:
        algorithm = parse_digest(blob.key).algorithm
        size = self._registry.blobs.size(blob.storage_key)
        amiss = blob.damaged or size != blob.size
        if size is None or not (amiss or self._mode is Mode.DEEP):
            return _Seen(size)
        digest = yield from self._hash(blob.storage_key, algorithm)
        return _Seen(size, digest)

    def _hash(self, storage_key: str, algorithm: str) -> Generator[Progress, None, Digest]:
        hasher = Hasher(algorithm)
        with self._registry.blobs.open(storage_key) as reader:
            while piece := reader.read_at(hasher.length, _PIECE):
                hasher.update(piece)
                self._bytes["hashed"] += len(piece)
                yield self._progress("blobs")
        return hasher.digest()

    def _judge_blob(self, blob: inspect.BlobFacts) -> Iterator[Issue]:
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
                done(lambda tx: inspect.recount_references(tx, blob.key)),
                trusts_references=True,
            )
        if not blob.linked:
            yield self._unlinked(blob)
        yield from self._judge_bytes(blob)

    def _unlinked(self, blob: inspect.BlobFacts) -> Issue:
        due_at = self._registry.now() + self._registry.limits.read_grace
        message = f"{blob.size} bytes that no repository links would never be given back"
        return Issue(
            Finding("I9", "leak", blob.key, message),
            lambda tx: inspect.condemn_unlinked(tx, blob.key, due_at),
            trusts_references=True,
        )

    def _judge_bytes(self, blob: inspect.BlobFacts) -> Iterator[Issue]:
        """I2: the store holds what the blob's row says."""
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
            yield from self._judge_right_bytes(blob, seen.size)

    def _judge_right_bytes(self, blob: inspect.BlobFacts, size: int) -> Iterator[Issue]:
        """The bytes have the digest, so whatever disagrees with them is wrong."""
        if size != blob.size:
            message = f"recorded with {blob.size} bytes; it has {size}, which are right"
            yield replace(
                _damaged_blob(blob, message),
                mend=lambda tx: inspect.correct_size(tx, blob.key, blob.storage_key, size),
            )
        if blob.damaged:
            yield Issue(
                Finding("I2", "warning", blob.key, "quarantined, but its bytes are right"),
                lambda tx: inspect.lift_quarantine(tx, blob.key, blob.storage_key),
            )

    def _bad_bytes(self, blob: inspect.BlobFacts, message: str) -> Issue:
        if blob.damaged:
            return _damaged_blob(blob, f"{message}; {_QUARANTINED}")
        if self._store_is_empty:
            return _damaged_blob(blob, f"{message}; the store is empty: is it the right one?")
        now = self._registry.now()
        return replace(
            _damaged_blob(blob, message),
            mend=lambda tx: inspect.quarantine(tx, blob.key, blob.storage_key, now),
            aftermath=_QUARANTINED,
        )

    def _uploads(self) -> Iterator[Progress]:
        return self._walk(
            "uploads", inspect.uploads, self._judge_upload, lambda row: row.storage_key
        )

    def _judge_upload(self, upload: inspect.UploadFacts) -> Iterator[Issue]:
        subject = f"upload {upload.key}"
        if upload.repository is None:
            yield issue_of("I19", "corruption", subject, "belongs to no repository")
        if upload.same_key_blob is not None:
            message = f"names the bytes of {upload.same_key_blob}"
            yield issue_of("I8", "corruption", subject, message)
        if upload.expires_at < moment(self._registry.now() - OVERDUE):
            message = f"should have been ended more than an hour ago{WORKER}"
            yield issue_of("I18", "leak", subject, message)
        if self._mode is not Mode.FAST:
            yield from self._judge_uploaded(upload, subject)

    def _judge_uploaded(self, upload: inspect.UploadFacts, subject: str) -> Iterator[Issue]:
        try:
            size = self._registry.blobs.size(upload.storage_key) or 0
        except ValueError as error:
            yield issue_of("I17", "corruption", subject, f"its row makes no sense: {error}")
        except OSError as error:
            yield issue_of("I17", "corruption", subject, f"its bytes cannot be read: {error}")
        else:
            if size < upload.offset:
                message = f"{upload.offset} bytes were acknowledged, {size} are stored"
                yield issue_of("I17", "corruption", subject, message)

    def _tombstones(self) -> Iterator[Progress]:
        return self._walk("tombstones", inspect.tombstones, self._judge_tombstone)

    def _judge_tombstone(self, tombstone: inspect.TombstoneFacts) -> Iterator[Issue]:
        subject = f"tombstone {tombstone.key}"
        user = tombstone.same_key_blob or tombstone.same_key_upload
        if user is not None:
            yield issue_of("I12", "corruption", subject, f"its bytes are in use, by {user}")
        if not is_key(tombstone.key):
            yield issue_of("I13", "leak", subject, "is no storage key, so it can never be done")
        elif tombstone.due_at < moment(self._registry.now() - OVERDUE):
            message = f"{tombstone.size} bytes should have been erased more than an hour ago"
            tried = f"; {tombstone.attempts} attempts failed, the server's log says why"
            message += tried if tombstone.attempts else WORKER
            yield issue_of("I13", "leak", subject, message)
        # An upload that was cancelled may still be written to, so only a blob's bytes are compared.
        if self._mode is not Mode.FAST and is_key(tombstone.key) and tombstone.digest is not None:
            yield from self._judge_buried(tombstone, subject)

    def _judge_buried(self, tombstone: inspect.TombstoneFacts, subject: str) -> Iterator[Issue]:
        try:
            size = self._registry.blobs.size(tombstone.key)
        except OSError:
            # Whatever it is, it only waits to be erased; if that fails, I13 tells.
            return
        # None: they are erased already, and the row is about to go.
        if size is not None and size != tombstone.size:
            recorded = tombstone.size
            yield Issue(
                Finding("I15", "accounting", subject, f"recorded {recorded} bytes, has {size}"),
                lambda tx: inspect.correct_tombstone(tx, tombstone.key, recorded, size),
            )

    def _objects(self) -> Iterator[Progress]:
        """Everything in the store is something that a row names, and nothing else."""
        odd: dict[tuple[str, str], StoredObject] = {}
        listing = iter(self._registry.blobs.list())
        while some := list(islice(listing, BATCH)):
            self._checked["objects"] += len(some)
            self._bytes["stored"] += sum(found.size for found in some)
            for found in some:
                if found.problem is not None and len(odd) < KEPT_FINDINGS:
                    odd[found.key, found.problem] = found
            self._judge_unknown(self._unknown([each for each in some if each.problem is None]))
            yield self._progress("objects")
        self._judge_odd(odd)

    def _unknown(self, objects: Sequence[StoredObject]) -> list[StoredObject]:
        """Those that no row names now. One snapshot, for a key moves from row to row."""
        keys = [found.key for found in objects]
        known = self._registry.snapshot(lambda tx: reclaim.known_keys(tx, keys))
        return [found for found in objects if found.key not in known]

    def _judge_unknown(self, suspects: Sequence[StoredObject]) -> None:
        size = self._registry.blobs.size
        # Their rows would have gone after them, so those that are still there never had one.
        unknown = [found for found in suspects if size(found.key) is not None]
        self._bytes["unknown"] += sum(found.size for found in unknown)
        self._record([self._unknown_object(found) for found in unknown])

    def _unknown_object(self, found: StoredObject) -> Issue:
        now = self._registry.now()
        message = f"{found.size} bytes that nothing in the database names"
        if now - datetime.fromtimestamp(found.modified, UTC) <= UNKNOWN_KEY_GRACE:
            hours = UNKNOWN_KEY_GRACE.total_seconds() / 3600
            message += f"; left alone until it is {hours:.0f} h old"
            return issue_of("I8", "leak", f"object {found.key}", message)

        def bury(tx: Transaction) -> bool:
            if reclaim.known_keys(tx, [found.key]):
                return False
            reclaim.bury(tx, 0, found.key, found.size, now)
            return True

        finding = Finding("I8", "leak", f"object {found.key}", message)
        return Issue(finding, bury, trusts_references=True)

    def _judge_odd(self, odd: dict[tuple[str, str], StoredObject]) -> None:
        if not odd:
            return
        again = {(found.key, found.problem) for found in self._registry.blobs.list()}
        for key, found in odd.items():
            if key in again:
                self._found("I30", "hygiene", f"store entry {found.key}", str(found.problem))


_QUARANTINED = "quarantined, the next push of it replaces them"
_NOT_WHILE_DAMAGED = "; kept while references are damaged"


def _damaged_blob(blob: inspect.BlobFacts, message: str) -> Issue:
    # The key is what a backup of the store calls these bytes.
    return Issue(
        Finding("I2", "corruption", blob.key, f"{message}; storage key {blob.storage_key}"),
        images=lambda tx: inspect.images_with_blob(tx, blob.key, NAMED_IMAGES),
    )


_recount_totals = done(inspect.recount_totals)


@contextmanager
def _check_errors() -> Iterator[None]:
    try:
        yield
    except (Unavailable, StorageFull, DatabaseBusy, DatabaseBroken) as error:
        raise CheckImpossible(f"the database: {error}") from error
    except OSError as error:
        raise CheckImpossible(f"the blob store: {error}") from error
