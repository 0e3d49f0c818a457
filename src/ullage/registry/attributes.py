"""Changing attributes: locking and hiding repositories, tags and manifests, and undoing that.

A lock can always be changed; otherwise nothing could be unlocked.
"""

from __future__ import annotations

from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest
from ullage.oci.errors import ManifestUnknown, NameUnknown, TagUnknown
from ullage.oci.reference import RepositoryName, Tag
from ullage.registry.clients import Caller
from ullage.registry.context import Registry
from ullage.registry.listings import Reference, references_in, require_manifest, require_tag
from ullage.registry.locks.attribute_locks import WORDS
from ullage.registry.queries import attributes, listings
from ullage.registry.queries.attributes import AttributeChanges
from ullage.registry.queries.content.manifests import touch_manifest
from ullage.registry.queries.content.repositories import (
    lock_repository,
    repository_exists,
    touch_repository,
)
from ullage.registry.queries.content.tags import touch_tag
from ullage.registry.queries.listings import ManifestDetails, RepositoryDetails, TagDetails

__all__ = ["WORDS", "AttributeChanges"]


def update_repository(
    registry: Registry, name: RepositoryName, changes: AttributeChanges, caller: Caller
) -> RepositoryDetails:
    """Set a repository's own attributes; those of what is inside stay. Raises NameUnknown."""

    def update(tx: Transaction) -> RepositoryDetails:
        repository_id = lock_repository(tx, name)
        if repository_id is None or not repository_exists(tx, name):
            raise NameUnknown({"name": name})
        if attributes.set_of_repository(tx, repository_id, changes):
            touch_repository(tx, repository_id, registry.now())
            _note(tx, registry, caller, "repository.update", name, name, changes)
        return listings.repository_details(tx, repository_id)

    return registry.write(update, freeing=True)


def update_tag(
    registry: Registry, name: RepositoryName, tag: Tag, changes: AttributeChanges, caller: Caller
) -> TagDetails:
    """Set a tag's own attributes; those of its manifest stay. Raises TagUnknown."""

    def update(tx: Transaction) -> TagDetails:
        repository_id = lock_repository(tx, name)
        if repository_id is None:
            raise TagUnknown({"name": name, "tag": tag})
        require_tag(tx, name, tag)
        if attributes.set_of_tag(tx, repository_id, tag, changes):
            touch_tag(tx, repository_id, tag, registry.now())
            touch_repository(tx, repository_id, registry.now())
            _note(tx, registry, caller, "tag.update", name, tag, changes)
        return require_tag(tx, name, tag)

    return registry.write(update, freeing=True)


def update_manifest(
    registry: Registry,
    name: RepositoryName,
    digest: Digest,
    changes: AttributeChanges,
    caller: Caller,
) -> tuple[ManifestDetails, tuple[Reference, ...] | None]:
    """Set a manifest's own attributes; those of its tags stay. Raises ManifestUnknown.

    Returns what `listings.get_manifest` does.
    """

    def update(tx: Transaction) -> tuple[ManifestDetails, bytes]:
        repository_id = lock_repository(tx, name)
        if repository_id is None:
            raise ManifestUnknown(
                {"Name": name, "Revision": digest}, f"manifest {digest} is not found"
            )
        manifest = require_manifest(tx, name, digest)
        if attributes.set_of_manifest(tx, repository_id, digest, changes):
            touch_manifest(tx, manifest.id, registry.now())
            touch_repository(tx, repository_id, registry.now())
            _note(tx, registry, caller, "manifest.update", name, digest, changes)
        return require_manifest(tx, name, digest), listings.manifest_bytes(tx, manifest.id)

    details, raw = registry.write(update, freeing=True)
    return details, references_in(raw)


def _note(
    tx: Transaction,
    registry: Registry,
    caller: Caller,
    action: str,
    name: RepositoryName,
    target: str,
    changes: AttributeChanges,
) -> None:
    detail = {WORDS[column]: value for column, value in changes.given().items()}
    registry.audit(tx, caller, action, repository=name, target=target, detail=detail)
