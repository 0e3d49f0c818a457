"""Upload sessions that have ended as blobs, and tickets that are spent: remembered for a while."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import space
from ullage.database.statements import Statement, given
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName

_finished = space.finished_uploads

_ENDED = ("id", "repository", "subject", "digest", "forget_at")
_REMEMBER = Statement.insert(
    _finished,
    _ENDED,
    lambda insert: insert.on_conflict_do_update(
        index_elements=["id"],
        set_={name: insert.excluded[name] for name in ("digest", "forget_at")},
    ),
    in_sets=True,
)


class Ended(NamedTuple):
    """A session of an account in a repository: the blob that it became, "" for none yet."""

    id: str
    repository: RepositoryName
    subject: str
    digest: Digest | Literal[""]
    forget_at: datetime


def remember_finished(tx: Transaction, ended: Sequence[Ended]) -> None:
    """So that a client that lost the answer to its last PUT may ask again."""
    tx.many(_REMEMBER, [_row_of(each) for each in ended])


def _row_of(ended: Ended) -> dict[str, Any]:
    return {**ended._asdict(), "forget_at": to_micros(ended.forget_at)}


_SPEND = Statement.insert(
    _finished,
    _ENDED,
    lambda insert: insert.on_conflict_do_nothing(index_elements=["id"]),
    in_sets=True,
)


def spend_tickets(tx: Transaction, ended: Sequence[Ended]) -> bool:
    """Use up tickets of sessions without a row (push/tickets.py); False if one has been."""
    return tx.many(_SPEND, [_row_of(each) for each in ended]) == len(ended)


_FIND_FINISHED = Statement(
    sa.select(*_finished.c["subject", "digest"]).where(given(_finished, "id", "repository"))
)


def find_finished(
    tx: Transaction, name: RepositoryName, upload_id: str
) -> tuple[str, Digest] | None:
    """The account that finished this session, and as which blob; "" if it only spent a ticket."""
    row = tx.row(_FIND_FINISHED, id=upload_id, repository=name)
    return (row[0], Digest(row[1])) if row else None


_TO_FORGET = _finished.c.forget_at <= bindparam("now")
_FIND_TO_FORGET = Statement(sa.select(_finished.c.id).where(_TO_FORGET).limit(1))
_FORGET = Statement(_finished.delete().where(_TO_FORGET))


def finished_to_forget(tx: Transaction, now: datetime) -> bool:
    return tx.row(_FIND_TO_FORGET, now=to_micros(now)) is not None


def forget_finished(tx: Transaction, now: datetime) -> None:
    tx.change(_FORGET, now=to_micros(now))
