"""Leases in an UNLOGGED table, for many processes on PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import content, space
from ullage.database.statements import Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Database, Transaction
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
from ullage.registry.leases.shared_grants import SharedGrants

_leases = space.leases
# Nothing of an offer has to outlive a crash, so nothing waits for a disk: neither the
# client nor the next request for the same blob, which waits for the row lock of this one.
# The repository's row is locked first, as a foreign key would: this waits for a transaction that
# takes its name away, and that one for this. So it promises before the other looks what is
# promised, or not at all.
_SHARE_BLOB = Statement(
    sa.select(content.blobs.c.digest, sa.func.set_config("synchronous_commit", "off", sa.true()))
    .select_from(content.repositories.join(content.blobs, sa.true()))
    .where(
        content.repositories.c.id == bindparam("repository_id"),
        content.repositories.c.name.is_not(None),
        given(content.blobs, "digest"),
        content.blobs.c.damaged_at.is_(None),
    )
    .with_for_update(read=True, key_share=True)
)
_THESE = sa.and_(given(_leases, "repository_id"), among(_leases.c.digest, "digests"))
# In one statement: it goes by what the rows have once they are locked, in the order in which others
# lock them, too.
_TAKE_BACK = Statement.text(
    """
    WITH own AS MATERIALIZED (
        SELECT repository_id, digest, holder, grants FROM leases
        WHERE repository_id = :repository_id AND digest AMONG :digests AND holder = :holder
        ORDER BY digest FOR UPDATE
    ), due AS (
        SELECT * FROM own WHERE CAST(:witness AS text) IS NULL
        OR EXISTS (SELECT 1 FROM own AS config WHERE config.digest = :witness)
    ), lowered AS (
        UPDATE leases SET grants = due.grants - 1 FROM due
        WHERE leases.repository_id = due.repository_id AND leases.digest = due.digest
        AND leases.holder = due.holder AND due.grants > 1
    )
    DELETE FROM leases USING due
    WHERE leases.repository_id = due.repository_id AND leases.digest = due.digest
    AND leases.holder = due.holder AND due.grants <= 1
    """
)
_RUNNING = Statement(
    sa.select(_leases.c.digest, sa.func.max(_leases.c.until))
    .where(_THESE, _leases.c.until > bindparam("now"))
    .group_by(_leases.c.digest)
)
_LEASED_IN = Statement(
    sa.select(_leases.c.digest)
    .where(given(_leases, "repository_id"), _leases.c.until > bindparam("now"))
    .distinct()
)
_FORGET = Statement(_leases.delete().where(_THESE))
_FORGET_ALL_IN = Statement(_leases.delete().where(given(_leases, "repository_id")))
_MOVE = Statement(
    _leases.update()
    .where(_leases.c.repository_id == bindparam("source"))
    .values(repository_id=bindparam("target"))
)
_COMPLETE_FROM = Statement(sa.select(space.lease_memory.c.complete_from))
_CONFIRM_GRANT = Statement(
    _leases.update()
    .where(
        given(_leases, "repository_id", "digest", "holder"),
        _leases.c.confirm_until > bindparam("now"),
    )
    .values(confirm_until=bindparam("now"))
)


def _more(insert: Any) -> sa.Insert:
    # What ended but was not swept up yet starts again from one.
    counted = sa.case((_leases.c.until > bindparam("now"), _leases.c.grants), else_=0)
    added: sa.Insert = insert.on_conflict_do_update(
        index_elements=["repository_id", "digest", "holder"],
        set_={
            "grants": counted + insert.excluded.grants,
            "until": insert.excluded.until,
            "confirm_until": insert.excluded.confirm_until,
        },
    )
    return added


_ADD = Statement.insert(
    _leases,
    ("repository_id", "digest", "holder", "grants", "until", "confirm_until"),
    _more,
    in_sets=True,
)
_KEY = tuple(_leases.c["repository_id", "digest", "holder"])
_EXPIRE = Statement(
    _leases.delete().where(
        sa.tuple_(*_KEY).in_(
            sa.select(*_KEY)
            .where(_leases.c.until <= bindparam("now"))
            .limit(1000)
            .with_for_update(skip_locked=True)
        )
    )
)
_ANY_REPOSITORY = Statement(sa.select(content.repositories.c.id).limit(1))
_REMEMBER = Statement.insert(
    space.lease_memory,
    ("id", "complete_from"),
    lambda insert: insert.on_conflict_do_nothing(index_elements=["id"]),
)


class SqlLeases:
    """For many processes on PostgreSQL. The blob's row lock orders promises and deletions."""

    def __init__(self, db: Database, period: timedelta, now: datetime) -> None:
        self.period = period
        # Pushes of one client (jobs behind one address, say) that ask for the same layer at once
        # would wait for each other's row anyway.
        self.offers: SharedGrants[tuple[int, Digest, Pusher], datetime, bool] = SharedGrants()
        db.write(lambda tx: self._begin(tx, now))

    def grant(self, tx: Transaction, grants: Sequence[Grant], now: datetime) -> datetime:
        until = now + self.period
        # In the order in which offers.py takes them.
        rows = [
            _added(grant, now, until, confirm_until=now + CONFIRM if grant.pusher.confirms else now)
            for grant in sorted(grants)
        ]
        tx.many(_ADD, rows)
        return until

    def offer(
        self, db: Database, repository_id: int, digest: Digest, pusher: Pusher, now: datetime
    ) -> bool:
        def promise_all(moments: Sequence[datetime]) -> bool:
            latest, n = max(moments), len(moments)
            return db.write(lambda tx: self._offer(tx, repository_id, digest, pusher, latest, n))

        return self.offers.join((repository_id, digest, pusher), now, promise_all)

    def _offer(
        self,
        tx: Transaction,
        repository_id: int,
        digest: Digest,
        pusher: Pusher,
        now: datetime,
        n: int,
    ) -> bool:
        """Promise the blob `n` times, once for each request that asked for it together."""
        if tx.row(_SHARE_BLOB, repository_id=repository_id, digest=digest) is None:
            return False
        # A new statement, so that it sees what was committed while the lock was waited for.
        if not is_linked(tx, repository_id, digest):
            return False
        if pusher.confirms and self._confirmed(tx, repository_id, digest, pusher, now):
            n -= 1
        if n:
            grant = Grant(repository_id, digest, pusher)
            tx.many(_ADD, [_added(grant, now, now + self.period, confirm_until=now, grants=n)])
        return True

    def redeem(
        self,
        tx: Transaction,
        repository_id: int,
        digests: Iterable[Digest],
        pusher: Pusher,
        *,
        witness: Digest | None = None,
    ) -> None:
        own = {"repository_id": repository_id, "digests": set(digests), "holder": pusher.key}
        tx.change(_TAKE_BACK, witness=witness, **own)

    def running(
        self, tx: Transaction, links: Sequence[Link], now: datetime
    ) -> dict[Digest, datetime]:
        if not links:
            return {}
        leased = self._running(tx, links, now, self._complete_from(tx, now))
        return {link.digest: until for link, until in leased.items()}

    def peek(self, tx: Transaction, links: Collection[Link], now: datetime) -> dict[Link, datetime]:
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
            now=to_micros(now),
        )
        ends = {Digest(digest): from_micros(until) for digest, until in found}
        leased = {link: ends[link.digest] for link in links if link.digest in ends}
        for link in links if now < complete_from else ():
            if link.linked_at <= complete_from - self.period:
                leased[link] = max(complete_from, leased.get(link, complete_from))
        return leased

    def leased_in(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        found = tx.values(_LEASED_IN, repository_id=repository_id, now=to_micros(now))
        complete_from = self._known_complete_from(tx)
        if complete_from is None:
            complete_from = now + self.period
        doubted = complete_from - self.period if now < complete_from else None
        return Promised({Digest(digest) for digest in found}, doubted)

    def leave(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        return self.leased_in(tx, repository_id, now)

    def follow(self, tx: Transaction, repository_id: int, successor_id: int) -> None:
        # Of a repository that is new, or was hidden: nothing is promised there that counts.
        tx.change(_FORGET_ALL_IN, repository_id=successor_id)
        tx.change(_MOVE, source=repository_id, target=successor_id)

    def forget(self, tx: Transaction, repository_id: int, digests: Iterable[Digest]) -> None:
        tx.change(_FORGET, repository_id=repository_id, digests=digests)

    def expire(self, db: Database, now: datetime) -> None:
        db.write(lambda tx: tx.change(_EXPIRE, now=to_micros(now)))

    def shift(self, db: Database, by: timedelta) -> None:
        """Nothing to do: every process goes by the database server's clock."""

    def close(self, db: Database, now: datetime) -> None:
        """Nothing to do: the table outlives the process."""

    def _begin(self, tx: Transaction, now: datetime) -> None:
        """An empty registry has nothing to forget."""
        if tx.row(_ANY_REPOSITORY) is None:
            self._remember(tx, now)
        else:
            self._complete_from(tx, now)

    def _complete_from(self, tx: Transaction, now: datetime) -> datetime:
        """From when on no promise can be missing, remembered where a crash erases it too."""
        known = self._known_complete_from(tx)
        if known is not None:
            return known
        until = now + self.period
        if self._remember(tx, until):
            tx.after_commit(
                lambda: warn_of_forgotten("the last stop of the database server", until, now)
            )
        return until

    @staticmethod
    def _known_complete_from(tx: Transaction) -> datetime | None:
        known = tx.value(_COMPLETE_FROM)
        return from_micros(known) if known is not None else None

    @staticmethod
    def _remember(tx: Transaction, until: datetime) -> bool:
        """False if another process was faster."""
        return tx.change(_REMEMBER, id=1, complete_from=to_micros(until)) == 1

    def _confirmed(
        self, tx: Transaction, repository_id: int, digest: Digest, pusher: Pusher, now: datetime
    ) -> bool:
        confirmed = tx.change(
            _CONFIRM_GRANT,
            repository_id=repository_id,
            digest=digest,
            holder=pusher.key,
            now=to_micros(now),
        )
        return confirmed > 0


def _added(
    grant: Grant, now: datetime, until: datetime, *, confirm_until: datetime, grants: int = 1
) -> dict[str, Any]:
    return {
        "repository_id": grant.repository_id,
        "digest": grant.digest,
        "holder": grant.pusher.key,
        "grants": grants,
        "until": to_micros(until),
        "confirm_until": to_micros(confirm_until),
        "now": to_micros(now),
    }
