"""Leases in memory, where one process owns the database."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from ullage.database.schema import content, space
from ullage.database.statements import Statement
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Database, Row, Transaction
from ullage.oci.digest import Digest
from ullage.registry.leases.lease import (
    CONFIRM,
    Grant,
    Link,
    Promised,
    Pusher,
    is_linked,
    warn_of_forgotten,
)

_leases = space.leases
_memory = space.lease_memory
_SAVED = Statement(sa.select(*_leases.c))
_SAVE = Statement.insert(_leases, _leases.c.keys())
_FORGET_SAVED = Statement(_leases.delete())
_COMPLETE_FROM = Statement(sa.select(_memory.c.complete_from))
_REMEMBER = Statement.insert(_memory, _memory.c.keys())
_FORGET = Statement(_memory.delete())
_ANY_REPOSITORY = Statement(sa.select(content.repositories.c.id).limit(1))


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
        # Repositories that a transaction that has not ended takes away, and where their promises
        # live on.
        self._leaving: dict[int, int | None] = {}
        self._started = now
        self._complete_from = self._load(db, now)

    def grant(self, tx: Transaction, grants: Sequence[Grant], now: datetime) -> datetime:
        with self._lock:
            for repository_id, digest, pusher in grants:
                grant = self._add((repository_id, digest), pusher, now)
                if pusher.confirms:
                    grant.confirm_until = now + CONFIRM
        return now + self.period

    def offer(
        self, db: Database, repository_id: int, digest: Digest, pusher: Pusher, now: datetime
    ) -> bool:
        link = (repository_id, digest)
        with self._lock:
            if link in self._going:
                return False
            grant = self._grants.get(self._place(link), {}).get(pusher.key)
            if grant is not None and now < grant.confirm_until:
                # The same push asking again. What it was promised still stands.
                grant.confirm_until = now
                return True
            if repository_id in self._leaving:
                return False
            self._add(link, pusher, now)
        # Granted first, looked at second: what drops the link from now on sees the grant.
        if db.cached_read(("linked", *link), lambda tx: is_linked(tx, *link), lambda _: 0):
            return True
        with self._lock:
            self._take_back(link, pusher.key)
        return False

    def redeem(
        self,
        tx: Transaction,
        repository_id: int,
        digests: Iterable[Digest],
        pusher: Pusher,
        *,
        witness: Digest | None = None,
    ) -> None:
        links = [(repository_id, digest) for digest in digests]

        def take_back() -> None:
            with self._lock:
                if witness and pusher.key not in self._grants.get(
                    self._place((repository_id, witness)), {}
                ):
                    return
                for link in links:
                    self._take_back(self._place(link), pusher.key)

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

    def peek(self, tx: Transaction, links: Collection[Link], now: datetime) -> dict[Link, datetime]:
        with self._lock:
            ends = {link: self._until(link, now) for link in links}
        return {link: until for link, until in ends.items() if until is not None}

    def leased_in(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        with self._lock:
            promised = {digest for id_, digest in self._grants if id_ == repository_id}
            return Promised(promised, self._started if now < self._complete_from else None)

    def leave(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        with self._lock:
            self._leaving[repository_id] = None
        tx.at_end(lambda: self._left(repository_id))
        return self.leased_in(tx, repository_id, now)

    def follow(self, tx: Transaction, repository_id: int, successor_id: int) -> None:
        # At once: what runs before the same commit already sees the successor.
        self._move(repository_id, successor_id)
        committed: list[bool] = []
        tx.after_commit(lambda: committed.append(True))
        tx.at_end(lambda: None if committed else self._move(successor_id, repository_id))

    def _move(self, source_id: int, target_id: int) -> None:
        with self._lock:
            if source_id in self._leaving:
                self._leaving[source_id] = target_id
            for link in [link for link in self._grants if link[0] == source_id]:
                grants = self._grants.setdefault((target_id, link[1]), {})
                for key, grant in self._grants.pop(link).items():
                    there = grants.setdefault(key, _Grant(0, grant.until, grant.confirm_until))
                    there.count += grant.count
                    there.until = max(there.until, grant.until)
                    there.confirm_until = max(there.confirm_until, grant.confirm_until)

    def _left(self, repository_id: int) -> None:
        with self._lock:
            self._leaving.pop(repository_id, None)

    def _place(self, link: tuple[int, Digest]) -> tuple[int, Digest]:
        """Where a promise is kept that was made while its repository was there."""
        repository_id, digest = link
        # One commit may take several incarnations away, one after the other.
        while (successor_id := self._leaving.get(repository_id)) is not None:
            repository_id = successor_id
        return repository_id, digest

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
                    "until": to_micros(grant.until),
                    "confirm_until": to_micros(grant.confirm_until),
                }
                for (repository_id, digest), grants in self._grants.items()
                for key, grant in grants.items()
                if grant.until > now
            ]
            complete_from = self._complete_from

        def save(tx: Transaction) -> None:
            tx.change(_FORGET_SAVED)
            tx.many(_SAVE, rows)
            tx.change(_REMEMBER, id=1, complete_from=to_micros(complete_from))

        # On a full disk as well: a promise that is forgotten keeps bytes for longer.
        db.write(save, freeing=True)

    def _load(self, db: Database, now: datetime) -> datetime:
        """Take back what a clean stop saved; returns from when on nothing can be missing."""

        def take(tx: Transaction) -> tuple[int | None, list[Row]]:
            saved = tx.value(_COMPLETE_FROM)
            rows = tx.rows(_SAVED)
            # From here on a crash means that promises are forgotten; only a clean stop undoes this.
            tx.change(_FORGET)
            tx.change(_FORGET_SAVED)
            if saved is None and tx.row(_ANY_REPOSITORY) is None:
                saved = to_micros(now)
            return saved, rows

        if db.damage is not None:
            # It is only read, and nothing is given up.
            return now + self.period
        saved, rows = db.write(take, freeing=True)
        for repository_id, digest, key, count, until, confirm_until in rows:
            grants = self._grants.setdefault((repository_id, Digest(digest)), {})
            grants[key] = _Grant(count, from_micros(until), from_micros(confirm_until))
        if saved is not None:
            return from_micros(saved)
        complete_from = now + self.period
        warn_of_forgotten("the last stop", complete_from, now)
        return complete_from

    def _add(self, link: tuple[int, Digest], pusher: Pusher, now: datetime) -> _Grant:
        grants = self._grants.setdefault(link, {})
        grant = grants.get(pusher.key)
        if grant is None or grant.until <= now:
            grant = grants[pusher.key] = _Grant(0, now, now)
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
