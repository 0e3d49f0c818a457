"""Pulls: when something was pulled last, by which class of pullers, and how often on each day.

Times only ever grow, whichever process writes first. Nothing here is on the way of a pull.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import cleaning, content
from ullage.database.statements import Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_manifest_pulls = cleaning.manifest_pulls
_tag_pulls = cleaning.tag_pulls
_history = cleaning.pull_history

_DAY = int(timedelta(days=1) / timedelta(microseconds=1))


class Pulled(NamedTuple):
    """A manifest that is there to be written about."""

    id: int
    repository_id: int
    repository: RepositoryName
    digest: Digest


class LastPull(NamedTuple):
    puller: str
    at: datetime


# --- writing --------------------------------------------------------------------------------------

# A deletion has locked its rows: what is on its way out is left out, and nothing waits.
_LOCK_MANIFESTS = Statement(
    sa.select(
        _manifests.c.id, _manifests.c.repository_id, _repositories.c.name, _manifests.c.digest
    )
    .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
    .where(among(_manifests.c.id, "ids"), _repositories.c.name.is_not(None))
    .order_by(_manifests.c.id)
    .with_for_update(key_share=True, read=True, skip_locked=True, of=_manifests)
)
_LOCK_TAGS = Statement(
    sa.select(_tags.c.repository_id, _tags.c.name)
    .where(among(_tags.c.repository_id, "repository_ids"), among(_tags.c.name, "names"))
    .order_by(_tags.c.repository_id, _tags.c.name)
    .with_for_update(key_share=True, read=True, skip_locked=True)
)


def lock_manifests(tx: Transaction, ids: Collection[int]) -> dict[int, Pulled]:
    """Those of these manifests that are there, and stay until the transaction ends."""
    rows = tx.rows(_LOCK_MANIFESTS, ids=ids)
    return {row[0]: Pulled(row[0], row[1], RepositoryName(row[2]), Digest(row[3])) for row in rows}


def lock_tags(tx: Transaction, wanted: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
    """As lock_manifests, for tags: repository's id and name."""
    rows = tx.rows(
        _LOCK_TAGS, repository_ids={each[0] for each in wanted}, names={each[1] for each in wanted}
    )
    return {(row[0], row[1]) for row in rows} & set(wanted)


def _later(old: sa.Column[Any], new: Any) -> sa.ColumnElement[Any]:
    """The later of two moments that may not be known."""
    return sa.case((sa.or_(old.is_(None), new > old), new), else_=old)


_NOTE_MANIFEST = Statement.insert(
    _manifest_pulls,
    ("manifest_id", "puller", "at", "by_digest_at"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["manifest_id", "puller"],
        set_={
            name: _later(_manifest_pulls.c[name], insert.excluded[name])
            for name in ("at", "by_digest_at")
        },
    ),
)
_NOTE_TAG = Statement.insert(
    _tag_pulls,
    ("repository_id", "tag", "puller", "at"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["repository_id", "tag", "puller"],
        set_={"at": _later(_tag_pulls.c.at, insert.excluded.at)},
    ),
)
_NOTE_DAY = Statement.insert(
    _history,
    ("repository", "day", "digest", "tag", "puller", "pulls", "at"),
    lambda insert: insert.on_conflict_do_update(
        index_elements=["repository", "day", "digest", "tag", "puller"],
        set_={
            "pulls": _history.c.pulls + insert.excluded.pulls,
            "at": _later(_history.c.at, insert.excluded.at),
        },
    ),
)


def note_manifests(
    tx: Transaction, pulls: Mapping[tuple[int, str], tuple[datetime, datetime | None]]
) -> None:
    """(manifest's id, puller) -> when, and when by digest. In one order, against deadlocks.

    The caller has locked the manifests.
    """
    tx.many(
        _NOTE_MANIFEST,
        [
            {
                "manifest_id": manifest_id,
                "puller": puller,
                "at": to_micros(at),
                "by_digest_at": None if by_digest_at is None else to_micros(by_digest_at),
            }
            for (manifest_id, puller), (at, by_digest_at) in sorted(pulls.items())
        ],
    )


def note_tags(tx: Transaction, pulls: Mapping[tuple[int, str, str], datetime]) -> None:
    """(repository's id, tag, puller) -> when. The caller has locked the tags."""
    tx.many(
        _NOTE_TAG,
        [
            {"repository_id": repository_id, "tag": tag, "puller": puller, "at": to_micros(at)}
            for (repository_id, tag, puller), at in sorted(pulls.items())
        ],
    )


def note_days(
    tx: Transaction, pulls: Mapping[tuple[str, str, str, str], tuple[int, datetime]]
) -> None:
    """(repository, digest, tag or "", puller) -> how many, and the last of them."""
    tx.many(
        _NOTE_DAY,
        [
            {
                "repository": repository,
                "day": to_micros(at) // _DAY,
                "digest": digest,
                "tag": tag,
                "puller": puller,
                "pulls": pulls_,
                "at": to_micros(at),
            }
            for (repository, digest, tag, puller), (pulls_, at) in sorted(pulls.items())
        ],
    )


# --- the last pull --------------------------------------------------------------------------------

_COUNTS = among(_manifest_pulls.c.puller, "pullers")
_OF_MANIFESTS = Statement(
    sa.select(_manifest_pulls.c.manifest_id, sa.func.max(_manifest_pulls.c.at))
    .where(among(_manifest_pulls.c.manifest_id, "ids"), _COUNTS)
    .group_by(_manifest_pulls.c.manifest_id)
)
_BY_DIGEST = Statement(
    sa.select(_manifest_pulls.c.manifest_id, sa.func.max(_manifest_pulls.c.by_digest_at))
    .where(among(_manifest_pulls.c.manifest_id, "ids"), _COUNTS)
    .where(_manifest_pulls.c.by_digest_at.is_not(None))
    .group_by(_manifest_pulls.c.manifest_id)
)
_BY_TAG = Statement(
    sa.select(_tag_pulls.c.tag, sa.func.max(_tag_pulls.c.at))
    .where(given(_tag_pulls, "repository_id"))
    .where(among(_tag_pulls.c.tag, "tags"), among(_tag_pulls.c.puller, "pullers"))
    .group_by(_tag_pulls.c.tag)
)
_LAST = Statement(
    sa.select(*_manifest_pulls.c["manifest_id", "puller", "at"])
    .where(among(_manifest_pulls.c.manifest_id, "ids"))
    .order_by(_manifest_pulls.c.at.desc(), _manifest_pulls.c.puller)
)


def of_manifests(
    tx: Transaction, ids: Collection[int], pullers: Collection[str]
) -> dict[int, datetime]:
    """When these manifests were pulled last by one of these classes, by a tag or by digest."""
    return _times(tx.rows(_OF_MANIFESTS, ids=ids, pullers=pullers)) if ids else {}


def by_digest(
    tx: Transaction, ids: Collection[int], pullers: Collection[str]
) -> dict[int, datetime]:
    """As of_manifests, without pulls by a tag."""
    return _times(tx.rows(_BY_DIGEST, ids=ids, pullers=pullers)) if ids else {}


def by_tag(
    tx: Transaction, repository_id: int, tags: Collection[str], pullers: Collection[str]
) -> dict[Tag, datetime]:
    """When a client of these classes pulled by one of these tags last."""
    if not tags:
        return {}
    rows = tx.rows(_BY_TAG, repository_id=repository_id, tags=tags, pullers=pullers)
    return {Tag(row[0]): from_micros(row[1]) for row in rows}


def _times(rows: Sequence[Sequence[Any]]) -> dict[int, datetime]:
    return {row[0]: from_micros(row[1]) for row in rows}


def last_by_class(tx: Transaction, ids: Collection[int]) -> dict[int, list[LastPull]]:
    """Each class's last pull of these manifests, the latest first."""
    found: dict[int, list[LastPull]] = {}
    for manifest_id, puller, at in tx.rows(_LAST, ids=ids) if ids else ():
        found.setdefault(manifest_id, []).append(LastPull(puller, from_micros(at)))
    return found


class Recent(NamedTuple):
    """What a job is about and was pulled lately: how much, and the last of it."""

    number: int
    digest: Digest
    at: datetime


_items = cleaning.job_items
_RECENT_OF_JOB = Statement(
    sa.select(_items.c.repository, _items.c.digest, sa.func.max(_manifest_pulls.c.at))
    .join(_manifest_pulls, _manifest_pulls.c.manifest_id == _items.c.manifest_id)
    .where(given(_items, "job_id"), _items.c.kind != "tag")
    .where(_manifest_pulls.c.at >= bindparam("since"), among(_manifest_pulls.c.puller, "pullers"))
    .group_by(_items.c.repository, _items.c.digest)
    .order_by(_items.c.repository, _items.c.digest)
)


def recent_of_job(
    tx: Transaction, job_id: str, since: datetime, pullers: Collection[str]
) -> dict[RepositoryName, Recent]:
    """Manifests that a job deletes and that were pulled since, by repository."""
    rows = tx.rows(_RECENT_OF_JOB, job_id=job_id, since=to_micros(since), pullers=pullers)
    found: dict[RepositoryName, Recent] = {}
    for repository, digest, at in rows:
        name, known = RepositoryName(repository), found.get(RepositoryName(repository))
        last = Recent(0, Digest(digest), from_micros(at))
        if known is not None and known.at >= last.at:
            last = known
        found[name] = last._replace(number=1 + (known.number if known else 0))
    return found


# --- history --------------------------------------------------------------------------------------


class PullDay(NamedTuple):
    """Pulls of one thing on one day. `tag` is None for pulls by digest."""

    digest: Digest
    tag: Tag | None
    puller: str
    pulls: int
    at: datetime


_HISTORY = Statement(
    sa.select(*_history.c["digest", "tag", "puller", "pulls", "at"])
    .where(given(_history, "repository"), _history.c.day >= bindparam("day"))
    .order_by(*_history.c["at", "digest", "tag", "puller"])
)
_OLDEST_DAY = Statement(sa.select(sa.func.min(_history.c.day)))
_COUNT_HISTORY = Statement(sa.select(sa.func.count()).select_from(_history))
_FORGET_HISTORY = Statement(_history.delete().where(_history.c.day < bindparam("day")))


def history(tx: Transaction, repository: RepositoryName, since: datetime) -> list[PullDay]:
    """A repository's pulls of each day from that moment's day on, in the order of time."""
    rows = tx.rows(_HISTORY, repository=repository, day=to_micros(since) // _DAY)
    return [
        PullDay(Digest(digest), Tag(tag) if tag else None, puller, pulls, from_micros(at))
        for digest, tag, puller, pulls, at in rows
    ]


class PullsOfDay(NamedTuple):
    """How often a class of pullers pulled on one day, counted from 1970."""

    day: int
    puller: str
    pulls: int


class PulledMost(NamedTuple):
    """How often something was pulled, and when last. `tag` is None for pulls by digest."""

    digest: Digest
    tag: Tag | None
    pulls: int
    at: datetime


_IN_DAYS = (given(_history, "repository"), _history.c.day >= bindparam("day"))
_SUM_OF_PULLS = sa.func.sum(_history.c.pulls)
_LAST_OF_PULLS = sa.func.max(_history.c.at)
_BY_DAY = Statement(
    sa.select(_history.c.day, _history.c.puller, _SUM_OF_PULLS)
    .where(*_IN_DAYS)
    .group_by(_history.c.day, _history.c.puller)
    .order_by(_history.c.day, _history.c.puller)
)
_MOST_PULLED = Statement(
    sa.select(_history.c.digest, _history.c.tag, _SUM_OF_PULLS, _LAST_OF_PULLS)
    .where(*_IN_DAYS)
    .group_by(_history.c.digest, _history.c.tag)
    # An index counts as used when a platform of it is pulled, without a pull of its own.
    .having(_SUM_OF_PULLS > 0)
    .order_by(_SUM_OF_PULLS.desc(), _LAST_OF_PULLS.desc(), _history.c.digest, _history.c.tag)
    .limit(bindparam("n"))
)


def pulls_by_day(tx: Transaction, repository: RepositoryName, first_day: int) -> list[PullsOfDay]:
    """Pulls of a repository by day and class from that day on, the oldest first."""
    rows = tx.rows(_BY_DAY, repository=repository, day=first_day)
    return [PullsOfDay(day, puller, int(pulls)) for day, puller, pulls in rows]


def most_pulled(
    tx: Transaction, repository: RepositoryName, first_day: int, n: int
) -> list[PulledMost]:
    """The `n` tags and digests of a repository that were pulled most from that day on."""
    return [
        PulledMost(Digest(digest), Tag(tag) if tag else None, int(pulls), from_micros(at))
        for digest, tag, pulls, at in tx.rows(
            _MOST_PULLED, repository=repository, day=first_day, n=n
        )
    ]


def oldest_day(tx: Transaction) -> datetime | None:
    """Where the history begins."""
    day = tx.value(_OLDEST_DAY)
    return None if day is None else from_micros(day * _DAY)


def count_history(tx: Transaction) -> int:
    return int(tx.value(_COUNT_HISTORY))


def forget_history(tx: Transaction, before: datetime) -> int:
    """Forget days before that moment's; how many rows that were."""
    return tx.change(_FORGET_HISTORY, day=to_micros(before) // _DAY)
