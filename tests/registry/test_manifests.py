"""Manifests: what must be there, what is kept, what is served (distribution-spec)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import Assemble
from tests.support.planting import image_manifest, plant_blobs, plant_image
from tests.support.registry import (
    ALICE,
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    descriptor,
    push_blob,
    push_image,
    push_index,
    push_manifest,
    put_manifest,
    settle,
)
from ullage import documents
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.queries import rows
from ullage.check.queries.paging import Only
from ullage.database.transaction import Transaction
from ullage.deletion.delete import delete_manifest
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import (
    BlobUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    NameUnknown,
)
from ullage.oci.reference import Tag, parse_repository_name, parse_tag
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import (
    get_manifest,
    list_referrers,
    list_repositories,
    list_tags,
    open_blob,
    stat_blob,
)
from ullage.registry.push.manifests import PutResult
from ullage.registry.queries import quarantine as queries

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")
V1, V2, LATEST = map(parse_tag, ("v1", "v2", "latest"))
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
LAYER_BYTES = b"a layer"


def put(
    registry: Registry,
    manifest: dict[str, Any],
    reference: Tag | Digest = V1,
    tags: tuple[Tag, ...] = (),
) -> PutResult:
    raw = json.dumps(manifest).encode()
    return put_manifest(registry, APP, reference, raw, manifest["mediaType"], ALICE, tags)


def index_over(*descriptors: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(descriptors), **more}


def assert_nothing_stored(registry: Registry) -> None:
    assert list_repositories(registry, 10, None, WITHOUT_ACCOUNTS).items == ()
    with pytest.raises(NameUnknown):
        get_manifest(registry, APP, V1)


# --- what must be there ---------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["config", "layer", "both"])
def test_a_missing_blob_is_named(registry: Registry, missing: str) -> None:
    """reliability.md F35: 404 MANIFEST_BLOB_UNKNOWN, and nothing is stored."""
    blobs = {"config": b"{}", "layer": LAYER_BYTES}
    for role, data in blobs.items():
        if missing not in (role, "both"):
            push_blob(registry, "app", data)
    with pytest.raises(ManifestBlobUnknown) as refused:
        put(registry, image_manifest([LAYER_BYTES]))
    expected = blobs["config" if missing == "both" else missing]
    assert refused.value.detail == {"digest": digest_of(expected)}
    assert_nothing_stored(registry)


def test_a_blob_of_another_repository_is_missing(registry: Registry) -> None:
    """I3: a reference must not become a way to read what one may not read."""
    push_image(registry, "other", "v1", [LAYER_BYTES])
    push_blob(registry, "app", b"{}")
    with pytest.raises(ManifestBlobUnknown):
        put(registry, image_manifest([LAYER_BYTES]))


def test_a_damaged_blob_is_missing(registry: Registry) -> None:
    """So that its pusher uploads it again, which heals it."""
    digest = push_blob(registry, "app", LAYER_BYTES)
    push_blob(registry, "app", b"{}")

    def quarantine(tx: Transaction) -> None:
        for facts in rows.blobs(tx, Only([digest])):
            queries.quarantine(tx, facts.key, facts.storage_key, registry.now())

    registry.write(quarantine)
    with pytest.raises(ManifestBlobUnknown):
        put(registry, image_manifest([LAYER_BYTES]))
    push_blob(registry, "app", LAYER_BYTES)
    put(registry, image_manifest([LAYER_BYTES]))


def test_a_missing_child_is_named(registry: Registry) -> None:
    child = image_manifest([])
    with pytest.raises(ManifestBlobUnknown) as refused:
        put(registry, index_over(descriptor(MANIFEST, json.dumps(child).encode())))
    assert refused.value.detail == {"digest": digest_of(json.dumps(child).encode())}
    assert_nothing_stored(registry)


def test_a_child_of_another_repository_is_missing(registry: Registry) -> None:
    child = push_image(registry, "other", "v1", [])
    raw = get_manifest(registry, OTHER, child).raw
    with pytest.raises(ManifestBlobUnknown):
        put(registry, index_over(descriptor(MANIFEST, raw)))


@pytest.mark.parametrize("of", ["blob", "child"])
def test_a_size_that_is_not_the_stored_one_is_refused(registry: Registry, of: str) -> None:
    """I4: a client allocates, and checks, by the size it finds in the manifest."""
    child = push_image(registry, "app", None, [LAYER_BYTES])
    if of == "blob":
        manifest = image_manifest([LAYER_BYTES])
        manifest["layers"][0]["size"] += 1
    else:
        manifest = index_over(descriptor(MANIFEST, get_manifest(registry, APP, child).raw))
        manifest["manifests"][0]["size"] += 1
    with pytest.raises(ManifestInvalid, match="a size of"):
        put(registry, manifest)
    with pytest.raises(ManifestUnknown):
        get_manifest(registry, APP, V1)


# --- foreign layers -------------------------------------------------------------------------------


def foreign_manifest() -> dict[str, Any]:
    layer = descriptor(FOREIGN, LAYER_BYTES) | {"urls": ["https://example.com/layer"]}
    return image_manifest([]) | {"layers": [layer]}


def test_a_foreign_layer_need_not_be_there(registry: Registry) -> None:
    """image-spec, "Non-Distributable Layers": clients do not push them."""
    push_blob(registry, "app", b"{}")
    assert put(registry, foreign_manifest()).digest


def test_a_foreign_layer_that_is_there_is_kept(registry: Registry, clock: FakeClock) -> None:
    push_blob(registry, "app", b"{}")
    push_blob(registry, "app", LAYER_BYTES)
    put(registry, foreign_manifest())
    clock.advance(registry.limits.lease.total_seconds())
    settle(registry)
    stat_blob(registry, APP, digest_of(LAYER_BYTES))


def test_a_foreign_layer_that_comes_later_is_kept_by_the_next_push(
    registry: Registry, clock: FakeClock
) -> None:
    """`docker push --allow-nondistributable-artifacts` of an image that was pushed without them:
    the same manifest once more, now with the layer. A push that got its 201s stays pullable."""
    push_blob(registry, "app", b"{}")
    digest = put(registry, foreign_manifest()).digest
    push_blob(registry, "app", LAYER_BYTES)
    assert put(registry, foreign_manifest()).digest == digest
    clock.advance(registry.limits.lease.total_seconds())
    settle(registry)
    stat_blob(registry, APP, digest_of(LAYER_BYTES))
    assert delete_manifest(registry, APP, digest, ALICE).freed_bytes == len(b"{}" + LAYER_BYTES)


def test_a_child_of_an_unknown_type_of_index_is_kept_once_it_is_there(registry: Registry) -> None:
    """An unknown kind of manifest: what looks like a descriptor is kept if it is there."""
    child = json.dumps(image_manifest([])).encode()
    unknown = "application/vnd.example.list.v9+json"
    body = {"mediaType": unknown, "manifests": [descriptor(MANIFEST, child)]}
    parent = put(registry, body).digest
    push_image(registry, "app", None, [])
    assert put(registry, body).digest == parent
    deleted = delete_manifest(registry, APP, parent, ALICE)
    assert set(deleted.manifests) == {parent, digest_of(child)}


# --- indexes, subjects, tags ----------------------------------------------------------------------


def test_an_index_of_indexes_is_stored(registry: Registry) -> None:
    image = push_image(registry, "app", None, [LAYER_BYTES])
    inner = push_index(registry, "app", None, [image])
    outer = push_index(registry, "app", "v1", [inner, image])
    assert get_manifest(registry, APP, V1).digest == outer
    assert {get_manifest(registry, APP, each).digest for each in (inner, image)} == {inner, image}


def test_an_index_may_be_empty(registry: Registry) -> None:
    assert put(registry, index_over()).digest == get_manifest(registry, APP, V1).digest


def test_a_subject_need_not_be_there(registry: Registry) -> None:
    """distribution-spec, "Pushing Manifests with Subject": "MUST accept"; R15."""
    push_blob(registry, "app", b"{}")
    subject = digest_of(b"pushed later")
    result = put(registry, image_manifest([], subject=subject))
    assert result.subject == subject
    page = list_referrers(registry, APP, subject, None, 10, None)
    assert [each.digest for each in page.descriptors] == [result.digest]


def test_a_tag_moves(registry: Registry) -> None:
    """R13: one tag, one manifest; the last push wins. The other one stays, untagged."""
    first = push_image(registry, "app", "v1", [b"first"])
    second = push_image(registry, "app", "v1", [b"second"])
    assert get_manifest(registry, APP, V1).digest == second
    assert get_manifest(registry, APP, first).digest == first
    assert list_tags(registry, APP, 10, None).items == ("v1",)


def test_one_push_may_set_several_tags(registry: Registry) -> None:
    """distribution-spec 1.2, end-7b: `PUT …/manifests/<digest>?tag=v1&tag=latest`."""
    push_blob(registry, "app", b"{}")
    manifest = image_manifest([])
    digest = digest_of(json.dumps(manifest).encode())
    result = put(registry, manifest, digest, (V1, LATEST, V1))
    assert result == PutResult(digest, None, (V1, LATEST))
    assert list_tags(registry, APP, 10, None).items == ("latest", "v1")


def test_a_refused_manifest_moves_no_tag(registry: Registry) -> None:
    """All of it or nothing."""
    first = push_image(registry, "app", "v1", [])
    with pytest.raises(ManifestBlobUnknown):
        put(registry, image_manifest([b"missing"]), V1, (V2,))
    assert get_manifest(registry, APP, V1).digest == first
    assert list_tags(registry, APP, 10, None).items == ("v1",)


def test_pushing_again_changes_nothing(registry: Registry) -> None:
    """reliability.md F36: the answer got lost, the client asks again."""
    first = push_image(registry, "app", "v1", [LAYER_BYTES])
    assert push_image(registry, "app", "v1", [LAYER_BYTES]) == first
    assert list_tags(registry, APP, 10, None).items == ("v1",)


# --- the bytes, their digest and their type -------------------------------------------------------


def test_a_manifest_is_served_byte_for_byte(registry: Registry) -> None:
    push_blob(registry, "app", b"{}")
    raw = json.dumps(image_manifest([]), indent=3).encode() + b"\n"
    put_manifest(registry, APP, V1, raw, MANIFEST, ALICE)
    stored = get_manifest(registry, APP, V1)
    assert (stored.raw, stored.digest, stored.media_type) == (raw, digest_of(raw), MANIFEST)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_may_be_put_under_its_digest(registry: Registry, algorithm: str) -> None:
    push_blob(registry, "app", b"{}")
    manifest = image_manifest([])
    digest = digest_of(json.dumps(manifest).encode(), algorithm)
    assert put(registry, manifest, digest).digest == digest
    assert get_manifest(registry, APP, digest).digest == digest


def test_a_manifest_under_the_digest_of_other_bytes_is_refused(registry: Registry) -> None:
    push_blob(registry, "app", b"{}")
    with pytest.raises(DigestInvalid):
        put(registry, image_manifest([]), digest_of(b"other bytes"))
    assert_nothing_stored(registry)


def test_one_digest_never_means_two_things(registry: Registry) -> None:
    """CVE-2021-41190: bytes that do not name their type keep the one they were first pushed as."""
    raw = b'{"schemaVersion": 2, "manifests": []}'
    put_manifest(registry, APP, V1, raw, INDEX, ALICE)
    with pytest.raises(ManifestInvalid, match="stored as"):
        put_manifest(registry, APP, V2, raw, DOCKER_LIST, ALICE)
    assert get_manifest(registry, APP, V1).media_type == INDEX
    assert list_tags(registry, APP, 10, None).items == ("v1",)
    # In another repository it is another manifest.
    put_manifest(registry, OTHER, V1, raw, DOCKER_LIST, ALICE)


def test_a_manifest_that_is_too_large_is_refused_unread(assemble: Assemble) -> None:
    registry = assemble(MemoryBlobStore(), Limits(max_manifest_bytes=100))
    with pytest.raises(ManifestTooLarge):
        put_manifest(registry, APP, V1, b"{" * 101, MANIFEST, ALICE)
    put_manifest(registry, APP, V1, b'{"schemaVersion": 2, "manifests": []}', INDEX, ALICE)


def test_a_manifest_with_too_many_descriptors_is_refused(assemble: Assemble) -> None:
    registry = assemble(MemoryBlobStore(), Limits(max_manifest_descriptors=2))
    push_blob(registry, "app", b"{}")
    with pytest.raises(ManifestInvalid, match="--max-descriptors"):
        put(registry, image_manifest([b"1", b"2", b"3"]))


def test_a_manifest_with_very_many_layers_is_stored(registry: Registry) -> None:
    """More than one statement's worth of parameters, and of rows."""
    layers = [b"%d" % number for number in range(520)]
    config = b"{}"
    plant_blobs(registry, "app", [config, *layers])
    digest = push_manifest(registry, "app", "v1", image_manifest(layers))
    assert plant_image(registry, "other", "v1", layers[:1])
    deleted = delete_manifest(registry, APP, digest, ALICE)
    assert deleted.freed_bytes == sum(map(len, layers[1:]))


# --- reading --------------------------------------------------------------------------------------


def test_what_is_unknown_is_said_exactly(registry: Registry) -> None:
    with pytest.raises(NameUnknown):
        get_manifest(registry, APP, V1)
    push_blob(registry, "app", b"{}")
    with pytest.raises(NameUnknown):
        list_tags(registry, APP, 10, None)
    put(registry, image_manifest([]))
    with pytest.raises(ManifestUnknown):
        get_manifest(registry, APP, V2)
    with pytest.raises(ManifestUnknown):
        get_manifest(registry, APP, digest_of(b"nothing"))
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest_of(b"nothing"))
    with pytest.raises(BlobUnknown):
        stat_blob(registry, OTHER, digest_of(b"{}"))


def test_listings_come_in_pages(registry: Registry) -> None:
    """distribution-spec, "Listing Tags": `n` and `last`; no more after the last one."""
    for name in ("b/c", "a", "b"):
        push_image(registry, name, "v1", [])
    push_blob(registry, "only-uploads", b"{}")
    page = list_repositories(registry, 2, None, WITHOUT_ACCOUNTS)
    assert (page.items, page.more) == (("a", "b"), True)
    page = list_repositories(registry, 2, "b", WITHOUT_ACCOUNTS)
    assert (page.items, page.more) == (("b/c",), False)
    assert list_repositories(registry, 0, None, WITHOUT_ACCOUNTS).items == ()


def test_referrers_are_listed_with_what_makes_them_useful(registry: Registry) -> None:
    """distribution-spec, "Listing Referrers": type, size, artifact type, annotations; filtered."""
    subject = push_image(registry, "app", "v1", [])
    signature = image_manifest([], subject=subject, artifactType="application/vnd.example.sig")
    signature["annotations"] = {"by": "alice"}
    sbom = image_manifest([], subject=subject, artifactType="application/vnd.example.sbom")
    plain = image_manifest([], subject=subject)
    for manifest in (signature, sbom, plain):
        put(registry, manifest, digest_of(json.dumps(manifest).encode()))
    page = list_referrers(registry, APP, subject, None, 10, None)
    by_type = {each.artifact_type: each for each in page.descriptors}
    assert by_type.keys() == {
        "application/vnd.example.sig",
        "application/vnd.example.sbom",
        # Of an image without a type of its own: its config's.
        CONFIG,
    }
    raw = json.dumps(signature).encode()
    assert documents.plain(by_type["application/vnd.example.sig"]) == {
        **descriptor(MANIFEST, raw),
        "artifactType": "application/vnd.example.sig",
        "annotations": {"by": "alice"},
    }
    filtered = list_referrers(registry, APP, subject, "application/vnd.example.sbom", 10, None)
    assert [each.artifact_type for each in filtered.descriptors] == ["application/vnd.example.sbom"]
    assert list_referrers(registry, OTHER, subject, None, 10, None).descriptors == ()
    first = list_referrers(registry, APP, subject, None, 2, None)
    rest = list_referrers(registry, APP, subject, None, 2, first.next)
    assert rest.next is None
    assert [*first.descriptors, *rest.descriptors] == list(page.descriptors)


def test_an_open_blob_can_be_read_after_its_deletion(registry: Registry, clock: FakeClock) -> None:
    """R20: a pull in progress is not cut off."""
    digest = push_image(registry, "app", "v1", [LAYER_BYTES])
    reader = open_blob(registry, APP, digest_of(LAYER_BYTES))
    delete_manifest(registry, APP, digest, ALICE)
    clock.advance(registry.limits.read_grace.total_seconds())
    settle(registry)
    assert list(registry.blobs.list()) == []
    assert reader.read_at(0, reader.size) == LAYER_BYTES
    reader.close()


def test_layers_are_not_manifests(registry: Registry) -> None:
    """The media type of a layer says nothing about where its digest may be asked for."""
    push_image(registry, "app", "v1", [LAYER_BYTES])
    with pytest.raises(ManifestUnknown):
        get_manifest(registry, APP, digest_of(LAYER_BYTES))
    assert (
        descriptor(LAYER, LAYER_BYTES)["digest"]
        == stat_blob(registry, APP, digest_of(LAYER_BYTES)).digest
    )
