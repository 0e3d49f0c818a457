"""Leases: promises made to pushers ("you need not upload this") that no manifest redeemed yet.

A grant is one promise to one push: an upload that was acknowledged, a HEAD answered 200 to somebody
who may push, a mount. The manifest of that push redeems one grant of its own for each blob. While a
grant runs, the repository's link to the blob is not dropped (docs/design/deletion.md).

Leases guard a decision, not data, so they need not be durable. Where one process owns the database
they live in its memory; on PostgreSQL in an UNLOGGED table. What may have been forgotten after a
crash counts as leased for one lease period.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.metadata import schema
from ullage.metadata.database import Database, Transaction, chunks
from ullage.metadata.moments import from_moment, moment
from ullage.metadata.statements import Statement, among
from ullage.oci.digest import Digest

# How long after its upload or mount a client may ask for the same blob once more without that
# counting as a second push. Docker's daemon does so (distribution/registry/client, blob_writer.go:
# Commit ends with a Stat), on whichever of its connections is free.
CONFIRM = timedelta(seconds=10)


class Holder(NamedTuple):
    """Whom a promise was made to, as well as can be told from requests."""

    key: str
    # This client asks for a blob once more right after uploading or mounting it.
    confirms: bool = False
    # This client asks for a blob in the source repository before it mounts it from there.
    asks_source: bool = False


class Link(NamedTuple):
    """A blob as one repository sees it."""

    repository_id: int
    digest: Digest
    linked_at: datetime


class Leases(Protocol):
    period: timedelta

    def grant(
        self, tx: Transaction, repository_id: int, digest: Digest, holder: Holder, now: datetime
    ) -> datetime:
        """In the transaction that links the blob: promise it to `holder`; returns until when."""

    def offer(
        self,
        db: Database,
        repository_id: int,
        digest: Digest,
        holder: Holder,
        now: datetime,
    ) -> bool:
        """Promise a blob that was just seen linked; False if it is gone or going after all."""

    def redeem(
        self,
        tx: Transaction,
        repository_id: int,
        digests: Iterable[Digest],
        holder: Holder,
        *,
        witness: Digest | None = None,
    ) -> None:
        """A manifest kept the promise: take back one grant of `holder` for each digest.

        With a `witness`, one of them: only if that one was promised, else take back none.
        """

    def running(
        self, tx: Transaction, links: Sequence[Link], now: datetime
    ) -> dict[Digest, datetime]:
        """Which of these links (of one repository) are leased, and until when.

        The caller holds the blobs' row locks. A link not in the answer may be dropped in this
        transaction: nobody is promised it before the transaction has ended.
        """

    def peek(self, tx: Transaction, links: Sequence[Link], now: datetime) -> dict[Link, datetime]:
        """As `running`, for links of any repositories and for nothing but to know: no promise."""

    def leased_in(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        """All that is promised in a repository, to know, as `peek`."""

    def forget(self, tx: Transaction, repository_id: int, digests: Iterable[Digest]) -> None:
        """The link is gone by somebody's explicit wish, and every promise with it."""

    def expire(self, db: Database, now: datetime) -> None:
        """Drop what has ended."""

    def shift(self, db: Database, by: timedelta) -> None:
        """The clock was put forward (or back) by this much: promises last as long as before."""

    def close(self, db: Database, now: datetime) -> None:
        """A clean stop: leave nothing to be forgotten."""


class Promised(NamedTuple):
    """What is promised in a repository: these digests, and all that was linked until a moment if
    promises may have been forgotten."""

    digests: set[Digest]
    linked_until: datetime | None


@dataclass(slots=True)
class _Grant:
    count: int
    until: datetime
    confirm_until: datetime


class MemoryLeases:
    """For one process on SQLite. Opening it takes over what the last clean stop saved."""

    def __init__(self, db: Database, period: timedelta, now: datetime) -> None:
        self.period = period
        self._lock = threading.Lock()
        self._grants: dict[tuple[int, Digest], dict[str, _Grant]] = {}
        # Links being dropped by a transaction that has not ended: a promise would come too late.
        self._going: dict[tuple[int, Digest], int] = {}
        self._started = now
        self._complete_from = self._load(db, now)

    def grant(
        self, tx: Transaction, repository_id: int, digest: Digest, holder: Holder, now: datetime
    ) -> datetime:
        with self._lock:
            grant = self._add((repository_id, digest), holder, now)
            if holder.confirms:
                grant.confirm_until = now + CONFIRM
            return grant.until

    def offer(
        self,
        db: Database,
        repository_id: int,
        digest: Digest,
        holder: Holder,
        now: datetime,
    ) -> bool:
        link = (repository_id, digest)
        with self._lock:
            if link in self._going:
                return False
            grant = self._grants.get(link, {}).get(holder.key)
            if grant is not None and now < grant.confirm_until:
                # The same push asking again. What it was promised still stands.
                grant.confirm_until = now
                return True
            self._add(link, holder, now)
        # Granted first, looked at second: whoever drops the link from now on sees the grant.
        if db.recall(("linked", *link), lambda tx: _linked(tx, *link), lambda _: 0):
            return True
        with self._lock:
            self._take_back(link, holder.key)
        return False

    def redeem(
        self,
        tx: Transaction,
        repository_id: int,
        digests: Iterable[Digest],
        holder: Holder,
        *,
        witness: Digest | None = None,
    ) -> None:
        links = [(repository_id, digest) for digest in digests]

        def take_back() -> None:
            with self._lock:
                if witness and holder.key not in self._grants.get((repository_id, witness), {}):
                    return
                for link in links:
                    self._take_back(link, holder.key)

        tx.after_commit(take_back)

    def running(
        self, tx: Transaction, links: Sequence[Link], now: datetime
    ) -> dict[Digest, datetime]:
        leased: dict[Digest, datetime] = {}
        going: list[tuple[int, Digest]] = []
        with self._lock:
            for link in links:
                until = self._until(link, now)
                if until is not None:
                    leased[link.digest] = until
                else:
                    key = (link.repository_id, link.digest)
                    self._going[key] = self._going.get(key, 0) + 1
                    going.append(key)
        tx.at_end(lambda: self._settled(going))
        return leased

    def peek(self, tx: Transaction, links: Sequence[Link], now: datetime) -> dict[Link, datetime]:
        with self._lock:
            ends = {link: self._until(link, now) for link in links}
        return {link: until for link, until in ends.items() if until is not None}

    def leased_in(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        with self._lock:
            promised = {digest for id_, digest in self._grants if id_ == repository_id}
            return Promised(promised, self._started if now < self._complete_from else None)

    def forget(self, tx: Transaction, repository_id: int, digests: Iterable[Digest]) -> None:
        links = [(repository_id, digest) for digest in digests]

        def forget() -> None:
            with self._lock:
                for link in links:
                    self._grants.pop(link, None)

        tx.after_commit(forget)

    def expire(self, db: Database, now: datetime) -> None:
        with self._lock:
            for link, grants in list(self._grants.items()):
                for key, grant in list(grants.items()):
                    if grant.until <= now:
                        del grants[key]
                if not grants:
                    del self._grants[link]

    def shift(self, db: Database, by: timedelta) -> None:
        with self._lock:
            self._complete_from += by
            # Links keep their times, so a clock put back must not make those of before look newer.
            self._started = max(self._started, self._started + by)
            for grants in self._grants.values():
                for grant in grants.values():
                    grant.until += by
                    grant.confirm_until += by

    def close(self, db: Database, now: datetime) -> None:
        with self._lock:
            rows = [
                {
                    "repository_id": repository_id,
                    "digest": digest,
                    "holder": key,
                    "grants": grant.count,
                    "until": moment(grant.until),
                    "confirm_until": moment(grant.confirm_until),
                }
                for (repository_id, digest), grants in self._grants.items()
                for key, grant in grants.items()
                if grant.until > now
            ]
            complete_from = self._complete_from

        def save(tx: Transaction) -> None:
            tx.execute(schema.leases.delete())
            for some in chunks(rows):
                tx.execute(schema.leases.insert(), list(some))
            tx.execute(
                schema.lease_memory.insert().values(id=1, complete_from=moment(complete_from))
            )

        db.write(save)

    def _load(self, db: Database, now: datetime) -> datetime:
        """Take back what a clean stop saved; returns from when on nothing can be missing."""

        def take(tx: Transaction) -> tuple[int | None, list[sa.Row[tuple[object, ...]]]]:
            saved = tx.execute(sa.select(schema.lease_memory.c.complete_from)).scalar()
            rows = list(tx.execute(sa.select(schema.leases)).all())
            # From here on a crash means that promises are forgotten; only a clean stop undoes this.
            tx.execute(schema.lease_memory.delete())
            tx.execute(schema.leases.delete())
            fresh = tx.execute(sa.select(sa.func.count()).select_from(schema.repositories)).scalar()
            if saved is None and not fresh:
                saved = moment(now)
            return saved, rows

        saved, rows = db.write(take)
        for row in rows:
            grants = self._grants.setdefault((row.repository_id, Digest(row.digest)), {})
            grants[row.holder] = _Grant(
                row.grants, from_moment(row.until), from_moment(row.confirm_until)
            )
        return now + self.period if saved is None else from_moment(saved)

    def _add(self, link: tuple[int, Digest], holder: Holder, now: datetime) -> _Grant:
        grants = self._grants.setdefault(link, {})
        grant = grants.get(holder.key)
        if grant is None or grant.until <= now:
            grant = grants[holder.key] = _Grant(0, now, now)
        grant.count += 1
        grant.until = now + self.period
        return grant

    def _take_back(self, link: tuple[int, Digest], key: str) -> None:
        grants = self._grants.get(link)
        grant = grants.get(key) if grants else None
        if grants is None or grant is None:
            return
        grant.count -= 1
        if grant.count <= 0:
            del grants[key]
        if not grants:
            del self._grants[link]

    def _until(self, link: Link, now: datetime) -> datetime | None:
        ends = [
            grant.until
            for grant in self._grants.get((link.repository_id, link.digest), {}).values()
            if grant.until > now
        ]
        if now < self._complete_from and link.linked_at <= self._started:
            ends.append(self._complete_from)
        return max(ends, default=None)

    def _settled(self, going: list[tuple[int, Digest]]) -> None:
        with self._lock:
            for link in going:
                self._going[link] -= 1
                if not self._going[link]:
                    del self._going[link]


_leases = schema.leases
# Nothing of an offer has to outlive a crash, so nobody waits for a disk: not the client, and not
# the next who asks for the same blob, behind the row that this one holds until it is committed.
_SHARE_BLOB = Statement(
    sa.select(
        schema.blobs.c.digest,
        sa.func.set_config("synchronous_commit", "off", sa.true()),
    )
    .where(schema.blobs.c.digest == bindparam("digest"), schema.blobs.c.damaged_at.is_(None))
    .with_for_update(read=True, key_share=True)
)
_THESE = sa.and_(
    _leases.c.repository_id == bindparam("repository_id"), among(_leases.c.digest, "digests")
)
_OWN = sa.and_(_THESE, _leases.c.holder == bindparam("holder"))
_LOCK_OWN = Statement(
    sa.select(_leases.c.digest).where(_OWN).order_by(_leases.c.digest).with_for_update()
)
_TAKE_BACK = Statement(_leases.update().where(_OWN).values(grants=_leases.c.grants - 1))
_DROP_REDEEMED = Statement(_leases.delete().where(_OWN, _leases.c.grants <= 0))
_RUNNING = Statement(
    sa.select(_leases.c.digest, sa.func.max(_leases.c.until))
    .where(_THESE, _leases.c.until > bindparam("now"))
    .group_by(_leases.c.digest)
)
_LEASED_IN = Statement(
    sa.select(_leases.c.digest)
    .where(
        _leases.c.repository_id == bindparam("repository_id"), _leases.c.until > bindparam("now")
    )
    .distinct()
)
_FORGET = Statement(_leases.delete().where(_THESE))
_COMPLETE_FROM = Statement(sa.select(schema.lease_memory.c.complete_from))
_CONFIRM_GRANT = Statement(
    _leases.update()
    .where(
        _leases.c.repository_id == bindparam("repository_id"),
        _leases.c.digest == bindparam("digest"),
        _leases.c.holder == bindparam("holder"),
        _leases.c.confirm_until > bindparam("now"),
    )
    .values(confirm_until=bindparam("now"))
)


def _one_more(insert: Any) -> sa.Insert:
    # What ended but was not swept up yet starts again from one.
    counted = sa.case((_leases.c.until > bindparam("now"), _leases.c.grants), else_=0)
    added: sa.Insert = insert.on_conflict_do_update(
        index_elements=["repository_id", "digest", "holder"],
        set_={
            "grants": counted + 1,
            "until": insert.excluded.until,
            "confirm_until": insert.excluded.confirm_until,
        },
    )
    return added


_ADD = Statement.insert(
    _leases,
    ("repository_id", "digest", "holder", "grants", "until", "confirm_until"),
    _one_more,
)


class SqlLeases:
    """For many processes on PostgreSQL. The blob's row lock orders promises and deletions."""

    def __init__(self, db: Database, period: timedelta, now: datetime) -> None:
        self.period = period
        db.write(lambda tx: self._begin(tx, now))

    def grant(
        self, tx: Transaction, repository_id: int, digest: Digest, holder: Holder, now: datetime
    ) -> datetime:
        confirm_until = now + CONFIRM if holder.confirms else now
        return self._add(tx, repository_id, digest, holder, now, confirm_until)

    def offer(
        self,
        db: Database,
        repository_id: int,
        digest: Digest,
        holder: Holder,
        now: datetime,
    ) -> bool:
        def promise(tx: Transaction) -> bool:
            if tx.row(_SHARE_BLOB, digest=digest) is None:
                return False
            # A new statement, so that it sees what was committed while the lock was waited for.
            if not _linked(tx, repository_id, digest):
                return False
            again = holder.confirms and self._confirmed(tx, repository_id, digest, holder, now)
            if not again:
                self._add(tx, repository_id, digest, holder, now, now)
            return True

        return db.write(promise)

    def redeem(
        self,
        tx: Transaction,
        repository_id: int,
        digests: Iterable[Digest],
        holder: Holder,
        *,
        witness: Digest | None = None,
    ) -> None:
        own = {"repository_id": repository_id, "digests": set(digests), "holder": holder.key}
        found = tx.values(_LOCK_OWN, **own)
        if witness and witness not in set(found):
            return
        tx.change(_TAKE_BACK, **own)
        tx.change(_DROP_REDEEMED, **own)

    def running(
        self, tx: Transaction, links: Sequence[Link], now: datetime
    ) -> dict[Digest, datetime]:
        if not links:
            return {}
        leased = self._running(tx, links, now, self._complete_from(tx, now))
        return {link.digest: until for link, until in leased.items()}

    def peek(self, tx: Transaction, links: Sequence[Link], now: datetime) -> dict[Link, datetime]:
        complete_from = self._known_complete_from(tx)
        if complete_from is None:
            # Forgotten in a crash; the next that may write remembers.
            complete_from = now + self.period
        leased: dict[Link, datetime] = {}
        by_repository: dict[int, list[Link]] = {}
        for link in links:
            by_repository.setdefault(link.repository_id, []).append(link)
        for same in by_repository.values():
            leased |= self._running(tx, same, now, complete_from)
        return leased

    def _running(
        self, tx: Transaction, links: Sequence[Link], now: datetime, complete_from: datetime
    ) -> dict[Link, datetime]:
        found = tx.rows(
            _RUNNING,
            repository_id=links[0].repository_id,
            digests=[link.digest for link in links],
            now=moment(now),
        )
        ends = {Digest(digest): from_moment(until) for digest, until in found}
        leased = {link: ends[link.digest] for link in links if link.digest in ends}
        for link in links if now < complete_from else ():
            if link.linked_at <= complete_from - self.period:
                leased[link] = max(complete_from, leased.get(link, complete_from))
        return leased

    def leased_in(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        found = tx.values(_LEASED_IN, repository_id=repository_id, now=moment(now))
        complete_from = self._known_complete_from(tx)
        if complete_from is None:
            complete_from = now + self.period
        doubted = complete_from - self.period if now < complete_from else None
        return Promised({Digest(digest) for digest in found}, doubted)

    def forget(self, tx: Transaction, repository_id: int, digests: Iterable[Digest]) -> None:
        tx.change(_FORGET, repository_id=repository_id, digests=digests)

    def expire(self, db: Database, now: datetime) -> None:
        ended = (
            sa.select(schema.leases.c.repository_id, schema.leases.c.digest, schema.leases.c.holder)
            .where(schema.leases.c.until <= moment(now))
            .limit(1000)
            .with_for_update(skip_locked=True)
        )
        key = sa.tuple_(
            schema.leases.c.repository_id, schema.leases.c.digest, schema.leases.c.holder
        )
        db.write(lambda tx: tx.execute(schema.leases.delete().where(key.in_(ended))))

    def shift(self, db: Database, by: timedelta) -> None:
        """Nothing to do: every process goes by the database server's clock."""

    def close(self, db: Database, now: datetime) -> None:
        """Nothing to do: the table outlives the process."""

    def _begin(self, tx: Transaction, now: datetime) -> None:
        """A registry that holds nothing yet has nothing to forget."""
        if tx.execute(sa.select(schema.repositories.c.id).limit(1)).first() is None:
            self._remember(tx, now)
        else:
            self._complete_from(tx, now)

    def _complete_from(self, tx: Transaction, now: datetime) -> datetime:
        """From when on no promise can be missing, remembered where a crash erases it too."""
        known = self._known_complete_from(tx)
        return known if known is not None else self._remember(tx, now + self.period)

    @staticmethod
    def _known_complete_from(tx: Transaction) -> datetime | None:
        known = tx.value(_COMPLETE_FROM)
        return from_moment(known) if known is not None else None

    @staticmethod
    def _remember(tx: Transaction, until: datetime) -> datetime:
        tx.execute(
            tx.insert(schema.lease_memory)
            .values(id=1, complete_from=moment(until))
            .on_conflict_do_nothing()
        )
        return until

    def _confirmed(
        self, tx: Transaction, repository_id: int, digest: Digest, holder: Holder, now: datetime
    ) -> bool:
        confirmed = tx.change(
            _CONFIRM_GRANT,
            repository_id=repository_id,
            digest=digest,
            holder=holder.key,
            now=moment(now),
        )
        return confirmed > 0

    def _add(
        self,
        tx: Transaction,
        repository_id: int,
        digest: Digest,
        holder: Holder,
        now: datetime,
        confirm_until: datetime,
    ) -> datetime:
        until = now + self.period
        tx.change(
            _ADD,
            repository_id=repository_id,
            digest=digest,
            holder=holder.key,
            grants=1,
            until=moment(until),
            confirm_until=moment(confirm_until),
            now=moment(now),
        )
        return until


def open_leases(db: Database, period: timedelta, now: datetime) -> Leases:
    kind = SqlLeases if db.dialect == "postgresql" else MemoryLeases
    return kind(db, period, now)


def _linked(tx: Transaction, repository_id: int, digest: Digest) -> bool:
    return tx.row(_LINKED, repository_id=repository_id, digest=digest) is not None


_LINKED = Statement(
    sa.select(schema.repo_blobs.c.digest)
    .join(schema.blobs, schema.blobs.c.digest == schema.repo_blobs.c.digest)
    .where(
        schema.repo_blobs.c.repository_id == bindparam("repository_id"),
        schema.repo_blobs.c.digest == bindparam("digest"),
        schema.blobs.c.damaged_at.is_(None),
    )
)
