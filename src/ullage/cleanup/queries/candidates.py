"""What a cleanup may take: tags by age, and manifests that nothing leads to, newest first.

Set-based and page by page: a hundred thousand orphans are a few hundred statements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from ullage.database.schema import base, content
from ullage.database.statements import LIMIT, Statement, among, given
from ullage.database.timestamps import from_micros, to_micros
from ullage.database.transaction import Transaction
from ullage.oci.attached import SUFFIXES
from ullage.oci.digest import Digest
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.queries.references.attached import ATTACHED_TO

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
    """A manifest that no tag keeps, that no index lists and that refers to nothing that is there.

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


_REPOSITORIES = Statement(
    sa.select(_repositories.c.id, _repositories.c.name)
    .where(_repositories.c.name.is_not(None), _repositories.c.manifest_count > 0)
    .order_by(_repositories.c.name)
)
_SUMS = Statement(
    sa.select(*_repositories.c["manifest_count", "tag_count", "write_enabled"]).where(
        _repositories.c.id == bindparam("repository_id"), _repositories.c.name.is_not(None)
    )
)


def repositories(tx: Transaction) -> list[tuple[int, RepositoryName]]:
    """Every repository that a client can see, by name."""
    return [(id_, RepositoryName(name)) for id_, name in tx.rows(_REPOSITORIES)]


def sums(tx: Transaction, repository_id: int) -> Sums | None:
    """How much there is in a repository; None if it was deleted."""
    row = tx.row(_SUMS, repository_id=repository_id)
    return None if row is None else Sums(row[0], row[1], bool(row[2]))


_TAGS = (
    sa.select(
        *_tags.c["updated_at", "name", "manifest_id"], _manifests.c.digest, base.locked(_tags)
    )
    .join(_manifests, _manifests.c.id == _tags.c.manifest_id)
    .where(given(_tags, "repository_id"))
)
# Places are as those of orphans below: every name is behind the empty one.
_TAG_PAGE = Statement(
    _TAGS.where(
        sa.tuple_(_tags.c.updated_at, _tags.c.name)
        < sa.tuple_(bindparam("at", type_=sa.BigInteger), bindparam("name", type_=sa.Text))
    )
    .order_by(_tags.c.updated_at.desc(), _tags.c.name.desc())
    .limit(LIMIT)
)
_TAGS_NOW = Statement(_TAGS.where(among(_tags.c.name, "names")))


def tag_page(
    tx: Transaction, repository_id: int, before: datetime, after: TagCandidate | None, n: int
) -> list[TagCandidate]:
    """Up to `n` tags that were updated before a moment, newest first, behind a place."""
    at, name = (before, "") if after is None else (after.updated_at, after.name)
    rows = tx.rows(_TAG_PAGE, repository_id=repository_id, at=to_micros(at), name=name, limit=n)
    return [_tag(row) for row in rows]


def _tag(row: Sequence[Any]) -> TagCandidate:
    return TagCandidate(from_micros(row[0]), Tag(row[1]), row[2], Digest(row[3]), bool(row[4]))


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
    """Which manifests become orphans without so many of their tags: id -> how many they lose."""
    tags: dict[int, int] = {}
    if losing:
        tags.update(tx.rows(_TAGS_OF, ids=losing))
    bare = [id_ for id_, lost in losing.items() if tags.get(id_, 0) <= lost]
    if bare:
        rows = tx.rows(_BARE, repository_id=repository_id, before=to_micros(before), ids=bare)
        yield from map(_candidate, rows)


class Standing(NamedTuple):
    """A manifest as it is now; `referenced` by a tag that keeps it, an index or a subject."""

    updated_at: datetime
    referenced: bool


def standing(tx: Transaction, ids: Collection[int]) -> dict[int, Standing]:
    """How these manifests stand, those of them that are still there."""
    rows = tx.rows(_STANDING, ids=ids) if ids else ()
    return {row[0]: Standing(from_micros(row[1]), bool(row[2])) for row in rows}


_PUSHED = Statement(
    sa.select(sa.func.min(_manifests.c.pushed_at), sa.func.max(_manifests.c.pushed_at)).where(
        among(_manifests.c.id, "ids")
    )
)


def pushed(tx: Transaction, ids: Collection[int]) -> tuple[datetime, datetime] | None:
    """When the first and the last of these manifests were pushed; None of none."""
    row = tx.row(_PUSHED, ids=ids) if ids else None
    if row is None or row[0] is None:
        return None
    return from_micros(row[0]), from_micros(row[1])


def tags_now(
    tx: Transaction, repository_id: int, names: Collection[Tag]
) -> dict[Tag, TagCandidate]:
    """Those of these tags that are there, as they are now."""
    rows = tx.rows(_TAGS_NOW, repository_id=repository_id, names=names) if names else ()
    return {tag.name: tag for tag in map(_tag, rows)}


_DROP_TAGS = Statement(
    _tags.delete().where(given(_tags, "repository_id"), among(_tags.c.name, "names"))
)
_TOUCH = Statement(
    _manifests.update()
    .where(among(_manifests.c.id, "ids"))
    .values(updated_at=bindparam("updated_at"))
)
_THERE = Statement(
    sa.select(_manifests.c.digest).where(
        given(_manifests, "repository_id"), among(_manifests.c.digest, "digests")
    )
)


def drop_tags(tx: Transaction, repository_id: int, names: Collection[Tag]) -> None:
    """Remove tags and nothing else; the caller counts, and touches what they pointed to."""
    tx.change(_DROP_TAGS, repository_id=repository_id, names=names)


def touch_manifests(tx: Transaction, ids: Collection[int], now: datetime) -> None:
    """They lost a tag."""
    tx.change(_TOUCH, ids=ids, updated_at=to_micros(now))


def digests_there(tx: Transaction, repository_id: int, digests: Collection[str]) -> set[str]:
    """Which of these manifests the repository has."""
    return set(tx.values(_THERE, repository_id=repository_id, digests=digests))


_subjects = _manifests.alias()
_referrers = _manifests.alias()
_images = _manifests.alias()
_ON_IT = _tags.c.manifest_id == _manifests.c.id
# A tag that attaches a manifest to an image that is not there keeps nothing.
_TAGGED = sa.exists().where(
    _ON_IT,
    sa.or_(
        ATTACHED_TO.is_(None),
        sa.exists()
        .where(
            _images.c.repository_id == _tags.c.repository_id,
            _images.c.digest == ATTACHED_TO,
        )
        .correlate(_tags),
    ),
)
_ATTACHING = (
    sa.exists()
    .where(
        _tags.c.repository_id == _manifests.c.repository_id,
        _tags.c.name.in_(
            [
                sa.func.replace(_manifests.c.digest, ":", "-") + sa.literal(suffix)
                for suffix in SUFFIXES
            ]
        ),
    )
    .correlate(_manifests)
)
_UNREFERENCED = (
    ~sa.exists().where(_children.c.child_id == _manifests.c.id),
    ~sa.exists().where(
        _subjects.c.repository_id == _manifests.c.repository_id,
        _subjects.c.digest == _manifests.c.subject,
    ),
)
_CANDIDATE = sa.select(
    *_manifests.c["updated_at", "digest", "id"],
    base.locked(_manifests),
    sa.or_(
        sa.exists().where(_children.c.parent_id == _manifests.c.id),
        sa.exists().where(
            _referrers.c.repository_id == _manifests.c.repository_id,
            _referrers.c.subject == _manifests.c.digest,
        ),
        _ATTACHING,
    ),
)


# A place is a moment and a digest. Every digest is behind the empty one, so a page that begins
# with a moment begins before it.
_ORPHANS = Statement(
    _CANDIDATE.where(
        given(_manifests, "repository_id"),
        sa.tuple_(_manifests.c.updated_at, _manifests.c.digest)
        < sa.tuple_(bindparam("at", type_=sa.BigInteger), bindparam("digest", type_=sa.Text)),
        _manifests.c.updated_at >= bindparam("since"),
        ~_TAGGED,
        *_UNREFERENCED,
    )
    .order_by(_manifests.c.updated_at.desc(), _manifests.c.digest.desc())
    .limit(LIMIT)
)
_TAGS_OF = Statement(
    sa.select(_tags.c.manifest_id, sa.func.count())
    .where(among(_tags.c.manifest_id, "ids"))
    .group_by(_tags.c.manifest_id)
)
_BARE = Statement(
    _CANDIDATE.where(
        given(_manifests, "repository_id"),
        _manifests.c.updated_at < bindparam("before"),
        among(_manifests.c.id, "ids"),
        # What has no tag that keeps it is an orphan as it is.
        _TAGGED,
        *_UNREFERENCED,
    ).order_by(_manifests.c.id)
)
_STANDING = Statement(
    sa.select(
        _manifests.c.id,
        _manifests.c.updated_at,
        sa.or_(_TAGGED, *(sa.not_(each) for each in _UNREFERENCED)),
    ).where(among(_manifests.c.id, "ids"))
)


def _candidate(row: Sequence[Any]) -> Candidate:
    return Candidate(
        from_micros(row[0]), Digest(row[1]), row[2], locked=bool(row[3]), alone=not row[4]
    )
