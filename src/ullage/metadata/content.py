"""Repositories, manifests, tags and links: what the registry holds.

Every function takes the transaction first. On PostgreSQL whoever changes a repository locks its row
first, then the blobs' rows in digest order, then the counters: one order for everybody, so nobody
waits in a circle. On SQLite there is one writer, and the same statements simply carry no lock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from ullage.metadata import attributes, schema
from ullage.metadata.attributes import Lock
from ullage.metadata.counters import add_to_counters
from ullage.metadata.database import Transaction, chunks
from ullage.metadata.moments import moment
from ullage.oci.digest import Digest
from ullage.oci.manifest import Manifest
from ullage.oci.reference import RepositoryName, Tag

_repositories = schema.repositories
_manifests = schema.manifests
_tags = schema.tags
_blobs = schema.blobs
_repo_blobs = schema.repo_blobs
_manifest_blobs = schema.manifest_blobs
_children = schema.manifest_children


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as it was pushed: exactly these bytes, served as exactly this type.

    `unreadable` says which lock keeps it from being pulled, if any.
    """

    digest: Digest
    media_type: str
    raw: bytes
    unreadable: Lock | None = None


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Where a blob's bytes are. A repository that is not `readable` hands none of them out."""

    digest: Digest
    size: int
    key: str
    repository_id: int
    readable: bool = True


class Platform(NamedTuple):
    """What an image's config says it runs on, as far as that is known."""

    architecture: str | None = None
    os: str | None = None


NO_PLATFORM = Platform()


class ManifestRow(NamedTuple):
    id: int
    digest: Digest
    size: int
    subject: Digest | None


class ReferrerRow(NamedTuple):
    digest: Digest
    media_type: str
    size: int
    artifact_type: str | None
    annotations: dict[str, str]


# --- repositories ---------------------------------------------------------------------------------


def find_repository(tx: Transaction, name: RepositoryName) -> int | None:
    """The repository's id, also while it holds nothing but upload sessions."""
    return tx.execute(_FIND_REPOSITORY, {"name": name}).scalar()


_FIND_REPOSITORY = sa.select(_repositories.c.id).where(_repositories.c.name == sa.bindparam("name"))


def repository_name(tx: Transaction, repository_id: int) -> RepositoryName:
    """What a repository is called whose row the caller holds, so that it is not deleted."""
    query = sa.select(_repositories.c.name).where(_repositories.c.id == repository_id)
    return RepositoryName(tx.execute(query).scalar_one())


def find_readable_repository(tx: Transaction, name: RepositoryName) -> int | None:
    """As find_repository, if its contents may be pulled."""
    query = _FIND_REPOSITORY.where(_repositories.c.read_enabled)
    return tx.execute(query, {"name": name}).scalar()


def repository_exists(tx: Transaction, name: RepositoryName) -> bool:
    """Whether it holds a manifest: only then does a repository exist for anybody who asks."""
    return tx.execute(_REPOSITORY_EXISTS, {"name": name}).first() is not None


_REPOSITORY_EXISTS = _FIND_REPOSITORY.where(_repositories.c.manifest_count > 0)


def lock_repository(tx: Transaction, name: RepositoryName) -> int | None:
    """Find the repository and keep every other writer out of it until the transaction ends."""
    found = tx.execute(_FIND_REPOSITORY.with_for_update(key_share=True), {"name": name})
    return found.scalar()


def lock_repository_id(tx: Transaction, repository_id: int) -> bool:
    """As lock_repository, for one that may have been deleted meanwhile: then False."""
    query = sa.select(_repositories.c.id).where(
        _repositories.c.id == repository_id, _repositories.c.deleted_at.is_(None)
    )
    return tx.execute(query.with_for_update(key_share=True)).first() is not None


def count_manifests(tx: Transaction, repository_id: int) -> int:
    query = sa.select(_repositories.c.manifest_count).where(_repositories.c.id == repository_id)
    return int(tx.execute(query).scalar_one())


def all_digests(tx: Transaction, repository_id: int) -> list[Digest]:
    """Every manifest of a repository, in byte order."""
    query = sa.select(_manifests.c.digest).where(_manifests.c.repository_id == repository_id)
    return [Digest(each) for each in tx.execute(query.order_by(_manifests.c.digest)).scalars()]


def all_tags(tx: Transaction, repository_id: int) -> list[Tag]:
    """Every tag of a repository, hidden ones too, in byte order."""
    query = sa.select(_tags.c.name).where(_tags.c.repository_id == repository_id)
    return [Tag(name) for name in tx.execute(query.order_by(_tags.c.name)).scalars()]


def ensure_repository(tx: Transaction, name: RepositoryName, now: datetime) -> int:
    """Find and lock the repository, or make it."""
    # Others may make it and remove it again between any two statements.
    while (repository_id := lock_repository(tx, name)) is None:
        tx.execute(
            tx.insert(_repositories)
            .values(name=name, created_at=moment(now), updated_at=moment(now))
            .on_conflict_do_nothing(index_elements=["name"])
        )
    return repository_id


def drop_repository_if_empty(tx: Transaction, repository_id: int) -> None:
    """Remove the row of a repository that nothing refers to any more.

    While an upload session or a lease lives (a lease keeps its link), the row stays, so that a
    first push that races with the last delete succeeds.
    """
    used = [
        sa.exists().where(table.c.repository_id == repository_id)
        for table in (_manifests, _repo_blobs, schema.uploads)
    ]
    tx.execute(
        _repositories.delete().where(
            _repositories.c.id == repository_id, *(sa.not_(some) for some in used)
        )
    )
    attributes.forget_of_empty_repository(tx, repository_id)


def list_repositories(
    tx: Transaction, n: int, last: str | None, patterns: Collection[str] | None = None
) -> list[str]:
    """Names in byte order, without hidden ones.

    With `patterns` (names, or prefixes ending in "/*") only such ones.
    """
    query = sa.select(_repositories.c.name).where(
        _repositories.c.name.is_not(None),
        _repositories.c.manifest_count > 0,
        _repositories.c.list_enabled,
    )
    if patterns is not None:
        query = query.where(sa.or_(sa.false(), *map(_named_like, sorted(patterns))))
    if last is not None:
        query = query.where(_repositories.c.name > last)
    return list(tx.execute(query.order_by(_repositories.c.name).limit(n)).scalars())


def _named_like(pattern: str) -> sa.ColumnElement[bool]:
    """As a range of names, so that the index finds them and no character is special."""
    name = _repositories.c.name
    if not pattern.endswith("/*"):
        return name == pattern
    prefix = pattern[:-1]
    return sa.and_(name > prefix, name < prefix[:-1] + chr(ord("/") + 1))


# --- reading manifests ----------------------------------------------------------------------------

# What locks say comes with the row: pulling stays one query.
_STORED = sa.select(
    _manifests.c.digest,
    _manifests.c.media_type,
    _manifests.c.raw,
    _repositories.c.read_enabled,
    _manifests.c.read_enabled,
)
_BY_DIGEST = (
    _STORED.add_columns(sa.true())
    .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
    .where(_repositories.c.name == sa.bindparam("name"))
    .where(_manifests.c.digest == sa.bindparam("reference"))
)
_BY_TAG = (
    _STORED.add_columns(_tags.c.read_enabled)
    .join(_tags, _tags.c.manifest_id == _manifests.c.id)
    .join(_repositories, _repositories.c.id == _tags.c.repository_id)
    .where(_repositories.c.name == sa.bindparam("name"))
    .where(_tags.c.name == sa.bindparam("reference"))
)


def get_manifest(
    tx: Transaction, name: RepositoryName, reference: Tag | Digest
) -> StoredManifest | None:
    query = _BY_DIGEST if isinstance(reference, Digest) else _BY_TAG
    row = tx.execute(query, {"name": name, "reference": reference}).first()
    if row is None:
        return None
    digest, media_type, raw, *enabled = row
    if all(enabled):
        return StoredManifest(Digest(digest), media_type, raw)
    names: tuple[tuple[attributes.Kind, str], ...] = (
        ("repository", name),
        ("manifest", digest),
        ("tag", reference),
    )
    kind, named = names[enabled.index(False)]
    return StoredManifest(Digest(digest), media_type, raw, Lock(kind, named, "read_enabled"))


def manifest_exists(tx: Transaction, name: RepositoryName, digest: Digest) -> bool:
    query = (
        sa.select(_manifests.c.id)
        .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
        .where(_repositories.c.name == name, _manifests.c.digest == digest)
    )
    return tx.execute(query).first() is not None


def list_tags(tx: Transaction, repository_id: int, n: int, last: str | None) -> list[str]:
    """Names in byte order, without hidden ones."""
    query = sa.select(_tags.c.name).where(
        _tags.c.repository_id == repository_id, _tags.c.list_enabled
    )
    if last is not None:
        query = query.where(_tags.c.name > last)
    return list(tx.execute(query.order_by(_tags.c.name).limit(n)).scalars())


def list_referrers(
    tx: Transaction,
    name: RepositoryName,
    subject: Digest,
    artifact_type: str | None,
    n: int,
    last: str | None,
) -> list[ReferrerRow]:
    query = (
        sa.select(
            _manifests.c.digest,
            _manifests.c.media_type,
            _manifests.c.size,
            _manifests.c.artifact_type,
            _manifests.c.annotations,
        )
        .join(_repositories, _repositories.c.id == _manifests.c.repository_id)
        .where(_repositories.c.name == name, _manifests.c.subject == subject)
        .where(_manifests.c.list_enabled)
    )
    if artifact_type is not None:
        query = query.where(_manifests.c.artifact_type == artifact_type)
    if last is not None:
        query = query.where(_manifests.c.digest > last)
    return [
        ReferrerRow(Digest(row[0]), row[1], row[2], row[3], json.loads(row[4]) if row[4] else {})
        for row in tx.execute(query.order_by(_manifests.c.digest).limit(n))
    ]


# --- writing manifests ----------------------------------------------------------------------------


def find_manifests(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> dict[Digest, ManifestRow]:
    found: dict[Digest, ManifestRow] = {}
    for some in chunks(sorted(digests)):
        for row in _manifest_rows(
            tx, _manifests.c.repository_id == repository_id, _manifests.c.digest.in_(some)
        ):
            found[row.digest] = row
    return found


def _manifest_rows(tx: Transaction, *where: sa.ColumnElement[bool]) -> list[ManifestRow]:
    query = sa.select(
        _manifests.c.id, _manifests.c.digest, _manifests.c.size, _manifests.c.subject
    ).where(*where)
    return [
        ManifestRow(row[0], Digest(row[1]), row[2], Digest(row[3]) if row[3] else None)
        for row in tx.execute(query)
    ]


def media_type_of(tx: Transaction, manifest_id: int) -> str:
    query = sa.select(_manifests.c.media_type).where(_manifests.c.id == manifest_id)
    return str(tx.execute(query).scalar_one())


def insert_manifest(
    tx: Transaction,
    repository_id: int,
    digest: Digest,
    manifest: Manifest,
    raw: bytes,
    *,
    blobs: Sequence[Digest],
    children: Iterable[int],
    platform: Platform = NO_PLATFORM,
    now: datetime,
) -> int:
    """Store a manifest and all it refers to; returns its id. The caller holds the blobs' rows."""
    inserted = tx.execute(
        _manifests.insert().values(
            repository_id=repository_id,
            digest=digest,
            media_type=manifest.media_type,
            artifact_type=manifest.artifact_type,
            annotations=json.dumps(manifest.annotations) if manifest.annotations else None,
            subject=manifest.subject.digest if manifest.subject else None,
            size=len(raw),
            pushed_at=moment(now),
            updated_at=moment(now),
            raw=raw,
            image_size=manifest.image_size,
            config_media_type=manifest.config.media_type if manifest.config else None,
            architecture=platform.architecture,
            os=platform.os,
        )
    ).inserted_primary_key
    assert inserted is not None
    manifest_id = int(inserted[0])
    hold(tx, repository_id, manifest_id, blobs=blobs, children=children)
    add_to_repository(tx, repository_id, manifest_count=1, manifest_bytes=len(raw))
    add_to_counters(tx, repository_id, manifest_count=1, manifest_bytes=len(raw))
    return manifest_id


def hold(
    tx: Transaction,
    repository_id: int,
    manifest_id: int,
    *,
    blobs: Sequence[Digest],
    children: Iterable[int],
) -> None:
    """Record what a manifest refers to; the caller holds the rows of `blobs`."""
    references = [
        {"manifest_id": manifest_id, "digest": blob, "repository_id": repository_id}
        for blob in blobs
    ]
    for some in chunks(references):
        tx.execute(_manifest_blobs.insert(), list(some))
    for some_blobs in chunks(blobs):
        _count_references(tx, some_blobs, +1)
    pairs = [{"parent_id": manifest_id, "child_id": child} for child in children]
    for some_pairs in chunks(pairs):
        tx.execute(_children.insert(), list(some_pairs))


def _count_references(tx: Transaction, digests: Sequence[Digest], by: int) -> None:
    tx.execute(
        _blobs.update()
        .where(_blobs.c.digest.in_(digests))
        .values(manifest_refs=_blobs.c.manifest_refs + by)
    )


def put_tag(tx: Transaction, repository_id: int, tag: Tag, manifest_id: int, now: datetime) -> None:
    """Point the tag to the manifest. Its time of update moves even if it pointed there before.

    Then it was pushed again, and whoever cleans up by age must see that (acr-contract 2.5).
    """
    where = (_tags.c.repository_id == repository_id, _tags.c.name == tag)
    current = tx.execute(sa.select(_tags.c.manifest_id).where(*where)).scalar()
    if current is None:
        tx.execute(
            _tags.insert().values(
                repository_id=repository_id,
                name=tag,
                manifest_id=manifest_id,
                created_at=moment(now),
                updated_at=moment(now),
            )
        )
        add_to_repository(tx, repository_id, tag_count=1)
        return
    tx.execute(_tags.update().where(*where).values(manifest_id=manifest_id, updated_at=moment(now)))
    if current != manifest_id:
        touch_manifest(tx, current, now)


def delete_tag(tx: Transaction, repository_id: int, tag: Tag, now: datetime) -> Digest | None:
    """Remove the tag and nothing else; what it pointed to, None if there was no such tag."""
    where = (_tags.c.repository_id == repository_id, _tags.c.name == tag)
    row = tx.execute(
        sa.select(_manifests.c.id, _manifests.c.digest)
        .join(_tags, _tags.c.manifest_id == _manifests.c.id)
        .where(*where)
    ).first()
    if row is None:
        return None
    tx.execute(_tags.delete().where(*where))
    add_to_repository(tx, repository_id, tag_count=-1)
    touch_manifest(tx, row.id, now)
    touch_repository(tx, repository_id, now)
    return Digest(row.digest)


def touch_manifest(tx: Transaction, manifest_id: int, now: datetime) -> None:
    """It was pushed again, or its tags or attributes changed."""
    tx.execute(
        _manifests.update().where(_manifests.c.id == manifest_id).values(updated_at=moment(now))
    )


def touch_tag(tx: Transaction, repository_id: int, tag: Tag, now: datetime) -> None:
    """Its attributes changed."""
    where = (_tags.c.repository_id == repository_id, _tags.c.name == tag)
    tx.execute(_tags.update().where(*where).values(updated_at=moment(now)))


def touch_repository(tx: Transaction, repository_id: int, now: datetime) -> None:
    """A manifest, tag or attribute in it changed."""
    where = _repositories.c.id == repository_id
    tx.execute(_repositories.update().where(where).values(updated_at=moment(now)))


def add_to_repository(tx: Transaction, repository_id: int, **changes: int) -> None:
    """Add to a repository's counters: manifest_count, tag_count, manifest_bytes, blob_bytes."""
    tx.execute(
        _repositories.update()
        .where(_repositories.c.id == repository_id)
        .values({name: _repositories.c[name] + by for name, by in changes.items()})
    )


# --- what holds a manifest, and taking manifests away ---------------------------------------------


def parents_of(tx: Transaction, ids: Collection[int]) -> dict[int, dict[int, Digest]]:
    """Which manifests list these as children: child id -> {parent id: parent digest}."""
    parents: dict[int, dict[int, Digest]] = {}
    for some in chunks(sorted(ids)):
        query = (
            sa.select(_children.c.child_id, _manifests.c.id, _manifests.c.digest)
            .join(_manifests, _manifests.c.id == _children.c.parent_id)
            .where(_children.c.child_id.in_(some))
        )
        for child, parent, digest in tx.execute(query):
            parents.setdefault(child, {})[parent] = Digest(digest)
    return parents


def children_of(tx: Transaction, ids: Collection[int]) -> list[ManifestRow]:
    found: dict[int, ManifestRow] = {}
    for some in chunks(sorted(ids)):
        listed = sa.select(_children.c.child_id).where(_children.c.parent_id.in_(some))
        for row in _manifest_rows(tx, _manifests.c.id.in_(listed)):
            found[row.id] = row
    return list(found.values())


def referrers_of(
    tx: Transaction, repository_id: int, subjects: Collection[Digest]
) -> list[ManifestRow]:
    found: list[ManifestRow] = []
    for some in chunks(sorted(subjects)):
        found += _manifest_rows(
            tx, _manifests.c.repository_id == repository_id, _manifests.c.subject.in_(some)
        )
    return found


def tagged_among(tx: Transaction, ids: Collection[int]) -> set[int]:
    tagged: set[int] = set()
    for some in chunks(sorted(ids)):
        query = sa.select(_tags.c.manifest_id).where(_tags.c.manifest_id.in_(some)).distinct()
        tagged.update(tx.execute(query).scalars())
    return tagged


def tags_of(tx: Transaction, ids: Collection[int]) -> list[Tag]:
    names: list[Tag] = []
    for some in chunks(sorted(ids)):
        query = sa.select(_tags.c.name).where(_tags.c.manifest_id.in_(some))
        names += [Tag(name) for name in tx.execute(query).scalars()]
    return sorted(names)


def blobs_of(tx: Transaction, ids: Collection[int]) -> dict[Digest, int]:
    """The blobs these manifests refer to, each with how many of them do."""
    counts: dict[Digest, int] = {}
    for some in chunks(sorted(ids)):
        query = (
            sa.select(_manifest_blobs.c.digest, sa.func.count())
            .where(_manifest_blobs.c.manifest_id.in_(some))
            .group_by(_manifest_blobs.c.digest)
        )
        for digest, count in tx.execute(query):
            counts[Digest(digest)] = counts.get(Digest(digest), 0) + count
    return counts


def remove_manifests(
    tx: Transaction,
    repository_id: int,
    rows: Sequence[ManifestRow],
    references: Mapping[Digest, int],
) -> None:
    """Take manifests away with their tags and references; `references` is blobs_of() them.

    The caller holds the rows of those blobs and decides afterwards about links left unused.
    """
    tags_gone = 0
    for some in chunks([row.id for row in rows]):
        tags_gone += tx.execute(_tags.delete().where(_tags.c.manifest_id.in_(some))).rowcount
        tx.execute(_manifest_blobs.delete().where(_manifest_blobs.c.manifest_id.in_(some)))
        tx.execute(
            _children.delete().where(
                sa.or_(_children.c.parent_id.in_(some), _children.c.child_id.in_(some))
            )
        )
    for some in chunks([row.id for row in rows]):
        tx.execute(_manifests.delete().where(_manifests.c.id.in_(some)))
    by_count: dict[int, list[Digest]] = {}
    for digest, count in references.items():
        by_count.setdefault(count, []).append(digest)
    for count, digests in by_count.items():
        for some_digests in chunks(digests):
            _count_references(tx, some_digests, -count)
    size = sum(row.size for row in rows)
    add_to_repository(
        tx,
        repository_id,
        manifest_count=-len(rows),
        manifest_bytes=-size,
        tag_count=-tags_gone,
    )
    add_to_counters(tx, repository_id, manifest_count=-len(rows), manifest_bytes=-size)


# --- blobs and links ------------------------------------------------------------------------------

_FIND_BLOB = (
    sa.select(
        _blobs.c.digest,
        _blobs.c.size,
        _blobs.c.storage_key,
        _repo_blobs.c.repository_id,
        _repositories.c.read_enabled,
    )
    .join(_repo_blobs, _repo_blobs.c.digest == _blobs.c.digest)
    .join(_repositories, _repositories.c.id == _repo_blobs.c.repository_id)
    .where(_repositories.c.name == sa.bindparam("name"))
    .where(_repo_blobs.c.digest == sa.bindparam("digest"))
    .where(_blobs.c.damaged_at.is_(None))
)


def find_blob(tx: Transaction, name: RepositoryName, digest: Digest) -> StoredBlob | None:
    """The blob as this repository may read it: linked here, and its bytes sound."""
    row = tx.execute(_FIND_BLOB, {"name": name, "digest": digest}).first()
    return StoredBlob(Digest(row[0]), *row[1:]) if row else None


def lock_blobs(
    tx: Transaction, digests: Collection[Digest], *, to_drop: bool = False
) -> dict[Digest, int]:
    """Lock the sound ones among these blobs in digest order; their sizes.

    `to_drop` keeps out everybody, also those who would promise a blob; otherwise only those who
    would drop or recount it. What a later statement sees of these blobs' links and references
    cannot change until the transaction ends (deletion.md: why it must be a *later* statement).
    """
    sizes: dict[Digest, int] = {}
    for some in chunks(sorted(digests)):
        query = (
            sa.select(_blobs.c.digest, _blobs.c.size)
            .where(_blobs.c.digest.in_(some), _blobs.c.damaged_at.is_(None))
            .order_by(_blobs.c.digest)
            .with_for_update(key_share=not to_drop)
        )
        sizes.update((Digest(digest), size) for digest, size in tx.execute(query))
    return sizes


def linked_among(tx: Transaction, repository_id: int, digests: Collection[Digest]) -> set[Digest]:
    linked: set[Digest] = set()
    for some in chunks(sorted(digests)):
        query = sa.select(_repo_blobs.c.digest).where(
            _repo_blobs.c.repository_id == repository_id, _repo_blobs.c.digest.in_(some)
        )
        linked.update(Digest(digest) for digest in tx.execute(query).scalars())
    return linked


def referenced_among(
    tx: Transaction, repository_id: int, digests: Collection[Digest]
) -> set[Digest]:
    """Which of these blobs a manifest of the repository refers to."""
    # One reference is enough to know: what a million manifests share is looked at once. They all
    # go by way of the repository's link (the foreign key says so).
    referenced = sa.exists().where(
        _manifest_blobs.c.repository_id == _repo_blobs.c.repository_id,
        _manifest_blobs.c.digest == _repo_blobs.c.digest,
    )
    found: set[Digest] = set()
    for some in chunks(sorted(digests)):
        query = sa.select(_repo_blobs.c.digest).where(
            _repo_blobs.c.repository_id == repository_id, _repo_blobs.c.digest.in_(some), referenced
        )
        found.update(Digest(digest) for digest in tx.execute(query).scalars())
    return found


def link_blob(
    tx: Transaction, repository_id: int, digest: Digest, size: int, now: datetime
) -> None:
    """Let the repository read and refer to the blob."""
    made = tx.execute(
        tx.insert(_repo_blobs)
        .values(repository_id=repository_id, digest=digest, linked_at=moment(now))
        .on_conflict_do_nothing(index_elements=["repository_id", "digest"])
    ).rowcount
    if made:
        count_links(tx, [digest], +1)
        add_to_repository(tx, repository_id, blob_bytes=size)


def count_links(tx: Transaction, digests: Sequence[Digest], by: int) -> None:
    """That many more repositories link these blobs; the caller holds their rows."""
    tx.execute(
        _blobs.update()
        .where(_blobs.c.digest.in_(digests))
        .values(repository_count=_blobs.c.repository_count + by)
    )
