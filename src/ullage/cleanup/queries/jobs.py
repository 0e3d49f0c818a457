"""Jobs: long work that is done in many small transactions, and what each of them is about.

A worker on a job has a claim that expires, so that another process goes on with it when the
first one dies; every transaction that works on it renews the claim, and so locks the job's row.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import cleaning, content
from ullage.database.setters import Setters
from ullage.database.statements import LIMIT, Statement, among, beginning, given, range_of
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Row, Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries.processes import free

_jobs = cleaning.jobs
_items = cleaning.job_items

# An image goes whatever tags it has, a manifest only while nothing leads to it; what goes along
# goes with one of these.
ItemKind = Literal["tag", "manifest", "image", "along"]


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as it stands. `findings` is what planning found, and what there is to say at the end.

    `position` is the last item that was dealt with. `failures` counts attempts that failed since
    something was done last.
    """

    id: str
    kind: str
    state: str
    subject: str
    address: str
    request_id: str
    created_at: datetime
    finished_at: datetime | None
    request: dict[str, Any]
    findings: dict[str, Any]
    position: int
    tag_count: int
    manifest_count: int
    tags_deleted: int
    manifests_deleted: int
    freed_bytes: int
    leased_bytes: int
    cancelled: bool
    failures: int


_COLUMNS = tuple(JobRow.__dataclass_fields__)


class Item(NamedTuple):
    """One tag or manifest that a job is about, as it was when it was chosen.

    `digest` is what a tag pointed to. An item that goes `along` goes with one before it.
    """

    repository_id: int
    repository: RepositoryName
    kind: ItemKind
    tag: Tag | None
    digest: Digest
    manifest_id: int
    seen_at: datetime


class PlacedItem(NamedTuple):
    """An item with its place in the job, and what became of it."""

    position: int
    item: Item
    outcome: str | None
    reason: str | None


# --- jobs -----------------------------------------------------------------------------------------


_INSERT = Statement.insert(
    _jobs,
    (
        "id",
        "kind",
        "state",
        "subject",
        "address",
        "request_id",
        "created_at",
        "request",
        "findings",
    ),
)


def insert(
    tx: Transaction,
    job_id: str,
    kind: str,
    *,
    subject: str,
    address: str,
    request_id: str,
    request: Mapping[str, Any],
    now: datetime,
) -> None:
    """A job that waits for a worker."""
    tx.change(
        _INSERT,
        id=job_id,
        kind=kind,
        state="queued",
        subject=subject,
        address=address,
        request_id=request_id,
        created_at=to_micros(now),
        request=json.dumps(request),
        findings="{}",
    )


_THIS_ONE = _jobs.c.id == bindparam("job_id")
_OPEN = _jobs.c.finished_at.is_(None)
_ROWS = sa.select(*(_jobs.c[name] for name in _COLUMNS))
_FIND = Statement(_ROWS.where(_THIS_ONE))
_BEHIND = sa.or_(
    _jobs.c.created_at < bindparam("at", type_=sa.BigInteger),
    sa.and_(
        _jobs.c.created_at == bindparam("at", type_=sa.BigInteger),
        _jobs.c.id > bindparam("id", type_=sa.Text),
    ),
)
_NEWEST = Statement(
    _ROWS.where(_BEHIND).order_by(_jobs.c.created_at.desc(), _jobs.c.id).limit(LIMIT)
)
_OF_KIND = sa.or_(bindparam("kind", type_=sa.Text).is_(None), given(_jobs, "kind"))
_COUNT_OPEN = Statement(sa.select(sa.func.count()).select_from(_jobs).where(_OPEN, _OF_KIND))
_COUNT_OPEN_OF = Statement(
    sa.select(sa.func.count()).select_from(_jobs).where(_OPEN, given(_jobs, "subject"))
)


def find(tx: Transaction, job_id: str) -> JobRow | None:
    row = tx.row(_FIND, job_id=job_id)
    return None if row is None else _job(row)


_BEGINNING = Statement(sa.select(_jobs.c.id).where(beginning(_jobs.c.id)).order_by(_jobs.c.id))


def beginning_with(tx: Transaction, prefix: str) -> list[str]:
    """The ids of jobs that begin so."""
    return tx.values(_BEGINNING, **range_of(prefix))


def newest(tx: Transaction, limit: int, after: JobRow | None = None) -> list[JobRow]:
    """The jobs that were asked for last, newest first, behind one of them."""
    # Every job was asked for before the end of time.
    at, id_ = (2**62, "") if after is None else (to_micros(after.created_at), after.id)
    return [_job(row) for row in tx.rows(_NEWEST, at=at, id=id_, limit=limit)]


def count_open(tx: Transaction, kind: str | None = None) -> int:
    """How many there are that are not finished, of one kind or of all."""
    return int(tx.value(_COUNT_OPEN, kind=kind))


def count_open_of(tx: Transaction, subject: str) -> int:
    """How many an account has that are not finished."""
    return int(tx.value(_COUNT_OPEN_OF, subject=subject))


def _job(row: Row) -> JobRow:
    values = dict(zip(_COLUMNS, row, strict=True))
    finished_at = values["finished_at"]
    values |= {
        "created_at": from_micros(values["created_at"]),
        "finished_at": None if finished_at is None else from_micros(finished_at),
        "request": json.loads(values["request"]),
        "findings": json.loads(values["findings"]),
        "cancelled": bool(values["cancelled"]),
    }
    return JobRow(**values)


_FREE = free(_jobs)
_MINE = _jobs.c.claim == bindparam("token")
_OLDEST_OPEN = sa.select(_jobs.c.id).where(_OPEN).order_by(_jobs.c.created_at, _jobs.c.id).limit(1)
_WAITING = Statement(_OLDEST_OPEN.where(_FREE))
_CLAIMED_BY = Statement(_OLDEST_OPEN.where(_MINE))
_CLAIM = Statement(
    _jobs.update()
    .where(_THIS_ONE, _OPEN, sa.or_(_MINE, _FREE))
    .values(
        claim=bindparam("token"),
        claimed_by=bindparam("process"),
        claimed_until=bindparam("until"),
    )
)
_RELEASE = _jobs.update().values(claim=None, claimed_by=None, claimed_until=None)
_RELEASE_MINE = Statement(_RELEASE.where(_MINE))
_RELEASE_ALL = Statement(_RELEASE.where(_jobs.c.claim.is_not(None)))


def waiting(tx: Transaction, now: datetime) -> str | None:
    """The oldest job that is not finished and that no worker has claimed."""
    found: str | None = tx.value(_WAITING, now=to_micros(now))
    return found


def claimed_by(tx: Transaction, token: str) -> str | None:
    """The job that a worker has in hand."""
    found: str | None = tx.value(_CLAIMED_BY, token=token)
    return found


def claim(
    tx: Transaction, job_id: str, token: str, process: str | None, now: datetime, until: datetime
) -> bool:
    """Take a job that no worker has claimed, or renew one's own claim; False if another has it.

    The row is locked: until the transaction ends, the claim cannot be lost.
    """
    times = {"now": to_micros(now), "until": to_micros(until)}
    return bool(tx.change(_CLAIM, job_id=job_id, token=token, process=process, **times))


def release_claims(tx: Transaction, token: str | None = None) -> None:
    """Give back what one worker has claimed; or every claim, for one that is the only process."""
    if token is None:
        tx.change(_RELEASE_ALL)
    else:
        tx.change(_RELEASE_MINE, token=token)


_SET = Setters(_jobs)
_CANCEL_OPEN = Statement(
    _jobs.update().where(_jobs.c.kind == bindparam("of_kind"), _OPEN).values(cancelled=sa.true())
)


def change(tx: Transaction, job_id: str, **values: Any) -> None:
    """Set columns of a job; `findings` as it is, not as JSON."""
    if "findings" in values:
        values["findings"] = json.dumps(values["findings"])
    if values.get("finished_at") is not None:
        values |= {"finished_at": to_micros(values["finished_at"])}
        values |= {"claim": None, "claimed_by": None, "claimed_until": None}
    _SET.set(tx, job_id, values)


def cancel_open(tx: Transaction, kind: str) -> None:
    """Let all jobs of a kind do nothing more."""
    tx.change(_CANCEL_OPEN, of_kind=kind)


# --- items ----------------------------------------------------------------------------------------


_ADD_ITEM = Statement.insert(_items, ("job_id", "position", *Item._fields))
_OF_JOB = given(_items, "job_id")
_FIRST_POSITIONS = Statement(
    sa.select(_items.c.position).where(_OF_JOB).order_by(_items.c.position).limit(LIMIT)
)
_DROP_ITEMS = Statement(_items.delete().where(_OF_JOB, _items.c.position <= bindparam("last")))


def add_items(tx: Transaction, job_id: str, first: int, items: Sequence[Item]) -> None:
    """Append items, the first of them at this position."""
    rows = [
        {
            "job_id": job_id,
            "position": position,
            **item._asdict(),
            "seen_at": to_micros(item.seen_at),
        }
        for position, item in enumerate(items, first)
    ]
    tx.many(_ADD_ITEM, rows)


def drop_items(tx: Transaction, job_id: str, limit: int) -> int:
    """Forget up to `limit` items; how many that were."""
    positions = tx.values(_FIRST_POSITIONS, job_id=job_id, limit=limit)
    if positions:
        tx.change(_DROP_ITEMS, job_id=job_id, last=positions[-1])
    return len(positions)


_ITEM = tuple(_items.c[name] for name in Item._fields)
_ITEMS = (
    sa.select(_items.c.position, *_ITEM, _items.c.outcome, _items.c.reason)
    .where(_OF_JOB, _items.c.position > bindparam("after"))
    .order_by(_items.c.position)
    .limit(LIMIT)
)
_ITEM_PAGE = Statement(_ITEMS)
_TO_DO = Statement(_ITEMS.where(_items.c.kind != "along", _items.c.outcome.is_(None)))


def item_page(
    tx: Transaction, job_id: str, after: int, n: int, *, to_do: bool = False
) -> list[PlacedItem]:
    """Up to `n` items behind a position.

    With `to_do` only those that nothing was done about, without those that go along with others.
    """
    rows = tx.rows(_TO_DO if to_do else _ITEM_PAGE, job_id=job_id, after=after, limit=n)
    return [PlacedItem(row[0], _item(row[1:8]), row[8], row[9]) for row in rows]


def _item(row: Row) -> Item:
    repository_id, repository, kind, tag, digest, manifest_id, seen_at = row
    return Item(
        repository_id,
        RepositoryName(repository),
        kind,
        None if tag is None else Tag(tag),
        Digest(digest),
        manifest_id,
        from_micros(seen_at),
    )


# Of a job's items, one manifest's. SQLite would rather read all of the job's by the primary key,
# which it cannot do where the job's id is an expression.
_OF_MANIFEST = sa.and_(
    _items.c.job_id.concat("") == bindparam("job"),
    _items.c.manifest_id == bindparam("manifest"),
    _items.c.kind != "tag",
)
_PLANNED = Statement(sa.select(_items.c.seen_at).where(_OF_MANIFEST))
_SAW_AGAIN = Statement(
    _items.update()
    .where(
        _OF_MANIFEST,
        _items.c.seen_at
        == sa.select(content.manifests.c.updated_at)
        .where(content.manifests.c.id == _items.c.manifest_id)
        .correlate(_items)
        .scalar_subquery(),
    )
    .values(seen_at=bindparam("now"))
)


def planned(tx: Transaction, job_id: str, manifest_ids: Collection[int]) -> dict[int, datetime]:
    """Those of these manifests that the job is to delete, and when each was updated then."""
    found = {id_: tx.value(_PLANNED, job=job_id, manifest=id_) for id_ in sorted(manifest_ids)}
    return {id_: from_micros(seen_at) for id_, seen_at in found.items() if seen_at is not None}


def saw_again(tx: Transaction, job_id: str, manifest_ids: Collection[int], now: datetime) -> None:
    """The job itself is about to take tags from these manifests, which updates them.

    What was updated otherwise since it was chosen stays changed.
    """
    several = [
        {"job": job_id, "manifest": id_, "now": to_micros(now)} for id_ in sorted(manifest_ids)
    ]
    tx.many(_SAW_AGAIN, several)


_SETTLE_REST = Statement(
    _items.update()
    .where(_OF_JOB, _items.c.outcome.is_(None))
    .values(outcome="skipped", reason="what it belongs to stays")
)
_MANIFESTS_OF = Statement(
    sa.select(_items.c.repository_id, _items.c.manifest_id).where(_OF_JOB, _items.c.kind != "tag")
)


def settle_rest(tx: Transaction, job_id: str) -> None:
    """What was to go along with something that stayed stays too."""
    tx.change(_SETTLE_REST, job_id=job_id)


def manifests_of(tx: Transaction, job_id: str) -> dict[int, list[int]]:
    """The manifests that a job is to delete: repository's id -> their ids."""
    found: dict[int, list[int]] = {}
    for repository_id, manifest_id in tx.rows(_MANIFESTS_OF, job_id=job_id):
        found.setdefault(repository_id, []).append(manifest_id)
    return found


# --- what a batch did -----------------------------------------------------------------------------


class BatchOutcome(NamedTuple):
    """What one transaction did about some of a job's items."""

    # The last item that was dealt with.
    position: int
    # What stays, and why.
    skipped: Mapping[int, str]
    # What is deleted: tags by their positions, manifests by their ids, also those that went along.
    tag_positions: Sequence[int]
    manifest_ids: Sequence[int]
    # Tags that are gone, also those of manifests.
    tags_deleted: int
    freed_bytes: int
    leased_bytes: int
    # Whether what went can be restored, under the job's own id.
    restorable: bool


_SKIP = Statement(
    _items.update()
    .where(_OF_JOB, _items.c.position == bindparam("at"))
    .values(outcome="skipped", reason=bindparam("reason"))
)
_DELETED = _items.update().values(outcome="deleted", reason=None)
_SETTLE = Statement(_DELETED.where(_OF_JOB, among(_items.c.position, "positions")))
_SETTLE_MANIFEST = Statement(_DELETED.where(_OF_MANIFEST))
_COUNTED = ("tags_deleted", "manifests_deleted", "freed_bytes", "leased_bytes")
_RECORD_BATCH = Statement(
    _jobs.update()
    .where(_THIS_ONE)
    .values(
        position=bindparam("last"),
        failures=0,
        findings=sa.func.coalesce(bindparam("new_findings", type_=sa.Text), _jobs.c.findings),
        **{name: _jobs.c[name] + bindparam(f"more_{name}") for name in _COUNTED},
    )
)


def record_batch(tx: Transaction, job: JobRow, outcome: BatchOutcome) -> None:
    """Say what became of items, and how far the job has come; in the transaction that did it."""
    tx.many(
        _SKIP,
        [
            {"job_id": job.id, "at": position, "reason": reason}
            for position, reason in outcome.skipped.items()
        ],
    )
    if outcome.tag_positions:
        tx.change(_SETTLE, job_id=job.id, positions=outcome.tag_positions)
    tx.many(_SETTLE_MANIFEST, [{"job": job.id, "manifest": id_} for id_ in outcome.manifest_ids])
    operation = outcome.restorable and "operation" not in job.findings
    tx.change(
        _RECORD_BATCH,
        job_id=job.id,
        last=outcome.position,
        new_findings=json.dumps(job.findings | {"operation": job.id}) if operation else None,
        more_tags_deleted=outcome.tags_deleted,
        more_manifests_deleted=len(outcome.manifest_ids),
        more_freed_bytes=outcome.freed_bytes,
        more_leased_bytes=outcome.leased_bytes,
    )


# --- forgetting -----------------------------------------------------------------------------------


_FINISHED_BEFORE = Statement(
    sa.select(_jobs.c.id)
    .where(_jobs.c.finished_at < bindparam("moment"))
    .order_by(_jobs.c.finished_at)
    .limit(1)
)
_FORGET = Statement(_jobs.delete().where(_THIS_ONE))


def finished_before(tx: Transaction, moment: datetime) -> str | None:
    """A job that was finished before then."""
    found: str | None = tx.value(_FINISHED_BEFORE, moment=to_micros(moment))
    return found


def forget(tx: Transaction, job_id: str) -> None:
    """Drop a job whose items are dropped."""
    tx.change(_FORGET, job_id=job_id)
