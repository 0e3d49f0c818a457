"""Locks with a reason: what they cover, setting and lifting them (deletion.md section 8).

A hold of an image covers the manifest, what it lists and what refers to it, and theirs; a hold of a
tag covers the tag and the image that it points to at that moment; a hold of a repository covers all
of it. Nothing that is covered can be deleted, by whichever way, until the hold ends or is lifted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ullage.authorization import Action, Principal
from ullage.database.transaction import Transaction
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
from ullage.registry.queries import image_locks
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.content.remove_manifests import referrers_of
from ullage.registry.queries.content.repositories import lock_repository, repository_exists
from ullage.registry.queries.image_locks import ImageLock
from ullage.registry.queries.references.manifests import children, tagged

MAX_REASON = 1000
MAX_OWNER = 255
# Every deletion reads those of its repository.
MAX_OF_REPOSITORY = 1000


@dataclass(frozen=True, slots=True)
class Covered:
    """What the holds of a repository cover at this moment."""

    whole: ImageLock | None
    tags: Mapping[Tag, ImageLock]
    manifests: Mapping[int, ImageLock]

    def of(self, ids: Collection[int]) -> dict[int, str]:
        """Those of these manifests that are held, and by what, for people."""
        if self.whole is not None:
            return dict.fromkeys(ids, described(self.whole))
        return {id_: described(self.manifests[id_]) for id_ in ids if id_ in self.manifests}

    def first(self) -> ImageLock | None:
        """A hold of anything in the repository, or of all of it."""
        found = (self.whole, *self.tags.values(), *self.manifests.values())
        return next((hold for hold in found if hold is not None), None)

    def of_tag(self, tag: Tag, manifest_id: int | None = None) -> ImageLock | None:
        """What holds a tag: on it, on its image, or on the repository."""
        on_image = self.manifests.get(manifest_id) if manifest_id is not None else None
        return self.whole or self.tags.get(tag) or on_image


NOTHING = Covered(None, {}, {})


def described(hold: ImageLock) -> str:
    """A hold for people: who, until when and why."""
    until = f" until {hold.until.isoformat()}" if hold.until is not None else ""
    return f"held by {hold.owner or 'anonymous'}{until}: {hold.reason}"


def covered(tx: Transaction, repository_id: int, now: datetime) -> Covered:
    """What is held in a repository. One question if nothing is; else it costs what is held."""
    found = image_locks.in_force(tx, repository_id, now)
    if not found:
        return NOTHING
    whole = next((hold for hold in found if hold.tag is None and hold.digest is None), None)
    if whole is not None:
        return Covered(whole, {}, {})
    tags: dict[Tag, ImageLock] = {}
    for hold in found:
        if hold.tag is not None:
            tags.setdefault(hold.tag, hold)
    by_tag = tagged(tx, repository_id, tags.keys())
    digests = [hold.digest for hold in found if hold.digest is not None]
    by_digest = find_manifests(tx, repository_id, digests)
    manifests: dict[int, ImageLock] = {}
    for hold in found:
        row = by_digest.get(hold.digest) if hold.digest is not None else None
        if hold.tag is not None:
            row = by_tag.get(hold.tag)
        if row is not None:
            _spread(tx, repository_id, {row.id: row.digest}, hold, manifests)
    return Covered(None, tags, manifests)


def _spread(
    tx: Transaction,
    repository_id: int,
    reached: dict[int, Digest],
    hold: ImageLock,
    manifests: dict[int, ImageLock],
) -> None:
    """Cover these manifests, all that they list and all that refers to them, and so on."""
    while reached := {id_: digest for id_, digest in reached.items() if id_ not in manifests}:
        manifests.update(dict.fromkeys(reached, hold))
        rows = [row for _, row in children(tx, reached.keys())]
        rows += referrers_of(tx, repository_id, set(reached.values()))
        reached = {row.id: row.digest for row in rows}


def require_unheld(hold: ImageLock | None, name: RepositoryName) -> None:
    """Raises Locked with the hold's reason, if there is one."""
    if hold is not None:
        raise Locked(f"{described(hold)} (lock {hold.id} in repository '{name}')")


def require_none_held(
    tx: Transaction,
    repository_id: int,
    name: RepositoryName,
    manifest_ids: Collection[int],
    now: datetime,
) -> None:
    """Raises Locked if a hold covers one of these manifests."""
    found = covered(tx, repository_id, now)
    held = next((id_ for id_ in found.of(manifest_ids)), None)
    if held is not None:
        require_unheld(found.whole or found.manifests[held], name)


# --- setting and lifting --------------------------------------------------------------------------


def end_of(registry: Registry, text: str) -> datetime:
    """When a hold ends that was asked for like this: a date, or a duration. Raises ValueInvalid."""
    return parse_until(text, registry.now())


def place_hold(
    registry: Registry,
    name: RepositoryName,
    reference: Tag | Digest | None,
    caller: Caller,
    *,
    reason: str,
    owner: str | None,
    until: datetime | None,
) -> dict[str, Any]:
    """Hold a repository, a tag or a manifest; the hold as JSON.

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
        hold = ImageLock(
            registry.fresh_key(),
            repository_id,
            tag,
            digest,
            reason,
            caller.subject if owner is None else owner,
            until,
            now,
        )
        image_locks.insert(tx, hold)
        detail = {name: value for name, value in _shown(name, hold).items() if name != "repository"}
        registry.audit(tx, caller, "lock.place", repository=name, target=reference, detail=detail)
        return hold

    return _shown(name, registry.write(place))


def lift_holds(
    registry: Registry, name: RepositoryName, reference: Tag | Digest | None, caller: Caller
) -> list[dict[str, Any]]:
    """Lift the holds of exactly this; those there were. Raises NameUnknown, LockUnknown.

    What holds something else goes on holding what it covers. Who lifted what is audited.
    """
    now = registry.now()

    def lift(tx: Transaction) -> list[ImageLock]:
        repository_id = lock_repository(tx, name)
        if repository_id is None:
            raise NameUnknown({"name": name})
        lifted = [
            hold
            for hold in image_locks.in_force(tx, repository_id, now)
            if (hold.digest or hold.tag) == reference
        ]
        if not lifted:
            raise LockUnknown({"name": name, "reference": reference})
        for hold in lifted:
            image_locks.delete(tx, hold.id)
            detail = {"lock": hold.id, "reason": hold.reason, "owner": hold.owner}
            registry.audit(
                tx, caller, "lock.lift", repository=name, target=reference, detail=detail
            )
        return lifted

    return [_shown(name, hold) for hold in registry.write(lift)]


def list_holds(
    registry: Registry, principal: Principal, name: RepositoryName | None = None
) -> list[dict[str, Any]]:
    """All holds in the repositories that the caller may read, or in one of them."""
    now = registry.now()
    return [
        _shown(repository, hold)
        for repository, hold in registry.read(lambda tx: image_locks.everywhere(tx, now))
        if name in (None, repository) and principal.may(Action.METADATA_READ, repository)
    ]


def expire_holds(registry: Registry) -> None:
    """Drop the rows of holds that have ended: they hold nothing since."""
    now = registry.now()
    if registry.read(lambda tx: image_locks.any_ended(tx, now)):
        registry.write(lambda tx: image_locks.forget_ended(tx, now), freeing=True)


def _shown(name: RepositoryName, hold: ImageLock) -> dict[str, Any]:
    return {
        "id": hold.id,
        "repository": name,
        "tag": hold.tag,
        "digest": hold.digest,
        "reason": hold.reason,
        "owner": hold.owner,
        "until": hold.until.isoformat() if hold.until is not None else None,
        "created": hold.created_at.isoformat(),
    }
