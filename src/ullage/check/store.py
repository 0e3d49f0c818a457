"""What the check asks the store beside blobs: upload sessions, tombstones, and unknown bytes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from ullage.blobs.protocol import StoredObject, is_key
from ullage.check.findings import KEPT_FINDINGS, WORKER, Finding, Issue, Mode, issue_of
from ullage.check.queries import repairs, rows
from ullage.check.run import BATCH, OVERDUE, Progress, Run
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.deletion.reconcile import UNKNOWN_KEY_GRACE
from ullage.registry.identity import Own, own
from ullage.registry.queries.reclaim import tombstones as tombstones_queries
from ullage.registry.queries.reclaim.backup_leases import backup_runs
from ullage.registry.stored_objects import stored_bytes, unnamed, without_row


def uploads(run: Run) -> Iterator[Progress]:
    return run.walk(
        "uploads", rows.uploads, partial(_upload_issues, run), lambda row: row.storage_key
    )


def _upload_issues(run: Run, upload: rows.UploadFacts) -> Iterator[Issue]:
    subject = f"upload {upload.key}"
    if upload.repository is None:
        yield issue_of("I19", "corruption", subject, "belongs to no repository")
    if upload.same_key_blob is not None:
        message = f"names the bytes of {upload.same_key_blob}"
        yield issue_of("I8", "corruption", subject, message)
    if upload.expires_at < to_micros(run.registry.now() - OVERDUE):
        message = f"should have been ended more than an hour ago{WORKER}"
        yield issue_of("I18", "leak", subject, message)
    if run.mode is not Mode.FAST:
        yield from _uploaded_issues(run, upload, subject)


def _uploaded_issues(run: Run, upload: rows.UploadFacts, subject: str) -> Iterator[Issue]:
    try:
        size = stored_bytes(run.registry.blobs, upload.storage_key, upload.state) or 0
    except ValueError as error:
        yield issue_of("I17", "corruption", subject, f"its row makes no sense: {error}")
    except OSError as error:
        yield issue_of("I17", "corruption", subject, f"its bytes cannot be read: {error}")
    else:
        if size < upload.offset:
            message = f"{upload.offset} bytes were acknowledged, {size} are stored"
            yield issue_of("I17", "corruption", subject, message)


def tombstones(run: Run) -> Iterator[Progress]:
    return run.walk("tombstones", rows.tombstones, partial(_tombstone_issues, run))


def _tombstone_issues(run: Run, tombstone: rows.TombstoneFacts) -> Iterator[Issue]:
    subject = f"tombstone {tombstone.key}"
    user = tombstone.same_key_blob or tombstone.same_key_upload
    if user is not None:
        yield issue_of("I12", "corruption", subject, f"its bytes are in use, by {user}")
    if not is_key(tombstone.key):
        yield issue_of("I13", "leak", subject, "is no storage key, so it can never be done")
    elif _is_late(tombstone, run.registry.now()) and not _waits_for_backup(run):
        message = f"{tombstone.size} bytes should have been erased more than an hour ago"
        tried = f"; {tombstone.attempts} attempts failed, the server's log says why"
        message += tried if tombstone.attempts else WORKER
        yield issue_of("I13", "leak", subject, message)
    # An upload that was cancelled may still be written to, so only a blob's bytes are compared.
    if run.mode is not Mode.FAST and is_key(tombstone.key) and tombstone.digest is not None:
        yield from _buried_issues(run, tombstone, subject)


def _waits_for_backup(run: Run) -> bool:
    now = run.registry.now()
    return run.registry.read(lambda tx: backup_runs(tx, now))


def _is_late(tombstone: rows.TombstoneFacts, now: datetime) -> bool:
    """Whether its bytes should be gone by now, and nothing is erasing them at this moment."""
    claimed = tombstone.claimed_until is not None and tombstone.claimed_until > to_micros(now)
    return tombstone.due_at < to_micros(now - OVERDUE) and not claimed


def _buried_issues(run: Run, tombstone: rows.TombstoneFacts, subject: str) -> Iterator[Issue]:
    try:
        size = run.registry.blobs.size(tombstone.key)
    except OSError:
        # Whatever it is, it only waits to be erased; if that fails, I13 says so.
        return
    # None: they are erased already, and the row is about to go.
    if size is not None and size != tombstone.size:
        recorded = tombstone.size
        yield Issue(
            Finding("I15", "accounting", subject, f"recorded {recorded} bytes, has {size}"),
            lambda tx: repairs.correct_tombstone(tx, tombstone.key, recorded, size),
        )


def objects(run: Run) -> Iterator[Progress]:
    """Everything in the store is something that a row names, and nothing else."""
    odd: dict[tuple[str, str], StoredObject] = {}
    proofs = run.registry.read(own)
    listing = iter(run.registry.blobs.list())
    while some := list(islice(listing, BATCH)):
        run.checked["objects"] += len(some)
        run.bytes["stored"] += sum(found.size for found in some)
        for found in some:
            if found.problem is not None and len(odd) < KEPT_FINDINGS:
                odd[found.key, found.problem] = found
        sound = [each for each in some if each.problem is None]
        unknown = unnamed(run.registry, sound)
        run.bytes["unknown"] += sum(found.size for found in unknown)
        run.record([_unnamed_issue(run, proofs, found) for found in unknown])
        yield run.progress("objects")
    _record_odd(run, odd)


def _unnamed_issue(run: Run, proofs: Own, found: StoredObject) -> Issue:
    """I8: an object that no row names; I34: parts of an upload that none does."""
    now = run.registry.now()
    if found.place is None:
        invariant, subject = "I8", f"object {found.key}"
        message = f"{found.size} bytes that nothing in the database names"
    else:
        invariant, subject = "I34", f"parts of {found.key}"
        message = f"{found.size} bytes of an upload that no session goes on with, {found.place}"
    if not proofs.wrote(found.key):
        message = f"{found.size} bytes that this database never wrote, of another one; kept"
        return issue_of(invariant, "leak", subject, message)
    if proofs.just_adopted(now):
        message += "; left alone for a day after the database took over the storage"
        return issue_of(invariant, "leak", subject, message)
    if now - datetime.fromtimestamp(found.modified, UTC) <= UNKNOWN_KEY_GRACE:
        hours = UNKNOWN_KEY_GRACE.total_seconds() / 3600
        message += f"; left alone until it is {hours:.0f} h old"
        return issue_of(invariant, "leak", subject, message)
    finding = Finding(invariant, "leak", subject, message)
    if found.place is not None:
        return Issue(finding, clear=lambda: _drop(run, found), trusts_references=True)
    return Issue(finding, lambda tx: _bury(tx, run, found, now), trusts_references=True)


def _bury(tx: Transaction, run: Run, found: StoredObject, now: datetime) -> bool:
    if not without_row(tx, run.registry, [found]):
        return False
    tombstones_queries.bury(tx, 0, found.key, found.size, now)
    return True


def _drop(run: Run, found: StoredObject) -> bool:
    left = unnamed(run.registry, [found])
    run.registry.blobs.drop(left)
    return bool(left)


def _record_odd(run: Run, odd: dict[tuple[str, str], StoredObject]) -> None:
    if not odd:
        return
    again = {(found.key, found.problem) for found in run.registry.blobs.list()}
    for key, found in odd.items():
        if key in again:
            run.found("I30", "hygiene", f"store entry {found.key}", str(found.problem))
