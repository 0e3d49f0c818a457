"""What sources of deployments have reported, and which manifests of a repository that names.

Reports and deletions exclude each other: a report takes the guard for itself, a deletion shares it
with other deletions (deletion.md section 9). On SQLite the one writer sees to that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import cleaning
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest

_sources = cleaning.deployment_sources
_deployed = cleaning.deployed


class SourceRow(NamedTuple):
    """A source as of its last report."""

    name: str
    subject: str
    reported_at: datetime
    ttl: timedelta
    complete: bool

    def stale(self, now: datetime) -> bool:
        return self.reported_at + self.ttl < now


class DeployedRow(NamedTuple):
    """An image that a source names; `until` is None while it is reported."""

    image: str
    digest: str
    repository: str
    tag: str
    reference: str
    place: str
    state: str
    first_at: datetime
    until: datetime | None


class Naming(NamedTuple):
    """That a source names a manifest: by its digest, its config or its tag."""

    manifest_id: int
    digest: Digest
    source: str
    place: str
    until: datetime | None
    reported_at: datetime
    ttl: timedelta


# --- what deletions ask ---------------------------------------------------------------------------

_GUARD = 7813298313
_ALONE = Statement.text("SELECT 1", f"SELECT pg_advisory_xact_lock({_GUARD})")
_SHARED = Statement.text("SELECT 1", f"SELECT pg_advisory_xact_lock_shared({_GUARD})")
_ANY = Statement(sa.select(_deployed.c.source).limit(1))


def keep_deletions_out(tx: Transaction) -> None:
    """Until this transaction ends, no other one deletes what it has looked at by now."""
    tx.rows(_ALONE)


# As the guard's tables are the smaller ones, SQLite is told to begin with them.
_NAMED_BY = """
    SELECT m.id, m.digest, d.source, d.place, d.until, s.reported_at, s.ttl
    FROM deployed AS d
    {join} JOIN manifests AS m ON m.repository_id = :repository_id AND m.digest = d.digest
    JOIN deployment_sources AS s ON s.name = d.source
    WHERE d.until = 0 OR d.until > :now
    UNION ALL
    SELECT m.id, m.digest, d.source, d.place, d.until, s.reported_at, s.ttl
    FROM deployed AS d
    {join} JOIN manifest_blobs AS b ON b.repository_id = :repository_id AND b.digest = d.digest
    JOIN manifests AS m ON m.id = b.manifest_id
    JOIN deployment_sources AS s ON s.name = d.source
    WHERE d.until = 0 OR d.until > :now
    UNION ALL
    SELECT m.id, m.digest, d.source, d.place, d.until, s.reported_at, s.ttl
    FROM repositories AS r
    {join} JOIN deployed AS d ON d.repository = r.name
    {join} JOIN tags AS t ON t.repository_id = r.id AND t.name = d.tag
    JOIN manifests AS m ON m.id = t.manifest_id
    JOIN deployment_sources AS s ON s.name = d.source
    WHERE r.id = :repository_id AND (d.until = 0 OR d.until > :now)
    ORDER BY 5, 3, 1
"""
_NAMED = Statement.text(_NAMED_BY.format(join="CROSS"), _NAMED_BY.format(join=""))


def named_in(tx: Transaction, repository_id: int, now: datetime) -> list[Naming]:
    """Which manifests of a repository sources name, those first that are reported by now.

    No source's report is committed between this and the end of the transaction.
    """
    if tx.dialect == "postgresql":
        tx.rows(_SHARED)
    if tx.row(_ANY) is None:
        return []
    rows = tx.rows(_NAMED, repository_id=repository_id, now=to_micros(now))
    return [
        Naming(
            *(id_, Digest(digest), source, place),
            *(_end(until), from_micros(at), timedelta(microseconds=ttl)),
        )
        for id_, digest, source, place, until, at, ttl in rows
    ]


# --- what sources have reported -------------------------------------------------------------------

_COLUMNS = tuple(_sources.c[name] for name in SourceRow._fields)
_SOURCE = Statement(sa.select(*_COLUMNS).where(given(_sources, "name")))
_SOURCES = Statement(sa.select(*_COLUMNS).order_by(_sources.c.name))
_CURRENT = sa.func.count().filter(_deployed.c.until == 0)
_COUNTS = Statement(
    sa.select(_deployed.c.source, _CURRENT, sa.func.count()).group_by(_deployed.c.source)
)
_COUNTS_OF = Statement(sa.select(_CURRENT, sa.func.count()).where(given(_deployed, "source")))


def find_source(tx: Transaction, name: str) -> SourceRow | None:
    row = tx.row(_SOURCE, name=name)
    return None if row is None else _source(*row)


def all_sources(tx: Transaction) -> list[SourceRow]:
    """Every source, by name."""
    return [_source(*row) for row in tx.rows(_SOURCES)]


def _source(name: str, subject: str, reported_at: int, ttl: int, complete: bool) -> SourceRow:
    since = timedelta(microseconds=ttl)
    return SourceRow(name, subject, from_micros(reported_at), since, bool(complete))


class Counts(NamedTuple):
    """How many images a source names, and how many it does not report any more."""

    images: int = 0
    recently: int = 0


def counts(tx: Transaction) -> dict[str, Counts]:
    """Of all sources that name any."""
    return {source: Counts(now, all_ - now) for source, now, all_ in tx.rows(_COUNTS)}


def counts_of(tx: Transaction, source: str) -> Counts:
    """Of one source."""
    ((now, all_),) = tx.rows(_COUNTS_OF, source=source)
    return Counts(now, all_ - now)


_IMAGES = tuple(_deployed.c[name] for name in DeployedRow._fields)
_ALL = Statement(sa.select(*_IMAGES).where(given(_deployed, "source")))
_PAGE = Statement(
    sa.select(*_IMAGES)
    .where(given(_deployed, "source"), _deployed.c.image > bindparam("after", type_=sa.Text))
    .order_by(_deployed.c.image)
    .limit(LIMIT)
)


def images_of(tx: Transaction, source: str) -> dict[str, DeployedRow]:
    """All that a source names, by image."""
    return {row[0]: _image(*row) for row in tx.rows(_ALL, source=source)}


def image_page(tx: Transaction, source: str, after: str, limit: int) -> list[DeployedRow]:
    """Some of it, by image, from behind `after` on."""
    return [_image(*row) for row in tx.rows(_PAGE, source=source, after=after, limit=limit)]


def _image(
    image: str,
    digest: str,
    repository: str,
    tag: str,
    reference: str,
    place: str,
    state: str,
    first_at: int,
    until: int,
) -> DeployedRow:
    at = from_micros(first_at)
    return DeployedRow(image, digest, repository, tag, reference, place, state, at, _end(until))


def _end(until: int) -> datetime | None:
    return from_micros(until) if until else None


def _replacing(insert: sa.Insert, key: tuple[str, ...], rest: Iterable[str]) -> sa.Insert:
    put: sa.Insert = insert.on_conflict_do_update(  # type: ignore[attr-defined]
        index_elements=key,
        set_={name: insert.excluded[name] for name in rest},  # type: ignore[attr-defined]
    )
    return put


_PUT_SOURCE = Statement.insert(
    _sources,
    SourceRow._fields,
    lambda insert: _replacing(insert, ("name",), SourceRow._fields[1:]),
)
_PUT_IMAGE = Statement.insert(
    _deployed,
    ("source", *DeployedRow._fields),
    lambda insert: _replacing(insert, ("source", "image"), DeployedRow._fields[1:]),
    in_sets=True,
)
_LEAVE = Statement(
    _deployed.update()
    .where(given(_deployed, "source"), among(_deployed.c.image, "images"))
    .values(until=bindparam("ends"))
)
_DROP = Statement(
    _deployed.delete().where(given(_deployed, "source"), among(_deployed.c.image, "images"))
)
_FORGET_IMAGES = Statement(_deployed.delete().where(given(_deployed, "source")))
_FORGET = Statement(_sources.delete().where(given(_sources, "name")))


def put_source(tx: Transaction, row: SourceRow) -> None:
    values = row._asdict() | {"reported_at": to_micros(row.reported_at)}
    tx.change(_PUT_SOURCE, **values | {"ttl": row.ttl // timedelta(microseconds=1)})


def put_images(tx: Transaction, source: str, rows: Iterable[DeployedRow]) -> None:
    """Add these to what the source names, or replace them; `put_source` comes first."""
    several = [
        row._asdict()
        | {
            "source": source,
            "first_at": to_micros(row.first_at),
            "until": 0 if row.until is None else to_micros(row.until),
        }
        for row in rows
    ]
    tx.many(_PUT_IMAGE, several)


def let_leave(tx: Transaction, source: str, images: Collection[str], until: datetime) -> None:
    """The source does not report these any more; they are protected until then."""
    tx.change(_LEAVE, source=source, images=images, ends=to_micros(until))


def drop_images(tx: Transaction, source: str, images: Collection[str]) -> None:
    tx.change(_DROP, source=source, images=images)


def forget_source(tx: Transaction, name: str) -> None:
    """The source and all that it names."""
    tx.change(_FORGET_IMAGES, source=name)
    tx.change(_FORGET, name=name)
