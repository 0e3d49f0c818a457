"""A registry without a server: use cases on a real database and store, filled by pushes."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ullage.blobs.protocol import BlobStore
from ullage.database.opening import open_database
from ullage.deletion.reclaim import erase_deleted, expire_uploads, reclaim_due, review_due
from ullage.oci.digest import Digest, digest_of
from ullage.oci.reference import RepositoryName, Tag, parse_repository_name, parse_tag
from ullage.registry.clients import Caller
from ullage.registry.context import Limits, Registry
from ullage.registry.leases.opening import open_leases
from ullage.registry.pull.read import get_manifest
from ullage.registry.push.manifests import PutResult, prepare_manifest
from ullage.registry.push.prepared import commit
from ullage.registry.push.sessions import start_upload
from ullage.registry.push.sessions_in_memory import open_memory_sessions
from ullage.registry.push.uploads import append_upload
from ullage.registry.queries.upload_claims import open_claims

ALICE = Caller(subject="alice", address="192.0.2.1", agent="test")

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def make_registry(
    database_url: str,
    blobs: BlobStore,
    clock: Callable[[], datetime],
    limits: Limits | None = None,
) -> Registry:
    """A registry on an empty or existing database. `registry.db.close()` is the caller's to do."""
    limits = limits or Limits()
    db = open_database(database_url)
    return Registry(
        db=db,
        blobs=blobs,
        leases=open_leases(db, limits.lease, clock()),
        claims=open_claims(db),
        memory_sessions=open_memory_sessions(db),
        now=clock,
        fresh_key=lambda: secrets.token_hex(16),
        limits=limits,
    )


def push_blob(registry: Registry, name: str, data: bytes, caller: Caller = ALICE) -> Digest:
    """Upload one blob through a session."""
    repository, digest = parse_repository_name(name), digest_of(data)
    upload = start_upload(registry, repository, caller)
    session = append_upload(registry, repository, upload.id, caller, start=0)
    session.write(data)
    session.commit(digest)
    return digest


def put_manifest(
    registry: Registry,
    name: RepositoryName,
    reference: Tag | Digest,
    raw: bytes,
    media_type: str | None,
    caller: Caller,
    tags: Sequence[Tag] = (),
) -> PutResult:
    """Store a manifest. Raises what `prepare_manifest` and its transaction do."""
    return commit(
        registry, prepare_manifest(registry, name, reference, raw, media_type, caller, tags)
    )


def push_manifest(
    registry: Registry,
    name: str,
    tag: str | None,
    manifest: Mapping[str, Any],
    caller: Caller = ALICE,
) -> Digest:
    """Put a manifest, under a tag or under its digest only."""
    raw = json.dumps(manifest).encode()
    reference: Tag | Digest = digest_of(raw) if tag is None else parse_tag(tag)
    media_type = str(manifest["mediaType"])
    repository = parse_repository_name(name)
    return put_manifest(registry, repository, reference, raw, media_type, caller).digest


def push_image(
    registry: Registry,
    name: str,
    tag: str | None,
    layers: Sequence[bytes],
    *,
    config: bytes = b"{}",
    subject: Digest | None = None,
    caller: Caller = ALICE,
) -> Digest:
    """Push config, layers and manifest, as a client does; returns the manifest's digest."""
    for data in (config, *layers):
        push_blob(registry, name, data, caller)
    manifest = plain_manifest(config, layers)
    if subject is not None:
        # The subject need not be there (distribution-spec, "Pushing Manifests with Subject").
        manifest["subject"] = {"mediaType": MANIFEST, "digest": subject, "size": 1}
    return push_manifest(registry, name, tag, manifest, caller)


def plain_manifest(config: bytes, layers: Sequence[bytes] = ()) -> dict[str, Any]:
    """An image's, of blobs that are or will be in its repository."""
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer) for layer in layers],
    }


def push_index(
    registry: Registry,
    name: str,
    tag: str | None,
    images: Sequence[Digest],
    caller: Caller = ALICE,
) -> Digest:
    """Push an index over manifests of the same repository."""
    repository = parse_repository_name(name)
    stored = [get_manifest(registry, repository, image) for image in images]
    listed = [descriptor(image.media_type, image.raw) for image in stored]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    return push_manifest(registry, name, tag, index, caller)


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """What a manifest says about `data`."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def settle(registry: Registry) -> None:
    """Do everything that is due now, as the worker does, until nothing is left."""
    steps = (expire_uploads, erase_deleted, review_due, reclaim_due)
    while sum(step(registry) for step in steps):
        pass
