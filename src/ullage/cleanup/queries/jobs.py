"""Jobs: long work that is done in many small transactions, and what each of them is about.

Whoever works on a job holds a claim that expires, so that another process goes on with it when the
first one dies; every transaction that works on it renews the claim, and so locks the job's row.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from ullage.database.schema import cleaning, content
from ullage.database.statements import Statement
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction, chunks
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag

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
    tx.execute(
        _jobs.insert().values(
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
    )


def find(tx: Transaction, job_id: str) -> JobRow | None:
    query = sa.select(*(_jobs.c[name] for name in _COLUMNS)).where(_jobs.c.id == job_id)
    row = tx.execute(query).first()
    return None if row is None else _job(row)


def newest(tx: Transaction, limit: int) -> list[JobRow]:
    """The jobs that were asked for last, newest first."""
    query = sa.select(*(_jobs.c[name] for name in _COLUMNS))
    query = query.order_by(_jobs.c.created_at.desc(), _jobs.c.id).limit(limit)
    return [_job(row) for row in tx.execute(query)]


def count_open(tx: Transaction, kind: str | None = None) -> int:
    """How many there are that are not finished, of one kind or of all."""
    query = sa.select(sa.func.count()).select_from(_jobs).where(_jobs.c.finished_at.is_(None))
    if kind is not None:
        query = query.where(_jobs.c.kind == kind)
    return int(tx.execute(query).scalar_one())


def _job(row: Sequence[Any]) -> JobRow:
    values = dict(zip(_COLUMNS, row, strict=True))
    finished_at = values["finished_at"]
    values |= {
        "created_at": from_micros(values["created_at"]),
        "finished_at": None if finished_at is None else from_micros(finished_at),
        "request": json.loads(values["request"]),
        "findings": json.loads(values["findings"]),
    }
    return JobRow(**values)


def waiting(tx: Transaction, now: datetime) -> str | None:
    """The oldest job that is not finished and that nobody works on."""
    query = sa.select(_jobs.c.id).where(_jobs.c.finished_at.is_(None), _free(now))
    return tx.execute(query.order_by(_jobs.c.created_at, _jobs.c.id).limit(1)).scalar()


def claimed_by(tx: Transaction, token: str) -> str | None:
    """The job that a worker has in hand."""
    query = sa.select(_jobs.c.id).where(_jobs.c.finished_at.is_(None), _jobs.c.claim == token)
    return tx.execute(query.order_by(_jobs.c.created_at, _jobs.c.id).limit(1)).scalar()


def claim(tx: Transaction, job_id: str, token: str, now: datetime, until: datetime) -> bool:
    """Take a job that nobody works on, or go on with one's own; False if somebody else has it."""
    mine = sa.or_(_jobs.c.claim == token, _free(now))
    changed = tx.execute(
        _jobs.update()
        .where(_jobs.c.id == job_id, _jobs.c.finished_at.is_(None), mine)
        .values(claim=token, claimed_until=to_micros(until))
    )
    return bool(changed.rowcount)


def _free(now: datetime) -> sa.ColumnElement[bool]:
    return sa.or_(_jobs.c.claim.is_(None), _jobs.c.claimed_until <= to_micros(now))


def release_claims(tx: Transaction, token: str | None = None) -> None:
    """Give back what one worker has claimed; or every claim, for one that is the only process."""
    query = _jobs.update().where(_jobs.c.claim.is_not(None))
    if token is not None:
        query = query.where(_jobs.c.claim == token)
    tx.execute(query.values(claim=None, claimed_until=None))


def change(tx: Transaction, job_id: str, **values: Any) -> None:
    """Set columns of a job; `findings` as it is, not as JSON."""
    if "findings" in values:
        values["findings"] = json.dumps(values["findings"])
    if values.get("finished_at") is not None:
        values |= {"finished_at": to_micros(values["finished_at"]), "claim": None}
    tx.execute(_jobs.update().where(_jobs.c.id == job_id).values(values))


def cancel_open(tx: Transaction, kind: str) -> None:
    """Let all jobs of a kind do nothing more."""
    tx.execute(
        _jobs.update()
        .where(_jobs.c.kind == kind, _jobs.c.finished_at.is_(None))
        .values(cancelled=True)
    )


def add(tx: Transaction, job_id: str, **by: int) -> None:
    """Add to a job's numbers."""
    tx.execute(
        _jobs.update()
        .where(_jobs.c.id == job_id)
        .values({name: _jobs.c[name] + number for name, number in by.items()})
    )


# --- items ----------------------------------------------------------------------------------------


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
    if rows:
        tx.execute(_items.insert(), rows)


def drop_items(tx: Transaction, job_id: str, limit: int) -> int:
    """Forget up to `limit` items; how many that were."""
    some = sa.select(_items.c.position).where(_items.c.job_id == job_id)
    positions = list(tx.execute(some.order_by(_items.c.position).limit(limit)).scalars())
    if positions:
        tx.execute(
            _items.delete().where(
                _items.c.job_id == job_id, _items.c.position.between(positions[0], positions[-1])
            )
        )
    return len(positions)


def item_page(
    tx: Transaction, job_id: str, after: int, n: int, *, to_do: bool = False
) -> list[PlacedItem]:
    """Up to `n` items behind a position.

    With `to_do` only those that nothing was done about, without those that go along with others.
    """
    query = (
        sa.select(_items.c.position, *_ITEM, _items.c.outcome, _items.c.reason)
        .where(_items.c.job_id == job_id, _items.c.position > after)
        .order_by(_items.c.position)
        .limit(n)
    )
    if to_do:
        query = query.where(_items.c.kind != "along", _items.c.outcome.is_(None))
    return [PlacedItem(row[0], _item(row[1:8]), row[8], row[9]) for row in tx.execute(query)]


_ITEM = tuple(_items.c[name] for name in Item._fields)


def _item(row: Sequence[Any]) -> Item:
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
    _items.c.job_id.concat("") == sa.bindparam("job"),
    _items.c.manifest_id == sa.bindparam("manifest"),
    _items.c.kind != "tag",
)
_PLANNED = Statement(sa.select(_items.c.seen_at).where(_OF_MANIFEST))
_SETTLE_MANIFEST = Statement(
    _items.update().where(_OF_MANIFEST).values(outcome="deleted", reason=None)
)
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
    .values(seen_at=sa.bindparam("now"))
)


def planned(tx: Transaction, job_id: str, manifest_ids: Collection[int]) -> dict[int, datetime]:
    """Those of these manifests that the job is to delete, and when each was updated then."""
    found = {id_: tx.value(_PLANNED, job=job_id, manifest=id_) for id_ in sorted(manifest_ids)}
    return {id_: from_micros(seen_at) for id_, seen_at in found.items() if seen_at is not None}


def saw_again(tx: Transaction, job_id: str, manifest_ids: Collection[int], now: datetime) -> None:
    """The job itself is about to take tags from these manifests, which updates them.

    What was updated by anybody else since it was chosen stays changed.
    """
    several = [
        {"job": job_id, "manifest": id_, "now": to_micros(now)} for id_ in sorted(manifest_ids)
    ]
    tx.many(_SAW_AGAIN, several)


def settle(
    tx: Transaction, job_id: str, positions: Sequence[int], outcome: str, reason: str | None
) -> None:
    """Say what became of items."""
    for some in chunks(positions):
        tx.execute(
            _items.update()
            .where(_items.c.job_id == job_id, _items.c.position.in_(some))
            .values(outcome=outcome, reason=reason)
        )


def settle_manifests(tx: Transaction, job_id: str, manifest_ids: Collection[int]) -> None:
    """These manifests are deleted, as such or along with others."""
    several = [{"job": job_id, "manifest": id_} for id_ in sorted(manifest_ids)]
    tx.many(_SETTLE_MANIFEST, several)


def settle_rest(tx: Transaction, job_id: str) -> None:
    """What was to go along with something that stayed stays too."""
    tx.execute(
        _items.update()
        .where(_items.c.job_id == job_id, _items.c.outcome.is_(None))
        .values(outcome="skipped", reason="what it belongs to stays")
    )


def manifests_of(tx: Transaction, job_id: str) -> dict[int, list[int]]:
    """The manifests that a job is to delete: repository's id -> their ids."""
    query = sa.select(_items.c.repository_id, _items.c.manifest_id).where(
        _items.c.job_id == job_id, _items.c.kind != "tag"
    )
    found: dict[int, list[int]] = {}
    for repository_id, manifest_id in tx.execute(query):
        found.setdefault(repository_id, []).append(manifest_id)
    return found


# --- forgetting -----------------------------------------------------------------------------------


def finished_before(tx: Transaction, moment_: datetime) -> str | None:
    """A job that was finished before then."""
    query = sa.select(_jobs.c.id).where(_jobs.c.finished_at < to_micros(moment_))
    return tx.execute(query.order_by(_jobs.c.finished_at).limit(1)).scalar()


def forget(tx: Transaction, job_id: str) -> None:
    """Drop a job whose items are dropped."""
    tx.execute(_jobs.delete().where(_jobs.c.id == job_id))
