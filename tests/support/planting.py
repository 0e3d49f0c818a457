"""What pushes leave behind long afterwards, in one transaction: for tests of what comes next.

Nothing is leased; links that no manifest needs wait for a review that is due.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from tests.support.registry import CONFIG, LAYER, MANIFEST, descriptor
from ullage.blobs.protocol import BlobStore
from ullage.database.schema import content, space
from ullage.database.timestamps import to_micros
from ullage.database.transaction import Transaction
from ullage.oci.digest import Digest, digest_of
from ullage.oci.manifest.parsing import parse_manifest
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.context import Registry
from ullage.registry.queries.content.blobs import count_links, linked_among, lock_blobs
from ullage.registry.queries.content.manifests import insert_manifest
from ullage.registry.queries.content.repositories import (
    add_to_repository,
    count_push,
    ensure_repository,
)
from ullage.registry.queries.content.tags import find_tag, put_tag
from ullage.registry.queries.counters import add_to_counters


def image_manifest(
    layers: Sequence[bytes], config: bytes = b"{}", subject: Digest | None = None, **more: Any
) -> dict[str, Any]:
    """The manifest of an image; `more` are further fields."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [descriptor(LAYER, layer) for layer in layers],
        **more,
    }
    if subject is not None:
        manifest["subject"] = {"mediaType": MANIFEST, "digest": subject, "size": 1}
    return manifest


def plant_blobs(registry: Registry, name: str, blobs: Iterable[bytes]) -> list[Digest]:
    """Link blobs in a repository; no manifest refers to them."""
    blobs = list(blobs)
    keys = _store_new(registry, blobs)

    def plant(tx: Transaction) -> None:
        now = registry.now()
        repository_id = ensure_repository(tx, parse_repository_name(name), now).id
        _link(tx, repository_id, blobs, keys, now)
        reviews = [
            {"repository_id": repository_id, "digest": digest_of(data), "due_at": to_micros(now)}
            for data in blobs
        ]
        tx.execute_directly(space.reviews.insert(), reviews)

    registry.write(plant)
    return [digest_of(data) for data in blobs]


def plant_image(
    registry: Registry,
    name: str,
    tag: str | None,
    layers: Sequence[bytes],
    *,
    config: bytes = b"{}",
    subject: Digest | None = None,
) -> Digest:
    """An image with its blobs; returns its digest."""
    raw = json.dumps(image_manifest(layers, config, subject)).encode()
    blobs = [config, *layers]
    keys = _store_new(registry, blobs)

    def plant(tx: Transaction) -> None:
        now = registry.now()
        repository_id = ensure_repository(tx, parse_repository_name(name), now).id
        _link(tx, repository_id, blobs, keys, now)
        manifest_id = insert_manifest(
            tx,
            repository_id,
            digest_of(raw),
            parse_manifest(raw, MANIFEST),
            raw,
            blobs=sorted({digest_of(data) for data in blobs}),
            children=[],
            now=now,
        )
        new_tag = False
        if tag is not None:
            wanted = parse_tag(tag)
            there = find_tag(tx, repository_id, wanted)
            new_tag = put_tag(tx, repository_id, wanted, manifest_id, now, there)
        count_push(tx, repository_id, [len(raw)], int(new_tag), now)

    registry.write(plant)
    return digest_of(raw)


def store_bytes(blobs: BlobStore, key: str, data: bytes) -> str:
    """Put bytes into a store; returns their key."""
    with blobs.begin(key) as append:
        append.write(data)
        append.commit()
    return key


def _store_new(registry: Registry, blobs: Sequence[bytes]) -> dict[Digest, str]:
    """Put bytes that the registry does not have into its store: their keys."""
    wanted = {digest_of(data): data for data in blobs}
    known = registry.read(lambda tx: lock_blobs(tx, wanted))
    return {
        digest: store_bytes(registry.blobs, registry.fresh_key(), data)
        for digest, data in wanted.items()
        if digest not in known
    }


def _link(
    tx: Transaction,
    repository_id: int,
    blobs: Sequence[bytes],
    keys: dict[Digest, str],
    now: datetime,
) -> None:
    sizes = {digest_of(data): len(data) for data in blobs}
    links = sorted(sizes.keys() - linked_among(tx, repository_id, sizes.keys()))
    if keys:
        rows = [
            {
                "digest": digest,
                "size": sizes[digest],
                "storage_key": key,
                "created_at": to_micros(now),
            }
            for digest, key in keys.items()
        ]
        tx.execute_directly(content.blobs.insert(), rows)
    if links:
        rows = [
            {"repository_id": repository_id, "digest": digest, "linked_at": to_micros(now)}
            for digest in links
        ]
        tx.execute_directly(content.repo_blobs.insert(), rows)
        count_links(tx, links, +1)
    add_to_repository(tx, repository_id, blob_bytes=sum(sizes[digest] for digest in links))
    new_bytes = sum(sizes[digest] for digest in keys)
    add_to_counters(tx, repository_id, blob_count=len(keys), blob_bytes=new_bytes)
