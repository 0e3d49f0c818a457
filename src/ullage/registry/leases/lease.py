"""What a promise is, to which pusher, and what the record of them can be asked."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import sqlalchemy as sa

from ullage.database.schema import content
from ullage.database.statements import Statement, given
from ullage.database.transaction import Database, Transaction
from ullage.oci.digest import Digest

log = logging.getLogger(__name__)

# How long after its upload or mount a client may ask for the same blob once more without that
# counting as a second push. Docker's daemon does so (distribution/registry/client, blob_writer.go:
# Commit ends with a Stat), on whichever of its connections is free.
CONFIRM = timedelta(seconds=10)


class Pusher(NamedTuple):
    """The client that a promise was made to, as far as can be told from requests."""

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


class Grant(NamedTuple):
    """A blob of a repository, and to which pusher it is promised."""

    repository_id: int
    digest: Digest
    pusher: Pusher


class Leases(Protocol):
    period: timedelta

    def grant(self, tx: Transaction, grants: Sequence[Grant], now: datetime) -> datetime:
        """In the transaction that links blobs: promise them; returns until when.

        No two of the grants are of one link.
        """

    def offer(
        self, db: Database, repository_id: int, digest: Digest, pusher: Pusher, now: datetime
    ) -> bool:
        """Promise a blob that was just seen linked; False if it is gone or going after all."""

    def redeem(
        self,
        tx: Transaction,
        repository_id: int,
        digests: Iterable[Digest],
        pusher: Pusher,
        *,
        witness: Digest | None = None,
    ) -> None:
        """A manifest kept the promise: take back one grant of `pusher` for each digest.

        With a `witness`, one of them: only if that one was promised, else take back none.
        """

    def running(
        self, tx: Transaction, links: Sequence[Link], now: datetime
    ) -> dict[Digest, datetime]:
        """Which of these links (of one repository) are leased, and until when.

        The caller has locked the blobs' rows. A link not in the answer may be dropped in this
        transaction: it is promised to no pusher before the transaction has ended.
        """

    def peek(self, tx: Transaction, links: Collection[Link], now: datetime) -> dict[Link, datetime]:
        """As `running`, for links of any repositories and for nothing but to know: no promise."""

    def leased_in(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        """All that is promised in a repository, to know, as `peek`."""

    def leave(self, tx: Transaction, repository_id: int, now: datetime) -> Promised:
        """In the transaction that has taken a repository's name away: what is promised there.

        Nothing more is, unless the transaction is rolled back.
        """

    def follow(self, tx: Transaction, repository_id: int, successor_id: int) -> None:
        """After `leave`: what was promised there is promised in another repository instead."""

    def forget(self, tx: Transaction, repository_id: int, digests: Iterable[Digest]) -> None:
        """The link is gone by an explicit request, and every promise with it."""

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


def warn_of_forgotten(whose: str, until: datetime, now: datetime) -> None:
    """Tell the operator once why bytes of deletions do not come back before `until`.

    `whose` last stop was not clean, in words. The time is the machine's, as in the rest of the log.
    """
    here, today = until.astimezone(), now.astimezone().date()
    spelled = f"{here:%H:%M}" if here.date() == today else f"{here:%Y-%m-%d %H:%M}"
    log.warning(
        "%s was not clean: what was promised to pushes is unknown, so the bytes of deletions stay "
        "until %s (--lease)",
        whose,
        spelled,
    )


_LINKED = Statement(
    sa.select(content.repo_blobs.c.digest)
    .join(content.blobs, content.blobs.c.digest == content.repo_blobs.c.digest)
    .join(content.repositories, content.repositories.c.id == content.repo_blobs.c.repository_id)
    .where(
        given(content.repo_blobs, "repository_id", "digest"),
        content.blobs.c.damaged_at.is_(None),
        content.repositories.c.name.is_not(None),
    )
)


def is_linked(tx: Transaction, repository_id: int, digest: Digest) -> bool:
    """Whether the repository is there and has the blob, undamaged: only that can be promised."""
    return tx.row(_LINKED, repository_id=repository_id, digest=digest) is not None
