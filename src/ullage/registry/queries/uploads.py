"""Upload sessions: where bytes that are not a blob yet are, and how many of them count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import accounts, content, space
from ullage.database.statements import LIMIT, Statement, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Ask, Question, Transaction
from ullage.oci.reference import RepositoryName
from ullage.registry.queries.identity import STORE
from ullage.registry.queries.processes import free

_uploads = space.uploads
_repositories = content.repositories
_facts = accounts.registry_facts


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session: `offset` bytes are stored under `key` and will not be lost.

    Without a repository it has no row yet, and no bytes that count.
    """

    id: str
    repository_id: int | None
    subject: str
    key: str
    algorithm: str
    offset: int
    # What the store needs to go on after the first `offset` bytes, for it alone to read.
    state: str = ""
    # Their digest in the making; None where it could not be saved.
    hash: bytes | None = field(default=None, repr=False)


_FIELDS = ("id", "repository_id", "subject", "storage_key", "algorithm", "offset", "state", "hash")
# Those of an `Upload`.
COLUMNS = tuple(_uploads.c[_FIELDS])


_THIS_ONE = given(_uploads, "id")

_CLAIM = ("claim", "claimed_by", "claimed_until")
_INSERT = Statement.insert(
    _uploads,
    (*_FIELDS, "stored", "created_at", "expires_at", *_CLAIM),
)
NO_CLAIM: Mapping[str, Any] = dict.fromkeys(_CLAIM)


def insert_upload(
    tx: Transaction,
    upload: Upload,
    now: datetime,
    expires_at: datetime,
    claim: Mapping[str, Any] = NO_CLAIM,
) -> None:
    """With the `claim` of the request that is at work on it (upload_claims.py: Claims.taken)."""
    tx.change(
        _INSERT,
        id=upload.id,
        repository_id=upload.repository_id,
        subject=upload.subject,
        storage_key=upload.key,
        algorithm=upload.algorithm,
        offset=upload.offset,
        state=upload.state,
        hash=upload.hash,
        stored=upload.offset,
        created_at=to_micros(now),
        expires_at=to_micros(expires_at),
        **claim,
    )


# In one statement, because every push asks for it for each of its blobs. As `ensure_repository`, it
# keeps those out who would remove the repository, or lock it.
_here = (
    sa.select(_repositories.c.id)
    .where(given(_repositories, "name"), _repositories.c.write_enabled)
    .with_for_update(key_share=True)
    .subquery("here")
)
_OPEN_COLUMNS = ("id", "subject", "storage_key", "algorithm", "created_at", "expires_at")
_OPEN_AT_ONCE = Statement(
    _uploads.insert()
    .inline()
    .from_select(
        ["repository_id", "offset", "state", "stored", *_OPEN_COLUMNS],
        sa.select(
            _here.c.id,
            sa.literal_column("0"),
            sa.literal_column("''"),
            sa.literal_column("0"),
            *(bindparam(name, type_=_uploads.c[name].type) for name in _OPEN_COLUMNS),
        ).where(
            sa.func.coalesce(
                sa.select(_facts.c.value).where(_facts.c.name == STORE).scalar_subquery(), ""
            )
            == bindparam("store")
        ),
    )
    .returning(_uploads.c.repository_id)
)


def open_at_once(
    tx: Transaction,
    name: RepositoryName,
    upload: Upload,
    store: str,
    now: datetime,
    expires_at: datetime,
) -> int | None:
    """Add a session without bytes to a repository that there is, in the store of this name.

    The repository's id; None if it does not exist, takes none, or the registry has moved.
    """
    found: int | None = tx.value(
        _OPEN_AT_ONCE,
        name=name,
        store=store,
        id=upload.id,
        subject=upload.subject,
        storage_key=upload.key,
        algorithm=upload.algorithm,
        created_at=to_micros(now),
        expires_at=to_micros(expires_at),
    )
    return found


_TAKE_UPLOADS = Statement.text(
    """
    SELECT asked.name FROM json_array_elements_text(CAST(:names AS json)) AS asked (name)
    LEFT JOIN repositories ON repositories.name = asked.name
    WHERE coalesce(repositories.write_enabled, true)
    AND coalesce((SELECT value FROM registry_facts WHERE name = 'store'), '') = :store
    """
)


def take_uploads(names: Iterable[RepositoryName], store: str) -> Question[set[str]]:
    """Which of these repositories, which need not exist yet, take uploads into this store."""
    return {
        row[0]
        for row in (yield Ask(_TAKE_UPLOADS, {"names": json.dumps([*names]), "store": store}))
    }


_COUNT = Statement(sa.select(sa.func.count()).select_from(_uploads))


def count_uploads(tx: Transaction) -> int:
    return int(tx.value(_COUNT))


# One statement, because every push asks for each of its blobs.
_COUNT_FOR = Statement(
    sa.select(
        sa.select(sa.func.count()).select_from(_uploads).scalar_subquery(),
        sa.select(sa.func.count())
        .select_from(_uploads)
        .where(given(_uploads, "subject"))
        .scalar_subquery(),
        sa.select(sa.func.count())
        .select_from(_uploads)
        .join(_repositories, _repositories.c.id == _uploads.c.repository_id)
        .where(given(_repositories, "name"))
        .scalar_subquery(),
        sa.select(_repositories.c.write_enabled)
        .where(given(_repositories, "name"))
        .scalar_subquery(),
    )
)


class OpenUploads(NamedTuple):
    """How many sessions have a row: all, an account's, a repository's; and whether the repository,
    which need not exist yet, takes another."""

    all: int
    of_account: int
    of_repository: int
    writable: bool


def count_uploads_for(tx: Transaction, name: RepositoryName, subject: str) -> OpenUploads:
    row = tx.rows(_COUNT_FOR, name=name, subject=subject)[0]
    return OpenUploads(row[0], row[1], row[2], row[3] is None or bool(row[3]))


_COUNT_OF = Statement(
    sa.select(sa.func.count())
    .select_from(_uploads)
    .join(_repositories, _repositories.c.id == _uploads.c.repository_id)
    .where(given(_repositories, "name"))
)


def count_uploads_of(tx: Transaction, name: RepositoryName) -> int:
    """How many sessions a repository has, by its name; it need not exist."""
    return int(tx.value(_COUNT_OF, name=name))


# Without a byte, and no request is at work on it: of the account that has most of them, the one
# that was opened first.
_others = _uploads.alias()
_OF_SUBJECT = bindparam("of_subject", type_=sa.Text)
_OF_NAME = bindparam("of_name", type_=sa.Text)
_EMPTY = sa.and_(_uploads.c.offset == 0, free(_uploads))
_FIND_EMPTY = Statement(
    sa.select(*COLUMNS)
    .join(_repositories, _repositories.c.id == _uploads.c.repository_id)
    .where(
        _EMPTY,
        sa.or_(_OF_SUBJECT.is_(None), _uploads.c.subject == _OF_SUBJECT),
        sa.or_(_OF_NAME.is_(None), _repositories.c.name == _OF_NAME),
    )
    .order_by(
        sa.select(sa.func.count())
        .select_from(_others)
        .where(_others.c.subject == _uploads.c.subject)
        .scalar_subquery()
        .desc(),
        _uploads.c.expires_at,
        _uploads.c.id,
    )
    .limit(1)
)


def find_empty(
    tx: Transaction, now: datetime, *, subject: str | None, name: RepositoryName | None
) -> Upload | None:
    """The session that makes way for another, among all, or an account's or a repository's."""
    row = tx.row(_FIND_EMPTY, now=to_micros(now), of_subject=subject, of_name=name)
    return Upload(*row) if row else None


_COUNT_BY_ACCOUNT = Statement(
    sa.select(_uploads.c.subject, sa.func.count())
    .join(_repositories, _repositories.c.id == _uploads.c.repository_id)
    .where(sa.or_(_OF_NAME.is_(None), _repositories.c.name == _OF_NAME))
    .group_by(_uploads.c.subject)
)
_FIND_IDLEST = Statement(
    sa.select(*COLUMNS, _uploads.c.expires_at)
    .join(_repositories, _repositories.c.id == _uploads.c.repository_id)
    .where(
        given(_uploads, "subject"),
        sa.or_(_OF_NAME.is_(None), _repositories.c.name == _OF_NAME),
        _uploads.c.offset > 0,
        free(_uploads),
    )
    .order_by(_uploads.c.expires_at, _uploads.c.id)
    .limit(1)
)


def count_by_account(tx: Transaction, name: RepositoryName | None) -> dict[str, int]:
    """How many sessions each account has, in all or in a repository."""
    return dict(tx.rows(_COUNT_BY_ACCOUNT, of_name=name))


def count_of_each_account() -> Question[dict[str, int]]:
    """As count_by_account, in all."""
    return dict((yield Ask(_COUNT_BY_ACCOUNT, {"of_name": None})))


def find_idlest(
    tx: Transaction, now: datetime, subject: str, name: RepositoryName | None
) -> tuple[Upload, datetime] | None:
    """The account's session with bytes to which nothing has come for longest, and its end."""
    row = tx.row(_FIND_IDLEST, now=to_micros(now), subject=subject, of_name=name)
    return (Upload(*row[:-1]), from_micros(row[-1])) if row else None


_FIND = Statement(
    sa.select(*COLUMNS)
    .join(_repositories, _repositories.c.id == _uploads.c.repository_id)
    .where(_THIS_ONE, given(_repositories, "name"))
)


def find_upload(tx: Transaction, name: RepositoryName, upload_id: str) -> Upload | None:
    """The session, if it belongs to this repository."""
    row = tx.row(_FIND, id=upload_id, name=name)
    return Upload(*row) if row else None


# The request at work has it still (upload_claims.py: fence). A late one changes nothing.
_CLAIMED = sa.and_(_THIS_ONE, _uploads.c.claim.is_not_distinct_from(bindparam("fence")))
_SET_OFFSET = Statement(
    _uploads.update()
    .where(_CLAIMED)
    .values(
        offset=bindparam("offset"),
        state=bindparam("state"),
        hash=bindparam("hash"),
        stored=bindparam("offset"),
        expires_at=bindparam("expires_at"),
    )
)


def set_offset(tx: Transaction, upload: Upload, fence: str | None, expires_at: datetime) -> bool:
    """Record how many bytes are safe, and what goes on after them.

    False if the session has ended or is another request's.
    """
    changed = tx.change(
        _SET_OFFSET,
        id=upload.id,
        fence=fence,
        offset=upload.offset,
        state=upload.state,
        hash=upload.hash,
        expires_at=to_micros(expires_at),
    )
    return changed == 1


_SET_STATE = Statement(
    _uploads.update().where(_CLAIMED).values(state=bindparam("state"), stored=bindparam("stored"))
)


def set_state(tx: Transaction, upload: Upload, fence: str | None, stored: int) -> bool:
    """Record what is stored for the session before more of it is safe. False as set_offset."""
    changed = tx.change(_SET_STATE, id=upload.id, fence=fence, state=upload.state, stored=stored)
    return changed == 1


_PROLONG = Statement(
    _uploads.update()
    .where(_CLAIMED)
    .values(stored=bindparam("stored"), expires_at=bindparam("expires_at"))
)


def prolong(
    tx: Transaction, upload_id: str, fence: str | None, stored: int, expires_at: datetime
) -> bool:
    """Bytes are arriving, `stored` by now: keep the session from expiring. False as set_offset."""
    values = {"stored": stored, "expires_at": to_micros(expires_at)}
    return tx.change(_PROLONG, id=upload_id, fence=fence, **values) == 1


_FINISH = Statement(_uploads.delete().where(_CLAIMED, given(_uploads, "repository_id")))


def finish_upload(tx: Transaction, upload_id: str, fence: str | None, repository_id: int) -> bool:
    """End the session, of this repository, for the request that has claimed it.

    False as set_offset.
    """
    return tx.change(_FINISH, id=upload_id, fence=fence, repository_id=repository_id) == 1


class EndedUpload(NamedTuple):
    """Where a session was that has ended, and what the store keeps for it beside its key."""

    repository_id: int
    state: str


_DELETE_ANY = (
    _uploads.delete().where(_THIS_ONE).returning(_uploads.c.repository_id, _uploads.c.state)
)
_DELETE = Statement(_DELETE_ANY)


def delete_upload(tx: Transaction, upload_id: str) -> EndedUpload | None:
    """End the session whatever request is at work on it; None if it has ended.

    The transaction that ends a session answers for its bytes.
    """
    row = tx.row(_DELETE, id=upload_id)
    return EndedUpload(*row) if row else None


# Idle for too long, and not being worked on.
_EXPIRED = sa.and_(_uploads.c.expires_at <= bindparam("now"), free(_uploads))
_DELETE_EXPIRED = Statement(_DELETE_ANY.where(_EXPIRED))
_DELETE_EMPTY = Statement(_DELETE_ANY.where(_EMPTY))
_DELETE_IDLE = Statement(
    _DELETE_ANY.where(_uploads.c.expires_at <= bindparam("until"), free(_uploads))
)


def delete_expired_upload(tx: Transaction, upload_id: str, now: datetime) -> EndedUpload | None:
    """As delete_upload, unless its client came back to the session since it was found expired."""
    row = tx.row(_DELETE_EXPIRED, id=upload_id, now=to_micros(now))
    return EndedUpload(*row) if row else None


def delete_empty_upload(tx: Transaction, upload_id: str, now: datetime) -> EndedUpload | None:
    """As delete_upload, unless a request came to the session since it was found without a byte."""
    row = tx.row(_DELETE_EMPTY, id=upload_id, now=to_micros(now))
    return EndedUpload(*row) if row else None


def delete_idle_upload(
    tx: Transaction, upload_id: str, until: datetime, now: datetime
) -> EndedUpload | None:
    """As delete_upload, unless bytes have come since it was found to last `until` then."""
    row = tx.row(_DELETE_IDLE, id=upload_id, until=to_micros(until), now=to_micros(now))
    return EndedUpload(*row) if row else None


_FIND_EXPIRED = Statement(
    sa.select(*COLUMNS).where(_EXPIRED).order_by(_uploads.c.expires_at).limit(LIMIT)
)


def expired_uploads(tx: Transaction, now: datetime, limit: int) -> list[Upload]:
    """Sessions to clean up: idle for too long and not being worked on."""
    return [Upload(*row) for row in tx.rows(_FIND_EXPIRED, now=to_micros(now), limit=limit)]


_OF_REPOSITORY = given(_uploads, "repository_id")
_SOME_OF = Statement(sa.select(*COLUMNS).where(_OF_REPOSITORY).limit(LIMIT))
_COUNT_IN = Statement(sa.select(sa.func.count()).select_from(_uploads).where(_OF_REPOSITORY))
_IN_DELETED = Statement(
    sa.select(*COLUMNS)
    .join(_repositories, _repositories.c.id == _uploads.c.repository_id)
    .where(_repositories.c.deleted_at.is_not(None))
)
_UPLOADING = Statement(sa.select(sa.func.coalesce(sa.func.sum(_uploads.c.offset), 0)))
_SHIFT = Statement(_uploads.update().values(expires_at=_uploads.c.expires_at + bindparam("by")))


def uploads_of(tx: Transaction, repository_id: int, limit: int) -> list[Upload]:
    return [Upload(*row) for row in tx.rows(_SOME_OF, repository_id=repository_id, limit=limit)]


_ALL_OF = Statement(sa.select(*COLUMNS).where(given(_uploads, "subject")))


class ListedUpload(NamedTuple):
    """A session as it is shown: of which repository, and until when."""

    upload: Upload
    repository: str
    expires_at: datetime


_OPEN = Statement(
    sa.select(*COLUMNS, _repositories.c.name, _uploads.c.expires_at).join(
        _repositories, _repositories.c.id == _uploads.c.repository_id
    )
)


def open_uploads(tx: Transaction) -> list[ListedUpload]:
    """All sessions; there are at most as many as may be open."""
    return [
        ListedUpload(Upload(*facts), name, from_micros(expires_at))
        for *facts, name, expires_at in tx.rows(_OPEN)
    ]


def uploads_of_account(tx: Transaction, subject: str) -> list[Upload]:
    return [Upload(*row) for row in tx.rows(_ALL_OF, subject=subject)]


def count_uploads_in(tx: Transaction, repository_id: int) -> int:
    """How many sessions a repository has."""
    return int(tx.value(_COUNT_IN, repository_id=repository_id))


def uploads_in_deleted_repositories(tx: Transaction) -> list[Upload]:
    """Sessions whose repository was deleted around them."""
    return [Upload(*row) for row in tx.rows(_IN_DELETED)]


def uploading_bytes(tx: Transaction) -> int:
    """Bytes stored in all sessions."""
    return int(tx.value(_UPLOADING))


def shift_uploads(tx: Transaction, by_microseconds: int) -> None:
    """The clock was put forward or back: sessions last as long as they would have."""
    tx.change(_SHIFT, by=by_microseconds)
