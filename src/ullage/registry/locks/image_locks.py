"""Locks with a reason: what they cover, setting and lifting them (deletion.md section 8).

A lock of an image covers the manifest, what it lists and what refers to it, and theirs; a lock of a
tag covers the tag and the image that it points to at that moment; a lock of a repository covers all
of it. Nothing that is covered can be deleted, by whichever way, until the lock ends or is lifted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from ullage.authorization import Action, Principal
from ullage.database.transaction import Transaction
from ullage.documents import Document, Time, plain
from ullage.oci.digest import Digest
from ullage.oci.errors import (
    Locked,
    LockUnknown,
    ManifestUnknown,
    NameUnknown,
    TooManyRequests,
    ValueInvalid,
)
from ullage.oci.reference import RepositoryName, Tag
from ullage.quantities import parse_until
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.locks.deployed import Deployed, deployed_in
from ullage.registry.locks.spreading import spread
from ullage.registry.queries import image_locks
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.content.repositories import lock_repository, repository_exists
from ullage.registry.queries.image_locks import ImageLock
from ullage.registry.queries.references.manifests import tagged

MAX_REASON = 1000
MAX_OWNER = 255
# Every deletion reads those of its repository.
MAX_OF_REPOSITORY = 1000


# What keeps something from being deleted.
Protection = ImageLock | Deployed


@dataclass(frozen=True, slots=True)
class Covered:
    """What the locks of a repository cover at this moment, and what is deployed of it."""

    whole: ImageLock | None
    tags: Mapping[Tag, ImageLock]
    manifests: Mapping[int, Protection]

    def of(self, ids: Collection[int]) -> dict[int, Protection]:
        """Those of these manifests that are locked or deployed, and by what."""
        if self.whole is not None:
            return dict.fromkeys(ids, self.whole)
        return {id_: self.manifests[id_] for id_ in ids if id_ in self.manifests}

    def first(self) -> Protection | None:
        """A lock of anything in the repository, or of all of it."""
        found = (self.whole, *self.tags.values(), *self.manifests.values())
        return next((lock for lock in found if lock is not None), None)

    def of_tag(self, tag: Tag, manifest_id: int | None = None) -> Protection | None:
        """What locks a tag: a lock on it, on its image or its being deployed, on the repository."""
        on_image = self.manifests.get(manifest_id) if manifest_id is not None else None
        return self.whole or self.tags.get(tag) or on_image


NOTHING = Covered(None, {}, {})


def in_words(lock: Protection) -> str:
    """A lock for people: its owner, its end and its reason; or where an image is deployed."""
    if isinstance(lock, Deployed):
        return lock.in_words()
    until = f" until {lock.until.isoformat()}" if lock.until is not None else ""
    return f"held by {lock.owner or 'anonymous'}{until}: {lock.reason}"


def covered(tx: Transaction, repository_id: int, now: datetime) -> Covered:
    """What is locked or deployed of a repository. Two queries if nothing is; else it costs that.

    In a transaction that writes and has locked the repository's row it stays so until that ends.
    """
    deployed = deployed_in(tx, repository_id, now)
    found = image_locks.in_force(tx, repository_id, now)
    if not found:
        return Covered(None, {}, deployed) if deployed else NOTHING
    whole = next((lock for lock in found if lock.tag is None and lock.digest is None), None)
    if whole is not None:
        return Covered(whole, {}, {})
    tags: dict[Tag, ImageLock] = {}
    for lock in found:
        if lock.tag is not None:
            tags.setdefault(lock.tag, lock)
    by_tag = tagged(tx, repository_id, tags.keys())
    digests = [lock.digest for lock in found if lock.digest is not None]
    by_digest = find_manifests(tx, repository_id, digests)
    manifests: dict[int, Protection] = {}
    for lock in found:
        row = by_digest.get(lock.digest) if lock.digest is not None else None
        if lock.tag is not None:
            row = by_tag.get(lock.tag)
        if row is not None:
            spread(tx, repository_id, {row.id: (row.digest, lock)}, manifests)
    return Covered(None, tags, deployed | manifests)


def refuse(lock: Protection | None, name: RepositoryName) -> None:
    """Raises Locked with the lock's reason, if there is one."""
    if isinstance(lock, Deployed):
        raise Locked(f"{lock.in_words()} (repository '{name}')")
    if lock is not None:
        raise Locked(f"{in_words(lock)} (lock {lock.id} in repository '{name}')")


def require_none_locked(
    tx: Transaction,
    repository_id: int,
    name: RepositoryName,
    manifest_ids: Collection[int],
    now: datetime,
) -> None:
    """Raises Locked if a lock covers one of these manifests, or one of them is deployed."""
    found = covered(tx, repository_id, now).of(manifest_ids)
    refuse(next(iter(found.values()), None), name)


# --- setting and lifting --------------------------------------------------------------------------


def end_of(registry: Registry, text: str) -> datetime:
    """The end of a lock in a client's words: a date, or a duration. Raises ValueInvalid."""
    return parse_until(text, registry.now())


def place_lock(
    registry: Registry,
    name: RepositoryName,
    reference: Tag | Digest | None,
    caller: Caller,
    *,
    reason: str,
    owner: str | None,
    until: datetime | None,
) -> LockDocument:
    """Lock a repository, a tag or a manifest.

    `owner` is whose wish it is, if not the caller's. Raises NameUnknown, ManifestUnknown, and
    ValueInvalid without a reason or with an end that is past.
    """
    now = registry.now()
    if not reason.strip() or len(reason) > MAX_REASON:
        raise ValueInvalid(message=f"reason: expected up to {MAX_REASON} characters")
    if owner is not None and not 0 < len(owner) <= MAX_OWNER:
        raise ValueInvalid(message=f"owner: expected up to {MAX_OWNER} characters")
    if until is not None and until <= now:
        raise ValueInvalid(message="until: that is past")

    def place(tx: Transaction) -> ImageLock:
        repository_id = lock_repository(tx, name)
        if repository_id is None or not repository_exists(tx, name):
            raise NameUnknown({"name": name})
        tag = None if isinstance(reference, Digest) else reference
        digest = reference if isinstance(reference, Digest) else None
        if tag is not None and not tagged(tx, repository_id, [tag]):
            raise ManifestUnknown({"name": name, "tag": tag})
        if digest is not None and not find_manifests(tx, repository_id, [digest]):
            raise ManifestUnknown({"name": name, "digest": digest})
        if len(image_locks.in_force(tx, repository_id, now)) >= MAX_OF_REPOSITORY:
            raise TooManyRequests(message=f"{MAX_OF_REPOSITORY} locks in this repository already")
        lock = ImageLock(
            registry.fresh_key(),
            repository_id,
            tag,
            digest,
            reason,
            caller.subject if owner is None else owner,
            until,
            now,
        )
        image_locks.insert(tx, lock)
        detail = plain(document(name, lock))
        del detail["repository"]
        registry.audit(tx, caller, "lock.place", repository=name, target=reference, detail=detail)
        return lock

    return document(name, registry.write(place))


def lift_locks(
    registry: Registry, name: RepositoryName, reference: Tag | Digest | None, caller: Caller
) -> list[LockDocument]:
    """Lift the locks of exactly this; those there were. Raises NameUnknown, LockUnknown.

    Locks of something else go on covering what they cover. Lifting is audited.
    """
    now = registry.now()

    def lift(tx: Transaction) -> list[ImageLock]:
        repository_id = lock_repository(tx, name)
        if repository_id is None:
            raise NameUnknown({"name": name})
        lifted = [
            lock
            for lock in image_locks.in_force(tx, repository_id, now)
            if (lock.digest or lock.tag) == reference
        ]
        if not lifted:
            raise LockUnknown({"name": name, "reference": reference})
        for lock in lifted:
            image_locks.delete(tx, lock.id)
            detail = {"lock": lock.id, "reason": lock.reason, "owner": lock.owner}
            registry.audit(
                tx, caller, "lock.lift", repository=name, target=reference, detail=detail
            )
        return lifted

    return [document(name, lock) for lock in registry.write(lift)]


def list_locks(
    registry: Registry, principal: Principal, name: RepositoryName | None = None
) -> list[LockDocument]:
    """All locks in the repositories that the caller may read, or in one of them."""
    now = registry.now()
    return [
        document(repository, lock)
        for repository, lock in registry.read(lambda tx: image_locks.everywhere(tx, now))
        if name in (None, repository) and principal.may(Action.METADATA_READ, repository)
    ]


def expire_locks(registry: Registry) -> None:
    """Drop the rows of locks that have ended: they cover nothing since."""
    now = registry.now()
    if registry.read(lambda tx: image_locks.any_ended(tx, now)):
        registry.write(lambda tx: image_locks.forget_ended(tx, now), freeing=True)


class LockDocument(Document, frozen=True, kw_only=True):
    """A lock with a reason: of a tag, of a manifest, or of the whole repository."""

    id: str
    repository: str
    tag: str | None
    digest: str | None
    reason: str
    owner: str
    until: Time | None
    created: Time


def document(name: RepositoryName, lock: ImageLock) -> LockDocument:
    return LockDocument(
        id=lock.id,
        repository=name,
        tag=lock.tag,
        digest=lock.digest,
        reason=lock.reason,
        owner=lock.owner,
        until=lock.until.isoformat() if lock.until is not None else None,
        created=lock.created_at.isoformat(),
    )
