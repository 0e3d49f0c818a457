"""Why something is not freed: all that needs a manifest or a blob, or what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from ullage.authorization import Action, Principal
from ullage.database.transaction import Transaction
from ullage.deletion import soft_delete
from ullage.deletion.closure import KeepReason, KeptBy
from ullage.deletion.soft_delete import SoftDelete
from ullage.deletion.unlocked import kept_by
from ullage.documents import UNSET, Document, Time, UnsetType
from ullage.oci.digest import Digest
from ullage.oci.errors import BlobUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.context import Registry
from ullage.registry.locks import attribute_locks, image_locks, immutable_tags
from ullage.registry.pull.pull_log import LastPull, last_pulls, write_pulls
from ullage.registry.queries import attributes
from ullage.registry.queries.content.manifests import find_manifests
from ullage.registry.queries.content.remove_manifests import parents_of
from ullage.registry.queries.references.blobs import referenced_blobs
from ullage.registry.queries.references.links import LinkState, links_of
from ullage.registry.queries.references.manifests import tags_on
from ullage.usage.queries import why
from ullage.usage.queries.why import Place
from ullage.usage.usage import sees_everything


class ManifestPlace(Document, frozen=True, kw_only=True):
    """A manifest in one repository, and all that keeps it there."""

    repository: str
    held_by: list[KeptBy]
    last_pull: LastPull | None
    # If it was deleted softly: by which operation, and until when it is kept.
    operation: str | UnsetType = UNSET
    soft_deleted_until: Time | UnsetType = UNSET


class ReferringManifest(Document, frozen=True, kw_only=True):
    """A manifest that refers to a blob."""

    repository: str
    digest: str
    tags: list[str]
    operation: str | UnsetType = UNSET
    soft_deleted_until: Time | UnsetType = UNSET


class Wait(Document, frozen=True):
    """A link that no manifest needs: leased to a pusher, or about to be looked at."""

    repository: str | None
    leased: bool
    until: Time | None


class BlobPlaces(Document, frozen=True):
    """A blob, and all that keeps it, as far as the caller may read."""

    bytes: int
    held_by: list[ReferringManifest]
    waits: list[Wait]
    # So many deleted repositories that link it are being erased.
    erasing: int
    # Something that the caller may not read about needs it too.
    elsewhere: bool


class Tombstone(Document, frozen=True):
    """Bytes that are deleted, and due to be erased."""

    bytes: int
    due: Time


class Reasons(Document, frozen=True, kw_only=True):
    """Why the bytes of a digest are there; `because` says it in a sentence."""

    digest: str
    manifest: list[ManifestPlace] | UnsetType = UNSET
    blob: BlobPlaces | UnsetType = UNSET
    deleted: list[Tombstone] | UnsetType = UNSET
    because: str


class PlacedDigest(Document, frozen=True):
    """A manifest by its repository and digest."""

    repository: str
    digest: str


def digests_beginning(
    registry: Registry, prefixes: Sequence[str], principal: Principal
) -> tuple[list[PlacedDigest], list[str]]:
    """The manifests whose digests begin with one of these, and the blobs, as far as the caller may
    read about them."""

    def read(tx: Transaction) -> tuple[list[PlacedDigest], list[str]]:
        policy = soft_delete.find_policy(tx)
        manifests = [
            PlacedDigest(name, digest)
            for prefix in prefixes
            for name, digest in why.manifests_beginning(tx, prefix)
            if principal.may(Action.METADATA_READ, name)
        ]
        blobs = [
            digest
            for prefix in prefixes
            for digest in why.blobs_beginning(tx, prefix)
            if _blob(tx, registry, Digest(digest), principal, policy) is not None
        ]
        return manifests, blobs

    return registry.snapshot(read)


def explain(registry: Registry, digest: Digest, principal: Principal) -> Reasons:
    """What keeps the manifest or blob, in the repositories that the caller may read.

    `elsewhere` says that others need it too, without naming them. Raises BlobUnknown if the caller
    can see nothing of it.
    """
    write_pulls(registry)
    return registry.snapshot(lambda tx: _explain(tx, registry, digest, principal))


def _explain(tx: Transaction, registry: Registry, digest: Digest, principal: Principal) -> Reasons:
    policy, now = soft_delete.find_policy(tx), registry.now()
    places = [place for place in why.manifests_called(tx, digest) if _may_see(principal, place)]
    manifest = [_manifest(tx, place, policy, now) for place in places]
    blob = _blob(tx, registry, digest, principal, policy)
    waiting = why.tombstones_of(tx, digest) if sees_everything(principal) else []
    deleted = [Tombstone(each.bytes, each.due_at.isoformat()) for each in waiting]
    if not manifest and blob is None and not deleted:
        raise BlobUnknown(
            {"digest": digest}, "no manifest or blob that you may read about has this digest"
        )
    return Reasons(
        digest=digest,
        manifest=manifest or UNSET,
        blob=UNSET if blob is None else blob,
        deleted=deleted or UNSET,
        because=_in_words(manifest, blob, deleted),
    )


# --- manifests ------------------------------------------------------------------------------------


def _may_see(principal: Principal, place: Place) -> bool:
    right = Action.METADATA_READ if place.operation is None else Action.DELETED_READ
    return principal.may(right, place.repository)


def _kept(place: Place, policy: SoftDelete) -> tuple[str | UnsetType, str | UnsetType]:
    """The operation that keeps it, and the end of that; UNSET if it is live."""
    if place.operation is None or place.counts_from is None:
        return UNSET, UNSET
    return place.operation, policy.until(place.counts_from).isoformat()


def _manifest(tx: Transaction, place: Place, policy: SoftDelete, now: datetime) -> ManifestPlace:
    """What keeps it in one repository; nothing if it is an orphan."""
    id_ = place.manifest_id
    keepers = [KeptBy(KeepReason.TAG, tag) for tag in tags_on(tx, [id_]).get(id_, [])]
    parents = parents_of(tx, [id_]).get(id_, {})
    keepers += [KeptBy(KeepReason.INDEX, digest) for _, digest in sorted(parents.items())]
    subject = place.subject
    if subject and find_manifests(tx, place.repository_id, [subject]):
        keepers.append(KeptBy(KeepReason.SUBJECT, subject))
    lock = attributes.locks_on(tx, [id_]).get(id_)
    if lock is not None:
        words = attribute_locks.described(RepositoryName(place.repository), lock)
        keepers.append(KeptBy(KeepReason.LOCK, words))
    covered = image_locks.covered(tx, place.repository_id, now)
    keepers += [kept_by(each) for each in covered.of([id_]).values()]
    if place.operation is None:
        immutable = immutable_tags.in_force(tx, RepositoryName(place.repository))
        by_rule = immutable_tags.on_manifests(tx, immutable, [id_])
        keepers += [KeptBy(KeepReason.IMMUTABLE, words) for words in by_rule.values()]
    operation, until = _kept(place, policy)
    return ManifestPlace(
        repository=place.repository,
        held_by=keepers,
        last_pull=last_pulls(tx, [id_]).get(id_),
        operation=operation,
        soft_deleted_until=until,
    )


# --- blobs ----------------------------------------------------------------------------------------


def _blob(
    tx: Transaction,
    registry: Registry,
    digest: Digest,
    principal: Principal,
    policy: SoftDelete,
) -> BlobPlaces | None:
    facts = referenced_blobs(tx, [digest]).get(digest)
    if facts is None:
        return None
    places = why.manifests_referring(tx, digest)
    seen = [place for place in places if _may_see(principal, place)]
    links = links_of(tx, [digest]).get(digest, [])
    used = {place.repository_id for place in places}
    # Links that no manifest uses: promises to pushers, and what is being erased.
    unused = [state for state in links if state.link.repository_id not in used]
    promised = [
        state
        for state in unused
        if state.name is not None
        and principal.may(Action.DELETED_READ if state.hidden else Action.METADATA_READ, state.name)
    ]
    everything = sees_everything(principal)
    erasing = sum(state.name is None for state in unused) if everything else 0
    if not seen and not promised and not everything:
        return None
    tags = tags_on(tx, [place.manifest_id for place in seen])
    return BlobPlaces(
        facts.size,
        [_referring(place, tags.get(place.manifest_id, []), policy) for place in seen],
        _waits(tx, registry, promised),
        erasing,
        len(seen) < len(places) or len(promised) + erasing < len(unused),
    )


def _referring(place: Place, tags: Sequence[Tag], policy: SoftDelete) -> ReferringManifest:
    operation, until = _kept(place, policy)
    return ReferringManifest(
        repository=place.repository,
        digest=place.digest,
        tags=[*tags],
        operation=operation,
        soft_deleted_until=until,
    )


def _waits(tx: Transaction, registry: Registry, states: Sequence[LinkState]) -> list[Wait]:
    leased = registry.leases.peek(tx, [state.link for state in states], registry.now())
    waits = []
    for state in states:
        until = leased.get(state.link) or state.review_at
        moment = until.isoformat() if until is not None else None
        waits.append(Wait(state.name, state.link in leased, moment))
    return waits


def _in_words(
    manifest: Sequence[ManifestPlace], blob: BlobPlaces | None, deleted: Sequence[Tombstone]
) -> str:
    """One sentence for people."""
    if manifest:
        live, until = _live_or_kept(manifest)
        keepers = sum(len(place.held_by) for place in live)
        if keepers:
            return f"held by {keepers} tags, indexes, subjects or locks"
        if live:
            return "nothing holds this manifest; it stays until it is deleted"
        return f"nothing: soft-deleted until {until}"
    if blob is None:
        return f"nothing: deleted, due {deleted[0].due}"
    referring, until = _live_or_kept(blob.held_by)
    if referring:
        return f"held by {len(referring)} manifest{'s' if len(referring) > 1 else ''}"
    if until and not blob.elsewhere:
        return f"nothing: soft-deleted until {until}"
    if blob.elsewhere:
        return "held in repositories that you may not read"
    if blob.waits:
        first = max(blob.waits, key=lambda wait: str(wait.until))
        kind = "lease" if first.leased else "to be looked at: not used since its lease"
        return f"nothing: {kind} until {first.until}"
    return "nothing: a deleted repository is being erased"


P = TypeVar("P", ManifestPlace, ReferringManifest)


def _live_or_kept(places: Sequence[P]) -> tuple[list[P], str]:
    """Those that are live, and until when the last of the others is kept."""
    live = [place for place in places if place.operation is UNSET]
    kept = [place.soft_deleted_until for place in places if place.operation is not UNSET]
    return live, max((until for until in kept if until is not UNSET), default="")
