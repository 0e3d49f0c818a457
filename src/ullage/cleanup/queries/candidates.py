"""What a cleanup may take: tags by age, and manifests that nothing leads to, newest first.

Set-based and page by page: a hundred thousand orphans are a few hundred statements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from ullage.database.schema import base, content
from ullage.database.statements import Statement, among
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction, chunks
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag

_repositories = content.repositories
_manifests = content.manifests
_tags = content.tags
_children = content.manifest_children


class TagCandidate(NamedTuple):
    updated_at: datetime
    name: Tag
    manifest_id: int
    digest: Digest
    locked: bool


class Candidate(NamedTuple):
    """A manifest without a tag that no index lists and that refers to nothing that is there.

    `alone`: it lists nothing and nothing refers to it, so nothing goes along.
    """

    updated_at: datetime
    digest: Digest
    id: int
    locked: bool
    alone: bool


class Sums(NamedTuple):
    manifests: int
    tags: int
    writable: bool


def repositories(tx: Transaction) -> list[tuple[int, RepositoryName]]:
    """Every repository that there is for anybody who asks, by name."""
    query = sa.select(_repositories.c.id, _repositories.c.name).where(
        _repositories.c.name.is_not(None), _repositories.c.manifest_count > 0
    )
    return [
        (row[0], RepositoryName(row[1])) for row in tx.execute(query.order_by(_repositories.c.name))
    ]


def sums(tx: Transaction, repository_id: int) -> Sums | None:
    """How much there is in a repository; None if it was deleted."""
    query = sa.select(
        _repositories.c.manifest_count, _repositories.c.tag_count, _repositories.c.write_enabled
    ).where(_repositories.c.id == repository_id, _repositories.c.name.is_not(None))
    row = tx.execute(query).first()
    return None if row is None else Sums(*row)


def tag_page(
    tx: Transaction, repository_id: int, before: datetime, after: TagCandidate | None, n: int
) -> list[TagCandidate]:
    """Up to `n` tags that were updated before a moment, newest first, behind a place."""
    query = (
        sa.select(
            _tags.c.updated_at,
            _tags.c.name,
            _tags.c.manifest_id,
            _manifests.c.digest,
            base.locked(_tags),
        )
        .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
        .where(_tags.c.repository_id == repository_id, _tags.c.updated_at < to_micros(before))
        .order_by(_tags.c.updated_at.desc(), _tags.c.name.desc())
        .limit(n)
    )
    if after is not None:
        place = sa.tuple_(sa.literal(to_micros(after.updated_at)), sa.literal(str(after.name)))
        query = query.where(sa.tuple_(_tags.c.updated_at, _tags.c.name) < place)
    return [
        TagCandidate(from_micros(row[0]), Tag(row[1]), row[2], Digest(row[3]), bool(row[4]))
        for row in tx.execute(query)
    ]


def orphan_page(
    tx: Transaction,
    repository_id: int,
    before: datetime,
    after: Candidate | None,
    n: int,
    since: datetime | None = None,
) -> list[Candidate]:
    """Up to `n` orphans that were updated before a moment (and not before `since`).

    Newest first, behind a place.
    """
    at, digest = (
        (to_micros(before), "") if after is None else (to_micros(after.updated_at), after.digest)
    )
    rows = tx.rows(
        _ORPHANS,
        repository_id=repository_id,
        at=at,
        digest=digest,
        since=0 if since is None else to_micros(since),
        limit=n,
    )
    return [_candidate(row) for row in rows]


def left_alone(
    tx: Transaction, repository_id: int, before: datetime, losing: dict[int, int]
) -> Iterator[Candidate]:
    """Which manifests would be orphans without so many of their tags: id -> how many they lose."""
    for some in chunks(sorted(losing)):
        numbers = dict(
            map(
                tuple,
                tx.execute(
                    sa.select(_tags.c.manifest_id, sa.func.count())
                    .where(_tags.c.manifest_id.in_(some))
                    .group_by(_tags.c.manifest_id)
                ),
            )
        )
        bare = [each for each in some if numbers.get(each, 0) <= losing[each]]
        query = _CANDIDATE.where(
            _manifests.c.repository_id == repository_id,
            _manifests.c.updated_at < to_micros(before),
            _manifests.c.id.in_(bare),
            *_NOT_HELD,
        )
        yield from map(_candidate, tx.execute(query))


class Standing(NamedTuple):
    """A manifest as it is now; `held` by a tag, an index, or a subject that is there."""

    updated_at: datetime
    held: bool


def standing(tx: Transaction, ids: Collection[int]) -> dict[int, Standing]:
    """How these manifests stand, those of them that are still there."""
    rows = tx.rows(_STANDING, ids=ids) if ids else ()
    return {row[0]: Standing(from_micros(row[1]), bool(row[2])) for row in rows}


def tags_now(
    tx: Transaction, repository_id: int, names: Collection[Tag]
) -> dict[Tag, TagCandidate]:
    """Those of these tags that are there, as they are now."""
    found: dict[Tag, TagCandidate] = {}
    for some in chunks(sorted(names)):
        query = (
            sa.select(
                _tags.c.updated_at,
                _tags.c.name,
                _tags.c.manifest_id,
                _manifests.c.digest,
                base.locked(_tags),
            )
            .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
            .where(_tags.c.repository_id == repository_id, _tags.c.name.in_(some))
        )
        for row in tx.execute(query):
            found[Tag(row[1])] = TagCandidate(
                from_micros(row[0]), Tag(row[1]), row[2], Digest(row[3]), bool(row[4])
            )
    return found


def drop_tags(tx: Transaction, repository_id: int, names: Collection[Tag]) -> None:
    """Remove tags and nothing else; the caller counts, and touches what they pointed to."""
    for some in chunks(sorted(names)):
        tx.execute(
            _tags.delete().where(_tags.c.repository_id == repository_id, _tags.c.name.in_(some))
        )


def touch_manifests(tx: Transaction, ids: Collection[int], now: datetime) -> None:
    """They lost a tag."""
    for some in chunks(sorted(ids)):
        tx.execute(
            _manifests.update().where(_manifests.c.id.in_(some)).values(updated_at=to_micros(now))
        )


def digests_there(tx: Transaction, repository_id: int, digests: Collection[str]) -> set[str]:
    """Which of these manifests the repository has."""
    found: set[str] = set()
    for some in chunks(sorted(digests)):
        query = sa.select(_manifests.c.digest).where(
            _manifests.c.repository_id == repository_id, _manifests.c.digest.in_(some)
        )
        found.update(tx.execute(query).scalars())
    return found


_subjects = _manifests.alias()
_referrers = _manifests.alias()
_TAGGED = sa.exists().where(_tags.c.manifest_id == _manifests.c.id)
_NOT_HELD = (
    ~sa.exists().where(_children.c.child_id == _manifests.c.id),
    ~sa.exists().where(
        _subjects.c.repository_id == _manifests.c.repository_id,
        _subjects.c.digest == _manifests.c.subject,
    ),
)
_CANDIDATE = sa.select(
    _manifests.c.updated_at,
    _manifests.c.digest,
    _manifests.c.id,
    base.locked(_manifests),
    sa.or_(
        sa.exists().where(_children.c.parent_id == _manifests.c.id),
        sa.exists().where(
            _referrers.c.repository_id == _manifests.c.repository_id,
            _referrers.c.subject == _manifests.c.digest,
        ),
    ),
)


# A place is a moment and a digest. Every digest is behind the empty one, so a page that begins
# with a moment begins before it.
_ORPHANS = Statement(
    _CANDIDATE.where(
        _manifests.c.repository_id == sa.bindparam("repository_id"),
        sa.tuple_(_manifests.c.updated_at, _manifests.c.digest)
        < sa.tuple_(sa.bindparam("at", type_=sa.BigInteger), sa.bindparam("digest", type_=sa.Text)),
        _manifests.c.updated_at >= sa.bindparam("since"),
        ~_TAGGED,
        *_NOT_HELD,
    )
    .order_by(_manifests.c.updated_at.desc(), _manifests.c.digest.desc())
    .limit(sa.bindparam("limit", type_=sa.Integer))
)
_STANDING = Statement(
    sa.select(
        _manifests.c.id,
        _manifests.c.updated_at,
        sa.or_(_TAGGED, *(sa.not_(each) for each in _NOT_HELD)),
    ).where(among(_manifests.c.id, "ids"))
)


def _candidate(row: Sequence[Any]) -> Candidate:
    return Candidate(
        from_micros(row[0]), Digest(row[1]), row[2], locked=bool(row[3]), alone=not row[4]
    )
