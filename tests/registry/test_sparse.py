"""Sparse indexes and images: taken without what they name, and whole once it comes.

distribution-spec, "Pushing Manifests": a registry may take a manifest whose parts it does not have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.clock import FakeClock
from tests.support.fixtures import registry_on
from tests.support.planting import image_manifest
from tests.support.registry import (
    ALICE,
    INDEX,
    descriptor,
    push_blob,
    push_image,
    push_manifest,
    settle,
)
from tests.support.soundness import assert_sound
from tests.support.undoing import assert_explained, hard, soft, stands
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.check.check import check
from ullage.check.findings import Mode
from ullage.cleanup.plan.apply import apply_plan
from ullage.cleanup.plan.plan import make_plan
from ullage.cleanup.plan.preview import PlanRequest
from ullage.database.transaction import Database
from ullage.deletion.delete import delete_manifest, delete_repository
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    OperationDisallowed,
    PlanChanged,
)
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.oci.sparse import Sparse, SparseRules
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import get_manifest, open_blob, stat_blob
from ullage.registry.push.links import mount_blob
from ullage.registry.quarantine import quarantine_blob
from ullage.registry.queries.content.blobs import find_blob
from ullage.restore.restore import restore_operation

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")
HERE, COMING = b"of the platform that is here", b"of the platform that comes later"
CONFIG = b"{}"
GUARDRAILS = ("empty-repository", "most-of-repository", "only-tag", "newest-image")


def sparse_registry(
    db: Database, store: MemoryBlobStore, clock: FakeClock, rules: SparseRules
) -> Registry:
    return registry_on(db, store, clock, Limits(sparse_indexes=rules))


@pytest.fixture
def registry(db: Database, store: MemoryBlobStore, clock: FakeClock) -> Iterator[Registry]:
    """One that takes everything; sound, and clean to a check, when the test is over."""
    registry = sparse_registry(db, store, clock, SparseRules(Sparse.ALLOW))
    yield registry
    assert_sound(registry)
    assert check(registry, Mode.DEFAULT).findings == ()
    assert_explained(registry)


def platform(layer: bytes) -> dict[str, Any]:
    return image_manifest([layer])


def raw(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest).encode()


def digest(manifest: dict[str, Any]) -> Digest:
    return digest_of(raw(manifest))


def index_over(*manifests: dict[str, Any], **more: Any) -> dict[str, Any]:
    listed = [descriptor(each["mediaType"], raw(each)) for each in manifests]
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed, **more}


def push_platform(registry: Registry, layer: bytes, tag: str | None = None) -> Digest:
    return push_image(registry, "app", tag, [layer])


def push_sparse_index(registry: Registry, tag: str | None = "v1") -> Digest:
    """Of two platforms, one of which is here."""
    push_platform(registry, HERE)
    return push_manifest(registry, "app", tag, index_over(platform(HERE), platform(COMING)))


def lease_ends(registry: Registry, clock: FakeClock) -> None:
    """Until nothing is promised, and what nothing needs is erased."""
    for seconds in (registry.limits.lease, registry.limits.read_grace):
        clock.advance(seconds.total_seconds())
        settle(registry)


def contents(registry: Registry) -> set[bytes]:
    found = set()
    for each in registry.blobs.list():
        with registry.blobs.open(each.key, each.size) as reader:
            found.add(reader.read_at(0, reader.size))
    return found


# --- what may be absent ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", Sparse)
def test_what_is_absent_is_refused_unless_it_is_allowed(
    db: Database, store: MemoryBlobStore, clock: FakeClock, rule: Sparse
) -> None:
    """By default nothing may be; the refusal of an index names the setting."""
    registry = sparse_registry(db, store, clock, SparseRules(rule))
    index = index_over(platform(COMING))
    if rule is Sparse.DENY:
        with pytest.raises(ManifestBlobUnknown, match="--sparse-indexes") as refused:
            push_manifest(registry, "app", "v1", index)
        assert refused.value.detail == {"digest": digest(platform(COMING))}
    else:
        push_manifest(registry, "app", "v1", index)
    if rule is Sparse.ALLOW:
        push_manifest(registry, "app", "v2", platform(COMING))
    else:
        with pytest.raises(ManifestBlobUnknown):
            push_manifest(registry, "app", "v2", platform(COMING))
    assert Limits().sparse_indexes.of("app") is Sparse.DENY


def test_each_repository_has_its_own_rule(
    db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    registry = sparse_registry(
        db, store, clock, SparseRules(Sparse.DENY, (("mirror/*", Sparse.PLATFORMS),))
    )
    index = index_over(platform(COMING))
    push_manifest(registry, "mirror/app", "v1", index)
    with pytest.raises(ManifestBlobUnknown):
        push_manifest(registry, "app", "v1", index)


def test_what_is_absent_is_not_found(registry: Registry) -> None:
    """404; what is there is served, byte for byte."""
    index = index_over(platform(HERE), platform(COMING))
    assert push_sparse_index(registry) == digest(index)
    assert get_manifest(registry, APP, parse_tag("v1")).raw == raw(index)
    assert get_manifest(registry, APP, digest(platform(HERE))).raw == raw(platform(HERE))
    with pytest.raises(ManifestUnknown):
        get_manifest(registry, APP, digest(platform(COMING)))
    push_manifest(registry, "app", "image", platform(COMING))
    with pytest.raises(BlobUnknown):
        open_blob(registry, APP, digest_of(COMING))


def test_damaged_bytes_are_not_absent(registry: Registry) -> None:
    """Their push heals them for every image (damage.md section 3), so it is asked for."""
    push_blob(registry, "app", CONFIG)
    push_blob(registry, "app", HERE)
    blob = registry.read(lambda tx: find_blob(tx, APP, digest_of(HERE)))
    assert blob is not None
    assert quarantine_blob(registry, blob.digest, blob.key, "damaged by the test")
    with pytest.raises(ManifestBlobUnknown):
        push_manifest(registry, "app", "v1", platform(HERE))
    push_blob(registry, "app", HERE)
    push_manifest(registry, "app", "v1", platform(HERE))


def test_what_is_stored_already_may_be_tagged_under_any_rule(
    db: Database, store: MemoryBlobStore, clock: FakeClock
) -> None:
    """As a client tags: the same bytes once more. Another one is refused as ever."""
    allowing = sparse_registry(db, store, clock, SparseRules(Sparse.ALLOW))
    push_sparse_index(allowing)
    push_manifest(allowing, "app", "image", platform(COMING + b"2"))
    denying = sparse_registry(db, store, clock, SparseRules())
    push_manifest(denying, "app", "v2", index_over(platform(HERE), platform(COMING)))
    push_manifest(denying, "app", "v2", platform(COMING + b"2"))
    other = index_over(platform(HERE), platform(COMING), annotations={"a": "b"})
    with pytest.raises(ManifestBlobUnknown):
        push_manifest(denying, "app", "v3", other)


# --- what comes -----------------------------------------------------------------------------------


def test_a_platform_that_comes_is_a_child_from_then_on(
    registry: Registry, clock: FakeClock
) -> None:
    """Kept for its index, and gone with it."""
    index = push_sparse_index(registry)
    coming = push_platform(registry, COMING)
    assert stands(registry)[index][1] == sorted([coming, digest(platform(HERE))])
    with pytest.raises(OperationDisallowed):
        delete_manifest(registry, APP, coming, ALICE)
    lease_ends(registry, clock)
    deleted = delete_manifest(registry, APP, index, ALICE)
    assert sorted(deleted.manifests) == sorted([index, coming, digest(platform(HERE))])
    assert deleted.freed_bytes == len(HERE + COMING + CONFIG)


def test_a_platform_that_several_indexes_miss_is_a_child_of_each(registry: Registry) -> None:
    for number in range(3):
        index = index_over(platform(COMING), annotations={"n": str(number)})
        push_manifest(registry, "app", f"v{number}", index)
    push_manifest(registry, "other", "v1", index_over(platform(COMING)))
    coming = push_platform(registry, COMING)
    children = [found[1] for found in stands(registry).values()]
    assert children.count([coming]) == 3
    assert stands(registry, "other")[digest(index_over(platform(COMING)))][1] == []


def test_layers_that_come_are_references_from_then_on(registry: Registry, clock: FakeClock) -> None:
    """Uploaded, or mounted; config and layer. They stay when nobody is promised them any more."""
    image = push_manifest(registry, "app", "v1", platform(COMING))
    push_image(registry, "other", "v1", [COMING])
    push_blob(registry, "app", CONFIG)
    assert mount_blob(registry, APP, OTHER, digest_of(COMING), ALICE)
    lease_ends(registry, clock)
    for data in (CONFIG, COMING):
        stat_blob(registry, APP, digest_of(data))
    delete_repository(registry, OTHER, ALICE)
    lease_ends(registry, clock)
    assert contents(registry) == {CONFIG, COMING}
    assert delete_manifest(registry, APP, image, ALICE).freed_bytes == len(CONFIG + COMING)


def test_an_index_that_is_gone_misses_nothing(registry: Registry) -> None:
    delete_manifest(registry, APP, push_sparse_index(registry), ALICE)
    coming = push_platform(registry, COMING)
    delete_manifest(registry, APP, coming, ALICE)
    assert stands(registry) == {}


@pytest.mark.parametrize("part", ["child", "layer"])
def test_what_has_another_size_is_not_what_was_meant(registry: Registry, part: str) -> None:
    """I4: what is recorded is what the manifest says. It stays as it is, and is no damage."""
    if part == "child":
        manifest = index_over(platform(COMING))
        manifest["manifests"][0]["size"] += 1
    else:
        manifest = platform(COMING)
        manifest["layers"][0]["size"] += 1
    pushed = push_manifest(registry, "app", "v1", manifest)
    push_platform(registry, COMING, "v2")
    _, children, blobs = stands(registry)[pushed]
    assert digest(platform(COMING)) not in children
    assert digest_of(COMING) not in blobs


def test_an_index_of_indexes_fills_up_from_below(registry: Registry) -> None:
    inner = index_over(platform(COMING))
    outer = push_manifest(registry, "app", "v1", index_over(inner))
    push_manifest(registry, "app", None, inner)
    push_platform(registry, COMING)
    assert stands(registry)[outer][1] == [digest(inner)]
    assert stands(registry)[digest(inner)][1] == [digest(platform(COMING))]
    delete_manifest(registry, APP, outer, ALICE)
    assert stands(registry) == {}


# --- deletions that are kept, plans ---------------------------------------------------------------


def _deleted(registry: Registry, which: Digest) -> str:
    operation = delete_manifest(registry, APP, which, ALICE).operation
    assert operation is not None
    return operation


def test_an_index_that_comes_back_finds_what_has_come(registry: Registry) -> None:
    """Restored into a repository where the platform is by now, and so is a layer of an image."""
    soft(registry)
    index = push_sparse_index(registry)
    image = push_manifest(registry, "app", "image", image_manifest([COMING], by="another"))
    restored = [_deleted(registry, which) for which in (index, image)]
    coming = push_platform(registry, COMING, "stays")
    for operation in restored:
        restore_operation(registry, operation, ALICE)
    assert coming in stands(registry)[index][1]
    assert digest_of(COMING) in stands(registry)[image][2]


def test_a_platform_that_comes_back_is_found_by_its_index(registry: Registry) -> None:
    soft(registry)
    coming = push_platform(registry, COMING, "alone")
    operation = _deleted(registry, coming)
    index = push_sparse_index(registry)
    assert coming not in stands(registry)[index][1]
    restore_operation(registry, operation, ALICE)
    assert coming in stands(registry)[index][1]


def test_what_is_kept_twice_misses_what_it_missed(registry: Registry) -> None:
    """An index that stays with its own tag is copied for the operation; both know what is absent.

    What came to the one that stayed is there when they are merged again.
    """
    soft(registry)
    inner = index_over(platform(HERE), platform(COMING))
    push_platform(registry, HERE)
    push_manifest(registry, "app", "inner", inner)
    outer = push_manifest(registry, "app", "outer", index_over(inner))
    operation = _deleted(registry, outer)
    assert check(registry, Mode.DEFAULT).findings == ()
    coming = push_platform(registry, COMING)
    restore_operation(registry, operation, ALICE)
    assert stands(registry)[outer][1] == [digest(inner)]
    assert stands(registry)[digest(inner)][1] == sorted([coming, digest(platform(HERE))])


def test_what_was_whole_when_it_was_deleted_makes_its_sparse_twin_whole(
    registry: Registry, clock: FakeClock
) -> None:
    """Deleted with its layer, pushed again without it, restored: one image, with the layer."""
    soft(registry)
    image = push_image(registry, "app", "v1", [COMING])
    operation = _deleted(registry, image)
    lease_ends(registry, clock)
    push_manifest(registry, "app", "v2", platform(COMING))
    assert digest_of(COMING) not in stands(registry)[image][2]
    restore_operation(registry, operation, ALICE)
    hard(registry)
    lease_ends(registry, clock)
    assert stands(registry)[image] == [
        ["v1", "v2"],
        [],
        sorted([digest_of(COMING), digest_of(CONFIG)]),
    ]


def test_a_repository_of_sparse_images_comes_back_to_what_pushers_were_promised(
    registry: Registry,
) -> None:
    """R16: the layer was uploaded while the repository was deleted."""
    soft(registry)
    image = push_manifest(registry, "app", "v1", platform(COMING))
    operation = delete_repository(registry, APP, ALICE).operation
    assert operation is not None
    for data in (CONFIG, COMING):
        push_blob(registry, "app", data)
    restore_operation(registry, operation, ALICE)
    assert stands(registry)[image][2] == sorted([digest_of(COMING), digest_of(CONFIG)])


def test_a_plan_is_of_what_is_there(registry: Registry) -> None:
    """A platform that has come since changes it: nothing goes that was not shown."""
    index = push_sparse_index(registry)
    wanted = PlanRequest(repository=APP, digests=(index,))
    old = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    assert old.manifest_count == 2
    coming = push_platform(registry, COMING)
    with pytest.raises(PlanChanged) as refused:
        apply_plan(registry, old.id, ALICE, allow=GUARDRAILS)
    assert coming in json.dumps(refused.value.detail)
    new = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    assert new.manifest_count == 3
    assert apply_plan(registry, new.id, ALICE, allow=GUARDRAILS).manifest_count == 3
    assert stands(registry) == {}


def test_a_plan_of_the_platform_alone_says_what_keeps_it(registry: Registry) -> None:
    push_sparse_index(registry)
    coming = push_platform(registry, COMING)
    wanted = PlanRequest(repository=APP, digests=(coming,))
    plan = make_plan(registry, wanted, WITHOUT_ACCOUNTS, ALICE)
    assert (plan.manifest_count, len(plan.stays)) == (0, 1)


def test_an_image_may_miss_some_layers_only(registry: Registry, clock: FakeClock) -> None:
    """Those that are there are its references like any image's."""
    for data in (CONFIG, HERE):
        push_blob(registry, "app", data)
    image = push_manifest(registry, "app", "v1", image_manifest([HERE, COMING]))
    lease_ends(registry, clock)
    assert stands(registry)[image][2] == sorted([digest_of(CONFIG), digest_of(HERE)])
    deleted = delete_manifest(registry, APP, image, ALICE)
    assert (deleted.freed_bytes, deleted.leased_bytes) == (len(CONFIG + HERE), 0)


def test_manifests_are_of_their_own_type(registry: Registry) -> None:
    """The bytes of a platform uploaded as a blob are not the platform."""
    index = push_manifest(registry, "app", "v1", index_over(platform(COMING)))
    push_blob(registry, "app", raw(platform(COMING)))
    assert stands(registry)[index][1:] == [[], []]
