"""Deleting: every rule of deletion.md section 2, and its promises about bytes (section 1)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from tests.support.clock import FakeClock
from tests.support.faulty_store import FaultyStore
from tests.support.fixtures import registry_on
from tests.support.planting import image_manifest, plant_blobs, plant_image
from tests.support.registry import (
    ALICE,
    INDEX,
    descriptor,
    push_blob,
    push_image,
    push_index,
    push_manifest,
    settle,
)
from tests.support.soundness import assert_sound
from tests.support.statements import listened
from ullage.authorization import WITHOUT_ACCOUNTS
from ullage.blobs.memory import MemoryBlobStore
from ullage.database.schema import content
from ullage.database.transaction import Database
from ullage.deletion import reclaim
from ullage.deletion.delete import (
    Deleted,
    delete_blob,
    delete_manifest,
    delete_repository,
    delete_tag,
)
from ullage.oci.digest import Digest, digest_of
from ullage.oci.errors import (
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    OperationDisallowed,
)
from ullage.oci.reference import parse_repository_name, parse_tag
from ullage.registry.clients import Caller
from ullage.registry.context import Limits, Registry
from ullage.registry.pull.read import (
    get_manifest,
    list_referrers,
    list_repositories,
    list_tags,
    open_blob,
    stat_blob,
)
from ullage.registry.push.sessions import cancel_upload, get_upload, start_upload
from ullage.registry.push.uploads import append_upload
from ullage.registry.queries.content.repositories import find_repository
from ullage.registry.queries.counters import totals

APP, OTHER = parse_repository_name("app"), parse_repository_name("other")
V1, V2 = parse_tag("v1"), parse_tag("v2")


@dataclass
class Site:
    """A registry, and what has been erased from its store."""

    registry: Registry
    store: FaultyStore
    clock: FakeClock

    def delete(self, digest: Digest) -> Deleted:
        return delete_manifest(self.registry, APP, digest, ALICE)

    def erased_bytes(self) -> int:
        """What leaves the store, once no client can be reading it any more."""
        before = self.store.erased_bytes
        settle(self.registry)
        self.clock.advance(self.registry.limits.read_grace.total_seconds())
        settle(self.registry)
        return self.store.erased_bytes - before

    def stored_bytes(self) -> int:
        return sum(found.size for found in self.store.list())

    def has(self, *digests: Digest) -> set[Digest]:
        """Which of these manifests can be pulled from `app`."""
        return {digest for digest in digests if self._has(digest)}

    def _has(self, digest: Digest) -> bool:
        try:
            return get_manifest(self.registry, APP, digest).digest == digest
        except (ManifestUnknown, NameUnknown):
            return False


@pytest.fixture
def site(db: Database, store: MemoryBlobStore, clock: FakeClock) -> Iterator[Site]:
    faulty = FaultyStore(store)
    site = Site(registry_on(db, faulty, clock), faulty, clock)
    yield site
    assert_sound(site.registry)


@pytest.fixture
def registry(site: Site) -> Registry:
    return site.registry


def image(
    registry: Registry, tag: str | None, *layers: bytes, subject: Digest | None = None
) -> Digest:
    return plant_image(registry, "app", tag, layers, subject=subject)


# --- tags -----------------------------------------------------------------------------------------


def test_deleting_a_tag_removes_the_tag_only(site: Site, registry: Registry) -> None:
    """distribution-spec, "Deleting tags": the manifest stays and can be pulled by digest."""
    digest = image(registry, "v1", b"layer")
    delete_tag(registry, APP, V1, ALICE)
    with pytest.raises(ManifestUnknown):
        get_manifest(registry, APP, V1)
    assert site.has(digest)
    assert list_tags(registry, APP, 10, None).items == ()


def test_untagging_frees_nothing(site: Site, registry: Registry) -> None:
    image(registry, "v1", b"layer")
    delete_tag(registry, APP, V1, ALICE)
    site.clock.advance(30 * 24 * 3600)
    assert site.erased_bytes() == 0


def test_deleting_a_tag_leaves_the_other_tags(site: Site, registry: Registry) -> None:
    digest = image(registry, "v1", b"layer")
    assert push_image(registry, "app", "v2", [b"layer"]) == digest
    delete_tag(registry, APP, V1, ALICE)
    assert get_manifest(registry, APP, V2).digest == digest


def test_what_is_not_there_cannot_be_deleted(registry: Registry) -> None:
    """Deletes are exact for people: a 404 says so, and says which of the two is missing."""
    with pytest.raises(NameUnknown):
        delete_tag(registry, APP, V1, ALICE)
    with pytest.raises(NameUnknown):
        delete_manifest(registry, APP, digest_of(b""), ALICE)
    with pytest.raises(NameUnknown):
        delete_repository(registry, APP, ALICE)
    with pytest.raises(BlobUnknown):
        delete_blob(registry, APP, digest_of(b""), ALICE)
    digest = image(registry, "v1")
    with pytest.raises(ManifestUnknown):
        delete_tag(registry, APP, V2, ALICE)
    with pytest.raises(ManifestUnknown):
        delete_manifest(registry, APP, digest_of(b""), ALICE)
    with pytest.raises(NameUnknown):
        delete_manifest(registry, OTHER, digest, ALICE)
    delete_tag(registry, APP, V1, ALICE)
    with pytest.raises(ManifestUnknown):
        delete_tag(registry, APP, V1, ALICE)
    delete_manifest(registry, APP, digest, ALICE)
    with pytest.raises(NameUnknown):
        delete_manifest(registry, APP, digest, ALICE)


# --- what goes along with a manifest --------------------------------------------------------------


def test_deleting_a_manifest_takes_its_tags_along(site: Site, registry: Registry) -> None:
    """distribution-spec, "Deleting Manifests": by digest and by any tag -> 404."""
    kept = image(registry, "other", b"another layer")
    digest = image(registry, "v1", b"layer")
    push_image(registry, "app", "v2", [b"layer"])
    deleted = site.delete(digest)
    assert (deleted.manifests, deleted.tags) == ((digest,), (V1, V2))
    assert site.has(digest, kept) == {kept}
    assert list_tags(registry, APP, 10, None).items == ("other",)


def test_deleting_a_manifest_takes_its_referrers_along_recursively(
    site: Site, registry: Registry
) -> None:
    """The image is gone, so all of it is gone: its signature, and what was said about that."""
    kept = image(registry, "kept", b"kept")
    subject = image(registry, "v1", b"layer")
    signature = image(registry, None, b"signature", subject=subject)
    attestation = image(registry, "attested", b"attestation", subject=signature)
    unrelated = image(registry, None, b"unrelated", subject=kept)
    deleted = site.delete(subject)
    assert set(deleted.manifests) == {subject, signature, attestation}
    assert set(deleted.tags) == {V1, "attested"}
    assert site.has(kept, unrelated, *deleted.manifests) == {kept, unrelated}
    assert list_referrers(registry, APP, subject, None, 10, None).descriptors == ()


def test_deleting_an_index_takes_children_that_nothing_else_keeps(
    site: Site, registry: Registry
) -> None:
    """Recursively: an index of indexes, three levels deep (R14)."""
    amd64, arm64 = image(registry, None, b"amd64"), image(registry, None, b"arm64")
    inner = push_index(registry, "app", None, [arm64])
    outer = push_index(registry, "app", "v1", [amd64, inner])
    deleted = site.delete(outer)
    assert set(deleted.manifests) == {outer, inner, amd64, arm64}
    assert deleted.freed_bytes == len(b"amd64" + b"arm64" + b"{}")
    assert site.erased_bytes() == deleted.freed_bytes
    assert site.stored_bytes() == 0


def test_a_shared_child_stays_until_its_last_index_goes(site: Site, registry: Registry) -> None:
    shared, own = image(registry, None, b"shared"), image(registry, None, b"own")
    first = push_index(registry, "app", "v1", [shared, own])
    second = push_index(registry, "app", "v2", [shared])
    assert set(site.delete(first).manifests) == {first, own}
    assert site.has(shared, own, second) == {shared, second}
    assert set(site.delete(second).manifests) == {second, shared}


def test_a_child_with_a_tag_of_its_own_stays(site: Site, registry: Registry) -> None:
    child = image(registry, "amd64", b"amd64")
    index = push_index(registry, "app", "v1", [child])
    deleted = site.delete(index)
    assert (deleted.manifests, deleted.tags, deleted.freed_bytes) == ((index,), (V1,), 0)
    assert get_manifest(registry, APP, parse_tag("amd64")).digest == child


def test_what_a_kept_child_needs_is_kept_too(site: Site, registry: Registry) -> None:
    leaf = image(registry, None, b"leaf")
    signature = image(registry, None, b"signature", subject=leaf)
    inner = push_index(registry, "app", "inner", [leaf])
    outer = push_index(registry, "app", "v1", [inner, leaf])
    assert site.delete(outer).manifests == (outer,)
    assert site.has(leaf, signature, inner) == {leaf, signature, inner}


def test_a_child_that_refers_to_a_living_subject_stays(site: Site, registry: Registry) -> None:
    """An index of signatures does not own them: they are their image's."""
    subject = image(registry, "v1", b"layer")
    signature = image(registry, None, b"signature", subject=subject)
    index = push_index(registry, "app", "signatures", [signature])
    assert site.delete(index).manifests == (index,)
    assert site.has(signature) == {signature}


def test_a_child_goes_when_its_last_parent_goes_in_a_later_round(
    site: Site, registry: Registry
) -> None:
    """Kept at first by another child, which then turns out to go as well."""
    leaf = image(registry, None, b"leaf")
    inner = push_index(registry, "app", None, [leaf])
    outer = push_index(registry, "app", "v1", [leaf, inner])
    assert set(site.delete(outer).manifests) == {outer, inner, leaf}
    assert site.erased_bytes() == len(b"leaf" + b"{}")


def test_a_child_goes_with_the_subject_that_kept_it(site: Site, registry: Registry) -> None:
    platform = image(registry, None, b"platform")
    signature = image(registry, None, b"signature", subject=platform)
    index = push_index(registry, "app", "v1", [signature, platform])
    assert set(site.delete(index).manifests) == {index, platform, signature}


def test_a_referrer_that_a_living_index_lists_stays(site: Site, registry: Registry) -> None:
    """A live image is never broken by a cleanup: an index must not lose one of its manifests."""
    subject = image(registry, "v1", b"layer")
    signature = image(registry, None, b"signature", subject=subject)
    index = push_index(registry, "app", "signatures", [signature])
    assert site.delete(subject).manifests == (subject,)
    assert site.has(signature, index) == {signature, index}
    assert set(site.delete(index).manifests) == {index, signature}


def test_a_child_of_a_living_index_cannot_be_deleted(site: Site, registry: Registry) -> None:
    """405, naming the parent: deleting that one is the way."""
    child = image(registry, "amd64", b"amd64")
    index = push_index(registry, "app", "v1", [child])
    with pytest.raises(OperationDisallowed, match=index) as refused:
        site.delete(child)
    assert refused.value.detail == {"digest": child, "parents": [index]}
    assert site.has(child, index) == {child, index}
    assert list_tags(registry, APP, 10, None).items == ("amd64", "v1")
    site.delete(index)
    site.delete(child)


def test_a_referrer_can_be_deleted_by_its_own_digest(site: Site, registry: Registry) -> None:
    subject = image(registry, "v1", b"layer")
    signature = image(registry, None, b"signature", subject=subject)
    assert site.delete(signature).manifests == (signature,)
    assert site.has(subject, signature) == {subject}
    assert list_referrers(registry, APP, subject, None, 10, None).descriptors == ()


def test_a_referrer_outlives_a_subject_that_never_came(site: Site, registry: Registry) -> None:
    """The subject is a soft reference (R15)."""
    waiting = image(registry, None, b"signature", subject=digest_of(b"not pushed yet"))
    site.clock.advance(30 * 24 * 3600)
    assert site.erased_bytes() == 0
    assert site.has(waiting)


def test_manifests_of_the_same_digest_in_two_repositories_are_two(
    site: Site, registry: Registry
) -> None:
    digest = image(registry, "v1", b"layer")
    assert plant_image(registry, "other", "v1", [b"layer"]) == digest
    assert site.delete(digest).freed_bytes == 0
    assert get_manifest(registry, OTHER, V1).digest == digest
    reader = open_blob(registry, OTHER, digest_of(b"layer"))
    assert reader.read_at(0, 99) == b"layer"
    reader.close()


# --- blobs ----------------------------------------------------------------------------------------


def test_a_blob_in_use_cannot_be_deleted(site: Site, registry: Registry) -> None:
    """405; distribution-spec, "Deleting Blobs", leaves it to the registry."""
    image(registry, "v1", b"layer")
    with pytest.raises(OperationDisallowed):
        delete_blob(registry, APP, digest_of(b"layer"), ALICE)
    assert stat_blob(registry, APP, digest_of(b"layer")).size == 5


def test_a_blob_that_nothing_refers_to_can_be_deleted(site: Site, registry: Registry) -> None:
    """Also one that was promised to a pusher a moment ago: it is an explicit wish."""
    image(registry, "v1", b"layer")
    digest = push_blob(registry, "app", b"loose")
    assert delete_blob(registry, APP, digest, ALICE).freed_bytes == 5
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest)
    assert site.erased_bytes() == 5


def test_deleting_a_blob_removes_it_from_one_repository(site: Site, registry: Registry) -> None:
    digest = push_blob(registry, "app", b"layer")
    plant_image(registry, "other", "v1", [b"layer"])
    assert delete_blob(registry, APP, digest, ALICE).freed_bytes == 0
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest)
    assert stat_blob(registry, OTHER, digest).size == 5


def test_no_promise_outlives_a_deleted_blob(site: Site, registry: Registry) -> None:
    """Pushed again it is promised once: by the new push, not by the forgotten one."""
    delete_blob(registry, APP, push_blob(registry, "app", b"layer"), ALICE)
    digest = push_image(registry, "app", "v1", [b"layer"])
    deleted = site.delete(digest)
    assert (deleted.freed_bytes, deleted.leased_bytes) == (len(b"layer" + b"{}"), 0)


# --- repositories ---------------------------------------------------------------------------------


def test_the_last_manifest_s_deletion_removes_the_repository(
    site: Site, registry: Registry
) -> None:
    digest = image(registry, "v1", b"layer")
    site.delete(digest)
    assert list_repositories(registry, 10, None, WITHOUT_ACCOUNTS).items == ()
    with pytest.raises(NameUnknown):
        list_tags(registry, APP, 10, None)
    assert registry.read(lambda tx: find_repository(tx, APP)) is None


def test_a_repository_with_an_upload_session_stays_for_it(site: Site, registry: Registry) -> None:
    """A first push that races with the last delete succeeds; until then none is listed."""
    digest = image(registry, "v1", b"layer")
    upload = start_upload(registry, APP, ALICE)
    site.delete(digest)
    assert list_repositories(registry, 10, None, WITHOUT_ACCOUNTS).items == ()
    session = append_upload(registry, APP, upload.id, ALICE)
    session.write(b"{}")
    session.commit(digest_of(b"{}"))
    push_manifest(registry, "app", "v2", image_manifest([]))
    assert list_repositories(registry, 10, None, WITHOUT_ACCOUNTS).items == ("app",)


def test_a_repository_without_manifests_goes_with_its_last_promise(
    site: Site, registry: Registry
) -> None:
    push_blob(registry, "app", b"{}")
    settle(registry)
    assert registry.read(lambda tx: find_repository(tx, APP)) is not None
    site.clock.advance(registry.limits.lease.total_seconds())
    assert site.erased_bytes() == 2
    assert registry.read(lambda tx: find_repository(tx, APP)) is None


def test_a_deleted_repository_is_invisible_at_once(site: Site, registry: Registry) -> None:
    digest = image(registry, "v1", b"layer")
    image(registry, None, b"signature", subject=digest)
    upload = start_upload(registry, APP, ALICE)
    delete_repository(registry, APP, ALICE)
    assert list_repositories(registry, 10, None, WITHOUT_ACCOUNTS).items == ()
    assert list_referrers(registry, APP, digest, None, 10, None).descriptors == ()
    with pytest.raises(NameUnknown):
        list_tags(registry, APP, 10, None)
    for reference in (digest, V1):
        with pytest.raises(NameUnknown):
            get_manifest(registry, APP, reference)
    with pytest.raises(BlobUnknown):
        stat_blob(registry, APP, digest_of(b"layer"))
    with pytest.raises(NameUnknown):
        delete_repository(registry, APP, ALICE)
    # A push under way knows nothing of it, and goes on (R16).
    assert get_upload(registry, APP, upload.id, ALICE).offset == 0


def test_a_deleted_repository_is_erased_in_batches(
    site: Site, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything in it: images, indexes, loose blobs; but no upload that is open (R16)."""
    monkeypatch.setattr(reclaim, "ERASE_BATCH", 2)
    kept = plant_image(registry, "other", "v1", [b"shared"])
    images = [image(registry, f"v{number}", b"layer %d" % number) for number in range(4)]
    push_index(registry, "app", "all", images)
    image(registry, "shared", b"shared")
    plant_blobs(registry, "app", [b"loose"])
    uploads = [start_upload(registry, APP, ALICE) for _ in range(3)]
    for upload in uploads:
        session = append_upload(registry, APP, upload.id, ALICE, start=0)
        session.write(b"part")
        session.close()
    delete_repository(registry, APP, ALICE)
    batches = 0
    while reclaim.erase_deleted(registry):
        batches += 1
        assert_sound(registry)
    assert batches > 3
    site.erased_bytes()
    assert site.stored_bytes() == len(b"shared" + b"{}") + 3 * len(b"part")
    for upload in uploads:
        cancel_upload(registry, APP, upload.id, ALICE)
    site.erased_bytes()
    assert site.stored_bytes() == len(b"shared" + b"{}")
    assert get_manifest(registry, OTHER, V1).digest == kept
    query = sa.select(content.repositories.c.name)
    assert registry.read(lambda tx: list(tx.execute_directly(query).scalars())) == ["other"]


def test_a_repository_being_erased_can_be_pushed_to(
    site: Site, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R16: it is a new repository; nothing of the old one shows, nothing of the new one is lost."""
    monkeypatch.setattr(reclaim, "ERASE_BATCH", 1)
    old = [image(registry, f"v{number}", b"shared", b"%d" % number) for number in range(3)]
    delete_repository(registry, APP, ALICE)
    reclaim.erase_deleted(registry)
    new = push_image(registry, "app", "new", [b"shared", b"new"])
    assert list_tags(registry, APP, 10, None).items == ("new",)
    assert site.has(new, *old) == {new}
    settle(registry)
    site.erased_bytes()
    assert site.has(new, *old) == {new}
    assert site.stored_bytes() == len(b"shared" + b"new" + b"{}")


def test_several_deleted_repositories_of_one_name_are_erased(
    site: Site, registry: Registry
) -> None:
    for number in range(3):
        image(registry, "v1", b"%d" % number)
        delete_repository(registry, APP, ALICE)
    site.erased_bytes()
    assert site.stored_bytes() == 0


# --- the bytes ------------------------------------------------------------------------------------


def test_what_a_deletion_reports_is_what_leaves_the_store(site: Site, registry: Registry) -> None:
    """deletion.md section 1, promise 3, to the byte: shared layers within the repository and
    beyond, layers named twice, an empty one, one blob under two digests."""
    base, twice, own = b"base" * 100, b"twice" * 10, b"own" * 1000
    plant_image(registry, "other", "v1", [b"elsewhere" * 50])
    image(registry, "kept", base)
    digest = image(registry, "v1", base, twice, twice, own, b"", b"elsewhere" * 50)
    before = site.stored_bytes()
    deleted = site.delete(digest)
    assert deleted.freed_bytes == len(twice) + len(own)
    assert site.stored_bytes() == before, "nothing is erased while a client may be reading it"
    assert site.erased_bytes() == deleted.freed_bytes
    assert site.stored_bytes() == before - deleted.freed_bytes


def test_one_blob_under_two_digests_is_two_blobs(site: Site, registry: Registry) -> None:
    data = b"some bytes"
    for algorithm in ("sha256", "sha512"):
        upload = start_upload(registry, APP, ALICE, algorithm)
        session = append_upload(registry, APP, upload.id, ALICE)
        session.write(data)
        session.commit(digest_of(data, algorithm))
    push_blob(registry, "app", b"{}")
    manifest = image_manifest([data])
    manifest["layers"].append(manifest["layers"][0] | {"digest": digest_of(data, "sha512")})
    digest = push_manifest(registry, "app", "v1", manifest)
    assert site.delete(digest).freed_bytes == 2 * len(data) + len(b"{}")
    assert site.erased_bytes() == 2 * len(data) + len(b"{}")


def test_the_bill_adds_up_all_the_way(site: Site, registry: Registry) -> None:
    """deletion.md section 1, promise 4: stored = live + pending, reclaimed = erased (I15, I16)."""
    digest = image(registry, "v1", b"layer")
    image(registry, "v2", b"other layer")

    def bill() -> tuple[int, int, int]:
        found = registry.read(totals)
        return found["blob_bytes"], found["pending_bytes"], found["reclaimed_bytes"]

    assert bill() == (18, 0, 0)
    site.delete(digest)
    assert bill() == (13, 5, 0)
    assert site.stored_bytes() == 18
    site.erased_bytes()
    assert bill() == (13, 0, 5)
    assert site.stored_bytes() == 13


def test_a_deletion_waits_for_requests_that_are_about_to_read(
    site: Site, registry: Registry
) -> None:
    """deletion.md section 3, read grace."""
    site.delete(image(registry, "v1", b"layer"))
    settle(registry)
    assert site.stored_bytes() == 7
    site.clock.advance(registry.limits.read_grace.total_seconds())
    settle(registry)
    assert site.stored_bytes() == 0


def test_the_cost_follows_the_deletion_and_not_the_registry(site: Site, registry: Registry) -> None:
    """deletion.md section 1, promise 5: as many statements among 30 other images as among 3."""

    def cost(others: int) -> int:
        for number in range(others):
            image(registry, f"other{number}", b"shared", b"%d of %d" % (number, others))
        digest = image(registry, "v1", b"shared", b"own")
        with listened(registry.db) as sent:
            site.delete(digest)
            return len(sent)

    assert cost(others=3) == cost(others=30)


def test_a_manifest_without_blobs_frees_nothing(site: Site, registry: Registry) -> None:
    raw = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    digest = push_manifest(registry, "app", "v1", raw)
    assert digest == descriptor(INDEX, json.dumps(raw).encode())["digest"]
    assert site.delete(digest) == Deleted((digest,), (V1,), 0, 0)


# --- clients that know nothing of referrers -------------------------------------------------------

AZ, ACR, COSIGN = (
    Caller("alice", "127.0.0.1", agent)
    for agent in (
        "python-requests/2.28.2",
        "Go/go1.21.5 (amd64-linux) go-autorest/v14.2.1",
        "cosign/v2.4.1 (linux; amd64) go-containerregistry/v0.20.2",
    )
)


@pytest.mark.parametrize("tagged", [False, True], ids=["subject", "tag"])
@pytest.mark.parametrize(
    ("protect", "refused", "may"),
    [("az", [AZ, ACR], COSIGN), ("all", [AZ, ACR, COSIGN], None), ("none", [], AZ)],
)
def test_a_living_images_referrer_is_not_deleted_by_who_knows_nothing_of_it(
    db: Database,
    store: MemoryBlobStore,
    clock: FakeClock,
    protect: str,
    refused: list[Caller],
    may: Caller | None,
    tagged: bool,
) -> None:
    """Promise 6: `[?tags[0]==null]`, Microsoft's present query, selects signatures, too."""
    registry = registry_on(db, store, clock, limits=Limits(protect_referrers=protect))
    image = push_image(registry, "app", "v1", [b"v1"])
    tag = f"{image.replace(':', '-')}.sig" if tagged else None
    subject = None if tagged else image
    signature = push_image(registry, "app", tag, [b"signature"], subject=subject)
    for caller in refused:
        with pytest.raises(OperationDisallowed) as refusal:
            delete_manifest(registry, APP, signature, caller)
        assert image in refusal.value.message
        assert "--protect-referrers" in refusal.value.message
    if may is not None:
        assert delete_manifest(registry, APP, signature, may).manifests == (signature,)
    else:
        assert signature in delete_manifest(registry, APP, image, COSIGN).manifests


def test_az_may_delete_a_referrer_of_what_is_not_there(registry: Registry) -> None:
    missing = digest_of(b"missing")
    stray = push_image(registry, "app", None, [b"stray"], subject=missing)
    assert delete_manifest(registry, APP, stray, AZ).manifests == (stray,)
