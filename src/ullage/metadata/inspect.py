"""Everything there is, page by page, each row with what it has to agree with: for `ullage check`.

A row is fetched in one of two ways: with all that come `After` a key, which reads a whole table in
bounded memory, or as one of `Only` a few, which looks at suspects once more. What one call returns
belongs to one moment if the transaction is a snapshot. Rows of deleted repositories are left out:
they are being erased; those of repositories that are kept, hidden, are not. Nothing here decides
what is wrong; services/check.py does.

The last section mends what can be mended from rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import sqlalchemy as sa

from ullage.metadata import reclaim, schema
from ullage.metadata.counters import add_to_counters, totals
from ullage.metadata.database import Transaction, chunks
from ullage.metadata.moments import moment
from ullage.oci.digest import Digest

_repositories = schema.repositories
_manifests = schema.manifests
_tags = schema.tags
_blobs = schema.blobs
_repo_blobs = schema.repo_blobs
_manifest_blobs = schema.manifest_blobs
_children = schema.manifest_children
_uploads = schema.uploads
_reviews = schema.reviews
_tombstones = schema.tombstones
_kept = schema.kept_repositories
_operations = schema.operations
_deleted_tags = schema.deleted_tags

# What was deleted softly is looked at as if it was live, under its old name.
_NAME = sa.func.coalesce(
    _repositories.c.name,
    sa.select(_kept.c.name)
    .where(_kept.c.repository_id == _repositories.c.id)
    .correlate(_repositories)
    .scalar_subquery(),
)

# Manifests are judged by their bytes, so a page of them is limited in bytes as well.
_MANIFEST_PAGE = 200
_MANIFEST_PAGE_BYTES = 8 * 1024 * 1024

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class After(Generic[K]):
    """The next `limit` rows behind `key`; from the first one if it is None."""

    key: K | None
    limit: int


@dataclass(frozen=True, slots=True)
class Only(Generic[K]):
    """Those of these rows that are still there."""

    keys: Sequence[K]


Which: TypeAlias = After[K] | Only[K]
# A row named by a repository's id and a name or digest, or by two ids.
Pair: TypeAlias = tuple[int, str]
Ids: TypeAlias = tuple[int, int]


class Counts(NamedTuple):
    """A repository's counters; sizes in bytes."""

    manifest_count: int
    tag_count: int
    manifest_bytes: int
    blob_bytes: int


class RepositoryFacts(NamedTuple):
    key: int
    name: str | None
    stored: Counts
    counted: Counts


class Reference(NamedTuple):
    """A blob that a manifest is recorded to hold."""

    digest: str
    repository_id: int
    linked: bool
    # None if there is no such blob.
    size: int | None


class Child(NamedTuple):
    """A manifest that an index is recorded to hold; the rest is None if there is none."""

    id: int
    digest: str | None
    size: int | None
    repository_id: int | None


class ManifestFacts(NamedTuple):
    key: int
    repository_id: int
    # None if there is no such repository.
    repository: str | None
    digest: str
    media_type: str
    artifact_type: str | None
    annotations: str | None
    subject: str | None
    size: int
    raw: bytes
    image_size: int
    config_media_type: str | None
    references: tuple[Reference, ...] = ()
    children: tuple[Child, ...] = ()


class TagFacts(NamedTuple):
    key: Pair
    repository: str | None
    # The repository of the manifest it points to; None if there is no such manifest.
    manifest_repository_id: int | None


class BlobFacts(NamedTuple):
    key: str
    size: int
    storage_key: str
    damaged: bool
    linked: bool
    stored_references: int
    counted_references: int
    stored_links: int
    counted_links: int


class LinkFacts(NamedTuple):
    key: Pair
    repository: str | None
    # None if there is no such blob.
    size: int | None


class UploadFacts(NamedTuple):
    key: str
    repository_id: int
    repository: str | None
    storage_key: str
    offset: int
    expires_at: int
    # A blob that claims the same bytes.
    same_key_blob: str | None


class TombstoneFacts(NamedTuple):
    key: str
    digest: str | None
    size: int
    due_at: int
    attempts: int
    # A blob or an upload session that still uses the bytes.
    same_key_blob: str | None
    same_key_upload: str | None


class Ownerless(NamedTuple):
    """Something recorded for a manifest that does not exist: its id, and what it would hold."""

    key: tuple[int, str | int]


# --- rows -----------------------------------------------------------------------------------------


def repositories(tx: Transaction, which: Which[int]) -> list[RepositoryFacts]:
    """Repositories with their counters, and with what those ought to be."""
    id_ = _repositories.c.id
    manifests = sa.select(sa.func.count()).where(_manifests.c.repository_id == id_)
    manifest_bytes = sa.select(_sum(_manifests.c.size)).where(_manifests.c.repository_id == id_)
    tags = sa.select(sa.func.count()).where(_tags.c.repository_id == id_)
    blob_bytes = (
        sa.select(_sum(_blobs.c.size))
        .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
        .where(_repo_blobs.c.repository_id == id_)
    )
    query = sa.select(
        id_,
        _NAME,
        *(_repositories.c[field] for field in Counts._fields),
        *(
            counted.correlate(_repositories).scalar_subquery()
            for counted in (manifests, tags, manifest_bytes, blob_bytes)
        ),
    ).where(_repositories.c.deleted_at.is_(None))
    return [
        RepositoryFacts(row[0], row[1], Counts(*map(int, row[2:6])), Counts(*map(int, row[6:10])))
        for row in tx.execute(_choose(query, (id_,), which)).all()
    ]


def manifests(tx: Transaction, which: Which[int]) -> list[ManifestFacts]:
    """Manifests with their bytes and all they are recorded to hold.

    A page ends early when its manifests are large. Raises nothing for damaged bytes.
    """
    ids = _manifest_page(tx, which) if isinstance(which, After) else which.keys
    found: list[ManifestFacts] = []
    for some in chunks(ids, _MANIFEST_PAGE):
        references = _references(tx, some)
        children = _recorded_children(tx, some)
        for row in tx.execute(_MANIFESTS.where(_manifests.c.id.in_(some))).all():
            facts = ManifestFacts(*row)
            found.append(
                facts._replace(
                    references=tuple(references.get(facts.key, ())),
                    children=tuple(children.get(facts.key, ())),
                )
            )
    return found


_MANIFESTS = (
    sa.select(
        _manifests.c.id,
        _manifests.c.repository_id,
        _NAME,
        _manifests.c.digest,
        _manifests.c.media_type,
        _manifests.c.artifact_type,
        _manifests.c.annotations,
        _manifests.c.subject,
        _manifests.c.size,
        _manifests.c.raw,
        _manifests.c.image_size,
        _manifests.c.config_media_type,
    )
    .outerjoin(_repositories, _repositories.c.id == _manifests.c.repository_id)
    .where(_repositories.c.deleted_at.is_(None))
    .order_by(_manifests.c.id)
)


def _manifest_page(tx: Transaction, after: After[int]) -> list[int]:
    length = sa.func.length(_manifests.c.raw)
    query = (
        sa.select(_manifests.c.id, length)
        .outerjoin(_repositories, _repositories.c.id == _manifests.c.repository_id)
        .where(_repositories.c.deleted_at.is_(None))
    )
    page: list[int] = []
    room = _MANIFEST_PAGE_BYTES
    limit = min(after.limit, _MANIFEST_PAGE)
    chosen = _choose(query, (_manifests.c.id,), After(after.key, limit))
    for id_, size in tx.execute(chosen).all():
        room -= size
        if page and room < 0:
            break
        page.append(id_)
    return page


def _references(tx: Transaction, manifest_ids: Sequence[int]) -> dict[int, list[Reference]]:
    query = (
        sa.select(
            _manifest_blobs.c.manifest_id,
            _manifest_blobs.c.digest,
            _manifest_blobs.c.repository_id,
            _repo_blobs.c.digest.is_not(None),
            _blobs.c.size,
        )
        .outerjoin(
            _repo_blobs,
            sa.and_(
                _repo_blobs.c.repository_id == _manifest_blobs.c.repository_id,
                _repo_blobs.c.digest == _manifest_blobs.c.digest,
            ),
        )
        .outerjoin(_blobs, _blobs.c.digest == _manifest_blobs.c.digest)
        .where(_manifest_blobs.c.manifest_id.in_(manifest_ids))
        .order_by(_manifest_blobs.c.manifest_id, _manifest_blobs.c.digest)
    )
    found: dict[int, list[Reference]] = {}
    for manifest_id, *rest in tx.execute(query).all():
        found.setdefault(manifest_id, []).append(Reference(*rest))
    return found


def _recorded_children(tx: Transaction, manifest_ids: Sequence[int]) -> dict[int, list[Child]]:
    query = (
        sa.select(
            _children.c.parent_id,
            _children.c.child_id,
            _manifests.c.digest,
            _manifests.c.size,
            _manifests.c.repository_id,
        )
        .outerjoin(_manifests, _manifests.c.id == _children.c.child_id)
        .where(_children.c.parent_id.in_(manifest_ids))
        .order_by(_children.c.parent_id, _children.c.child_id)
    )
    found: dict[int, list[Child]] = {}
    for parent_id, *rest in tx.execute(query):
        found.setdefault(parent_id, []).append(Child(*rest))
    return found


def tags(tx: Transaction, which: Which[Pair]) -> list[TagFacts]:
    query = (
        sa.select(_tags.c.repository_id, _tags.c.name, _NAME, _manifests.c.repository_id)
        .outerjoin(_repositories, _repositories.c.id == _tags.c.repository_id)
        .outerjoin(_manifests, _manifests.c.id == _tags.c.manifest_id)
        .where(_repositories.c.deleted_at.is_(None))
    )
    chosen = _choose(query, (_tags.c.repository_id, _tags.c.name), which)
    return [TagFacts((row[0], row[1]), row[2], row[3]) for row in tx.execute(chosen)]


def blobs(tx: Transaction, which: Which[str]) -> list[BlobFacts]:
    """Blobs, with the manifests that refer to them counted by way of the repositories' links."""
    links = sa.select(sa.func.count()).where(_repo_blobs.c.digest == _blobs.c.digest)
    counted_links = links.correlate(_blobs).scalar_subquery()
    # manifest_blobs has no index on the digest alone; the links lead there.
    counted = (
        sa.select(sa.func.count())
        .select_from(_repo_blobs)
        .join(
            _manifest_blobs,
            sa.and_(
                _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
                _manifest_blobs.c.digest == _repo_blobs.c.digest,
            ),
        )
        .where(_repo_blobs.c.digest == _blobs.c.digest)
    )
    query = sa.select(
        _blobs.c.digest,
        _blobs.c.size,
        _blobs.c.storage_key,
        _blobs.c.damaged_at.is_not(None),
        counted_links > 0,
        _blobs.c.manifest_refs,
        counted.correlate(_blobs).scalar_subquery(),
        _blobs.c.repository_count,
        counted_links,
    )
    return [
        BlobFacts(row[0], row[1], row[2], bool(row[3]), bool(row[4]), *row[5:])
        for row in tx.execute(_choose(query, (_blobs.c.digest,), which)).all()
    ]


def uploads(tx: Transaction, which: Which[str]) -> list[UploadFacts]:
    query = (
        sa.select(
            _uploads.c.id,
            _uploads.c.repository_id,
            _NAME,
            _uploads.c.storage_key,
            _uploads.c.offset,
            _uploads.c.expires_at,
            _blobs.c.digest,
        )
        .outerjoin(_repositories, _repositories.c.id == _uploads.c.repository_id)
        .outerjoin(_blobs, _blobs.c.storage_key == _uploads.c.storage_key)
        .where(_repositories.c.deleted_at.is_(None))
    )
    return [UploadFacts(*row) for row in tx.execute(_choose(query, (_uploads.c.id,), which))]


def tombstones(tx: Transaction, which: Which[str]) -> list[TombstoneFacts]:
    query = (
        sa.select(
            _tombstones.c.storage_key,
            _tombstones.c.digest,
            _tombstones.c.size,
            _tombstones.c.due_at,
            _tombstones.c.attempts,
            _blobs.c.digest,
            _uploads.c.id,
        )
        .outerjoin(_blobs, _blobs.c.storage_key == _tombstones.c.storage_key)
        .outerjoin(_uploads, _uploads.c.storage_key == _tombstones.c.storage_key)
    )
    chosen = _choose(query, (_tombstones.c.storage_key,), which)
    return [TombstoneFacts(*row) for row in tx.execute(chosen)]


# --- rows that ought not to be there --------------------------------------------------------------


def broken_links(tx: Transaction, which: Which[Pair]) -> list[LinkFacts]:
    """Links without a repository or without a blob."""
    where = sa.or_(_repositories.c.id.is_(None), _blobs.c.digest.is_(None))
    return _links(tx, which, where)


def forgotten_links(tx: Transaction, which: Which[Pair]) -> list[LinkFacts]:
    """Links that no manifest of their repository needs and that no review will look at again."""
    referenced = sa.exists().where(
        _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
        _manifest_blobs.c.digest == _repo_blobs.c.digest,
    )
    reviewed = sa.exists().where(
        _reviews.c.repository_id == _repo_blobs.c.repository_id,
        _reviews.c.digest == _repo_blobs.c.digest,
    )
    return _links(tx, which, sa.and_(~referenced, ~reviewed))


def _links(tx: Transaction, which: Which[Pair], where: sa.ColumnElement[bool]) -> list[LinkFacts]:
    query = (
        sa.select(
            _repo_blobs.c.repository_id,
            _repo_blobs.c.digest,
            _NAME,
            _blobs.c.size,
        )
        .outerjoin(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
        .outerjoin(_blobs, _blobs.c.digest == _repo_blobs.c.digest)
        .where(_repositories.c.deleted_at.is_(None), where)
    )
    chosen = _choose(query, (_repo_blobs.c.repository_id, _repo_blobs.c.digest), which)
    return [LinkFacts((row[0], row[1]), row[2], row[3]) for row in tx.execute(chosen)]


def ownerless_references(tx: Transaction, which: Which[Pair]) -> list[Ownerless]:
    """Blobs held by manifests that do not exist."""
    return _ownerless(tx, which, _manifest_blobs.c.manifest_id, _manifest_blobs.c.digest)


def ownerless_children(tx: Transaction, which: Which[Ids]) -> list[Ownerless]:
    """Manifests held by indexes that do not exist."""
    return _ownerless(tx, which, _children.c.parent_id, _children.c.child_id)


def _ownerless(
    tx: Transaction, which: Which[Any], owner: sa.Column[Any], held: sa.Column[Any]
) -> list[Ownerless]:
    query = (
        sa.select(owner, held)
        .outerjoin(_manifests, _manifests.c.id == owner)
        .where(_manifests.c.id.is_(None))
    )
    return [Ownerless((row[0], row[1])) for row in tx.execute(_choose(query, (owner, held), which))]


class JoblessItem(NamedTuple):
    """What a job was about that does not exist: the job's id, and the item's position."""

    key: tuple[str, int]


class JobFacts(NamedTuple):
    """A job that something is wrong with."""

    key: str
    kind: str


def jobless_items(tx: Transaction, which: Which[tuple[str, int]]) -> list[JoblessItem]:
    """What jobs were about that do not exist."""
    items, jobs = schema.job_items, schema.jobs
    query = (
        sa.select(items.c.job_id, items.c.position)
        .outerjoin(jobs, jobs.c.id == items.c.job_id)
        .where(jobs.c.id.is_(None))
    )
    chosen = _choose(query, (items.c.job_id, items.c.position), which)
    return [JoblessItem((row[0], row[1])) for row in tx.execute(chosen)]


def stalled_jobs(tx: Transaction, which: Which[str], before: datetime) -> list[JobFacts]:
    """Jobs that were asked for before that time and that nobody has worked on since."""
    jobs = schema.jobs
    left = sa.or_(jobs.c.claimed_until.is_(None), jobs.c.claimed_until < moment(before))
    query = sa.select(jobs.c.id, jobs.c.kind).where(
        jobs.c.finished_at.is_(None), jobs.c.created_at < moment(before), left
    )
    return [JobFacts(*row) for row in tx.execute(_choose(query, (jobs.c.id,), which))]


class KeptFacts(NamedTuple):
    """A repository that is kept and also live, being erased or not there; or by no operation."""

    key: int
    name: str
    live_name: str | None
    erased: bool
    operation: str | None


class OperationFacts(NamedTuple):
    """An operation that something is wrong with."""

    key: str
    kind: str


def odd_kept(tx: Transaction, which: Which[int]) -> list[KeptFacts]:
    """Repositories that are kept for a restore, and are not only that."""
    query = (
        sa.select(
            _kept.c.repository_id,
            _kept.c.name,
            _repositories.c.name,
            sa.or_(_repositories.c.deleted_at.is_not(None), _repositories.c.id.is_(None)),
            _operations.c.id,
        )
        .outerjoin(_repositories, _repositories.c.id == _kept.c.repository_id)
        .outerjoin(_operations, _operations.c.id == _kept.c.operation_id)
        .where(
            sa.or_(
                _operations.c.id.is_(None),
                _repositories.c.name.is_not(None),
                _repositories.c.deleted_at.is_not(None),
                _repositories.c.id.is_(None),
            )
        )
    )
    chosen = _choose(query, (_kept.c.repository_id,), which)
    return [KeptFacts(row[0], row[1], row[2], bool(row[3]), row[4]) for row in tx.execute(chosen)]


def empty_operations(tx: Transaction, which: Which[str]) -> list[OperationFacts]:
    """Operations that keep nothing."""
    query = sa.select(_operations.c.id, _operations.c.kind).where(
        ~sa.exists().where(_kept.c.operation_id == _operations.c.id),
        ~sa.exists().where(_deleted_tags.c.operation_id == _operations.c.id),
    )
    chosen = _choose(query, (_operations.c.id,), which)
    return [OperationFacts(*row) for row in tx.execute(chosen)]


def overdue_operations(
    tx: Transaction, which: Which[str], before: datetime
) -> list[OperationFacts]:
    """Operations whose days are counted from before that time, and so should be over."""
    query = sa.select(_operations.c.id, _operations.c.kind).where(
        _operations.c.counts_from < moment(before)
    )
    chosen = _choose(query, (_operations.c.id,), which)
    return [OperationFacts(*row) for row in tx.execute(chosen)]


def overdue_reviews(tx: Transaction, which: Which[Pair], before: datetime) -> list[LinkFacts]:
    """Reviews that should have happened before that time."""
    query = (
        sa.select(_reviews.c.repository_id, _reviews.c.digest, _NAME, _blobs.c.size)
        .outerjoin(_repositories, _repositories.c.id == _reviews.c.repository_id)
        .outerjoin(_blobs, _blobs.c.digest == _reviews.c.digest)
        .where(_repositories.c.deleted_at.is_(None), _reviews.c.due_at < moment(before))
    )
    chosen = _choose(query, (_reviews.c.repository_id, _reviews.c.digest), which)
    return [LinkFacts((row[0], row[1]), row[2], row[3]) for row in tx.execute(chosen)]


# --- the whole ------------------------------------------------------------------------------------


def stored_totals(tx: Transaction) -> dict[str, int]:
    """The registry-wide counters that can be counted again."""
    return {name: value for name, value in totals(tx).items() if name != "reclaimed_bytes"}


def counted_totals(tx: Transaction) -> dict[str, int]:
    """What they ought to be."""
    blob_count, blob_bytes = _count_and_sum(tx, _blobs.c.size)
    manifest_count, manifest_bytes = _count_and_sum(tx, _manifests.c.size)
    _, pending_bytes = _count_and_sum(tx, _tombstones.c.size)
    return {
        "blob_count": blob_count,
        "blob_bytes": blob_bytes,
        "manifest_count": manifest_count,
        "manifest_bytes": manifest_bytes,
        "pending_bytes": pending_bytes,
    }


def _count_and_sum(tx: Transaction, size: sa.Column[int]) -> tuple[int, int]:
    count, total = tx.execute(sa.select(sa.func.count(), _sum(size))).one()
    return int(count), int(total)


def _sum(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def count_links(tx: Transaction) -> int:
    return int(tx.execute(sa.select(sa.func.count()).select_from(_repo_blobs)).scalar_one())


def images_with_blob(tx: Transaction, digest: str, limit: int) -> tuple[list[str], int]:
    """The images that need a blob: up to `limit` of them by name, and how many there are."""
    holders = (
        sa.select(_manifest_blobs.c.manifest_id.label("id"))
        .join(
            _repo_blobs,
            sa.and_(
                _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
                _manifest_blobs.c.digest == _repo_blobs.c.digest,
            ),
        )
        .where(_repo_blobs.c.digest == digest)
    )
    return _images(tx, holders, limit)


def images_with_manifest(tx: Transaction, manifest_id: int, limit: int) -> tuple[list[str], int]:
    """The images that a manifest is, or is a part of."""
    return _images(tx, sa.select(sa.literal(manifest_id, schema.Id).label("id")), limit)


def _images(tx: Transaction, holders: sa.Select[tuple[int]], limit: int) -> tuple[list[str], int]:
    """Manifests and the indexes above them, as repository:tag, or repository@digest if untagged."""
    affected = holders.cte("affected", recursive=True)
    affected = affected.union(
        sa.select(_children.c.parent_id).join(affected, affected.c.id == _children.c.child_id)
    )
    rows = (
        sa.select(_repositories.c.name, _tags.c.name, _manifests.c.digest)
        .select_from(affected)
        .join(_manifests, _manifests.c.id == affected.c.id)
        .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
        .outerjoin(_tags, _tags.c.manifest_id == _manifests.c.id)
        .where(_repositories.c.name.is_not(None))
    )
    count = tx.execute(sa.select(sa.func.count()).select_from(rows.subquery())).scalar_one()
    order = (_repositories.c.name, _tags.c.name.is_(None), _tags.c.name, _manifests.c.digest)
    named = [
        f"{name}:{tag}" if tag is not None else f"{name}@{digest}"
        for name, tag, digest in tx.execute(rows.order_by(*order).limit(limit)).all()
    ]
    return named, int(count)


# --- mending --------------------------------------------------------------------------------------


def recount_repository(tx: Transaction, repository_id: int) -> None:
    """Set a repository's counters to what there is."""
    row = sa.select(_repositories.c.id).where(_repositories.c.id == repository_id)
    # Whoever changes a repository holds its row: what the next statement counts holds still.
    tx.execute(row.with_for_update(key_share=True))
    for facts in repositories(tx, Only([repository_id])):
        tx.execute(
            _repositories.update()
            .where(_repositories.c.id == repository_id)
            .values(facts.counted._asdict())
        )


def recount_references(tx: Transaction, digest: str) -> None:
    """Set a blob's numbers of references and of links to what there is."""
    row = sa.select(_blobs.c.digest).where(_blobs.c.digest == digest)
    # Whoever adds or removes a reference or a link changes these numbers later in the same
    # transaction. If it did, this waits until the reference can be counted; if it will, it changes
    # the new number.
    tx.execute(row.with_for_update(key_share=True))
    for facts in blobs(tx, Only([digest])):
        tx.execute(
            _blobs.update()
            .where(_blobs.c.digest == digest)
            .values(manifest_refs=facts.counted_references, repository_count=facts.counted_links)
        )


def recount_totals(tx: Transaction) -> None:
    """Set the registry-wide counters to what there is."""
    if tx.dialect == "postgresql":
        # Everybody changes the counters last. Who has done so is waited for and then counted; who
        # has not comes after this, and adds to the new values.
        tx.execute(sa.text("LOCK TABLE counters IN SHARE ROW EXCLUSIVE MODE"))
    stored = stored_totals(tx)
    drift = {name: count - stored[name] for name, count in counted_totals(tx).items()}
    add_to_counters(tx, 0, **drift)


def quarantine(tx: Transaction, digest: str, storage_key: str, now: datetime) -> bool:
    """Stop serving a blob, so that a push that has it uploads it again. False if it has changed."""
    return _change_blob(
        tx, digest, storage_key, _blobs.c.damaged_at.is_(None), damaged_at=moment(now)
    )


def lift_quarantine(tx: Transaction, digest: str, storage_key: str) -> bool:
    """The bytes are right after all. False if the blob has changed."""
    return _change_blob(tx, digest, storage_key, _blobs.c.damaged_at.is_not(None), damaged_at=None)


def correct_size(tx: Transaction, digest: str, storage_key: str, size: int) -> bool:
    """The bytes are right, their recorded number is not. The counters have to be counted again."""
    return _change_blob(tx, digest, storage_key, _blobs.c.size != size, size=size)


def _change_blob(
    tx: Transaction,
    digest: str,
    storage_key: str,
    where: sa.ColumnElement[bool],
    **values: int | None,
) -> bool:
    # The bytes under a key never change, so whoever judged them judged what this row still names.
    same = sa.and_(_blobs.c.digest == digest, _blobs.c.storage_key == storage_key)
    return tx.execute(_blobs.update().where(same, where).values(**values)).rowcount == 1


def condemn_unlinked(tx: Transaction, digest: str, due_at: datetime) -> bool:
    """Give up a blob that no repository links and no manifest refers to. False if one does."""
    row = sa.select(_blobs.c.size, _blobs.c.storage_key).where(_blobs.c.digest == digest)
    found = tx.execute(row.with_for_update()).first()
    held = sa.or_(
        sa.exists().where(_repo_blobs.c.digest == digest),
        sa.exists().where(_manifest_blobs.c.digest == digest),
    )
    if found is None or tx.execute(sa.select(held)).scalar_one():
        return False
    tx.execute(_blobs.delete().where(_blobs.c.digest == digest))
    add_to_counters(tx, 0, blob_count=-1, blob_bytes=-found.size)
    reclaim.bury(tx, 0, found.storage_key, found.size, due_at, Digest(digest))
    return True


def correct_tombstone(tx: Transaction, storage_key: str, recorded: int, size: int) -> bool:
    """Record how many bytes there really are to erase. False if the tombstone has changed."""
    changed = tx.execute(
        _tombstones.update()
        .where(_tombstones.c.storage_key == storage_key, _tombstones.c.size == recorded)
        .values(size=size)
    ).rowcount
    if changed:
        add_to_counters(tx, 0, pending_bytes=size - recorded)
    return bool(changed)


# --- choosing rows --------------------------------------------------------------------------------

_Query = TypeVar("_Query", bound=sa.Select[*tuple[Any, ...]])


def _choose(query: _Query, key: Sequence[sa.ColumnElement[Any]], which: Which[Any]) -> _Query:
    left = key[0] if len(key) == 1 else sa.tuple_(*key)
    if isinstance(which, Only):
        return query.where(left.in_(which.keys)).order_by(*key)
    if which.key is not None:
        query = query.where(left > which.key)
    return query.order_by(*key).limit(which.limit)
